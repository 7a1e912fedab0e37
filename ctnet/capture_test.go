package ctnet

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/packets"
	"cutthrough.example/internal/tap"
)

// FuzzCapture has a captured process say anything. What is written is a file that can be read.
func FuzzCapture(f *testing.F) {
	all := (&tap.Record{Kind: tap.Start, Data: []byte(`{"Network":"tcp","Local":"[::1]:1","Remote":"10.0.0.1:2","Dialed":true}`)}).Append(nil)
	for kind := uint32(tap.Sent); kind <= tap.Over; kind++ {
		r := tap.Record{Kind: kind, Pos: uint64(kind), Dropped: kind, Time: 1 << 60}
		if kind <= tap.Received {
			r.Data = []byte("hello")
		}
		all = r.Append(all)
		f.Add(all)
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		var out bytes.Buffer
		file := captureFile{w: &out, about: "\x00\xff"}
		file.write(block)
		require.NoError(t, file.end())
		if out.Len() > 0 {
			_, err := packets.Read(out.Bytes())
			require.NoError(t, err)
		}
		require.Less(t, out.Len(), 200*len(block)+10_000)
		file.counts()
	})
}

// TestCaptureAddresses has the addresses of a capture's packets.
func TestCaptureAddresses(t *testing.T) {
	for _, test := range []struct {
		c             captured
		local, remote string
		invented      bool
	}{
		{captured{Network: "tcp", Local: "127.0.0.1:1", Remote: "127.0.0.1:2"}, "127.0.0.1:1", "127.0.0.1:2", false},
		{captured{Network: "tcp", Local: "[::ffff:1.2.3.4]:1", Remote: "1.2.3.5:2"}, "1.2.3.4:1", "1.2.3.5:2", false},
		{captured{Network: "tcp", Local: "[fe80::1%eth0]:1", Remote: "1.2.3.5:2"}, "[fe80::1]:1", "[::ffff:1.2.3.5]:2", false},
		{captured{Network: "ct", Local: "svc/x", Remote: "1:2", Dialed: true}, "192.0.2.1:60001", "192.0.2.2:60002", true},
		{captured{Network: "ct", Local: "127.0.0.1:1", Remote: "127.0.0.1:2"}, "192.0.2.2:60002", "192.0.2.1:60001", true},
		{captured{Network: "tcp", Local: "*", Remote: "127.0.0.1:2"}, "192.0.2.2:60002", "192.0.2.1:60001", true},
	} {
		local, remote, invented := test.c.addresses()
		require.Equal(t, []any{test.local, test.remote, test.invented}, []any{local.String(), remote.String(), invented})
	}
}
