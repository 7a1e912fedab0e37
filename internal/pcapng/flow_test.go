package pcapng

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"cutthrough.example/internal/packets"
	"github.com/stretchr/testify/require"
)

// TestFlow writes connections from any positions, of both families, and reads them back to the byte.
func TestFlow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, at := range []struct{ local, remote string }{
		{"127.0.0.1:8080", "127.0.0.1:5630"}, {"[::1]:8080", "[fe80::1]:5630"}, {"[::ffff:10.0.0.1]:1", "[::1]:2"},
	} {
		for _, start := range []uint64{0, 1, 1<<32 - 70_000, 1 << 40} {
			local, remote := netip.MustParseAddrPort(at.local), netip.MustParseAddrPort(at.remote)
			f := NewFlow(local, remote, Limits{}, start, 2*start)
			b := AppendHead(nil, "test", Interface{Name: "name", Description: "what", Comment: "why"})
			if start == 0 {
				b = f.Open(b, FromLocal, 7)
			}
			pos := [2]uint64{start, 2 * start}
			var want [2][]byte
			var err error
			for i := range 200 {
				direction := rnd.IntN(2)
				if i >= 50 {
					direction = FromLocal // the other side only acknowledges
				}
				data := make([]byte, 1+rnd.IntN(MaxPayload))
				if i < 10 {
					data = data[:1+i] // of all paddings
				}
				for j := range data {
					data[j] = byte(rnd.Uint32())
				}
				b, err = f.Data(b, direction, pos[direction], data, int64(i)<<31, 0)
				require.NoError(t, err)
				want[direction] = append(want[direction], data...)
				pos[direction] += uint64(len(data))
			}
			b, err = f.Fin(b, FromLocal, pos[FromLocal], 1, 0)
			require.NoError(t, err)
			b, err = f.Data(b, FromRemote, pos[FromRemote], []byte("last"), 1, 0)
			require.NoError(t, err)
			b, err = f.Reset(b, FromRemote, pos[FromRemote]+4, 1, 0)
			require.NoError(t, err)
			b = AppendTail(b, 1, f.Packets, f.Dropped, "")
			sent, received := f.Positions()
			require.Equal(t, []uint64{pos[0], pos[1] + 4}, []uint64{sent, received})

			file, err := packets.Read(b)
			require.NoError(t, err)
			require.Equal(t, []string{"name", "what", "why"}, []string{file.Interface[2], file.Interface[3], file.Interface[1]})
			require.Len(t, file.Packets, int(f.Packets))
			require.Contains(t, file.Tail, uint16(5))
			out, in, err := file.Streams(local)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want[FromLocal], out.Data))
			require.True(t, bytes.Equal(append(want[FromRemote], "last"...), in.Data))
			require.Equal(t, []uint64{start & (1<<32 - 1), 2 * start & (1<<32 - 1)}, []uint64{out.Start & (1<<32 - 1), in.Start & (1<<32 - 1)})
			require.True(t, out.Fin && !out.Reset && in.Reset && !in.Fin)
			require.Zero(t, out.Missed+in.Missed)
			require.Equal(t, start == 0, file.Packets[0].Flags == packets.SYN)
		}
	}
}

// TestFlowMissing has bytes that are missing, and positions that can't be.
func TestFlowMissing(t *testing.T) {
	local, remote := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	f := NewFlow(local, remote, Limits{}, 0, 0)
	b := f.Open(AppendHead(nil, "test", Interface{}), FromRemote, 0)
	b, err := f.Data(b, FromRemote, 0, []byte("hello"), 0, 0)
	require.NoError(t, err)
	b, err = f.Data(b, FromRemote, 1005, []byte("again"), 0, 3)
	require.NoError(t, err)
	for _, pos := range []uint64{0, 1004, 1009} {
		_, err = f.Data(nil, FromRemote, pos, []byte("x"), 0, 0)
		require.Error(t, err, pos)
	}
	_, err = f.Data(nil, FromRemote, 1010, make([]byte, MaxPayload+1), 0, 0)
	require.Error(t, err)
	b, err = f.Fin(b, FromRemote, 1012, 0, 1)
	require.NoError(t, err)
	_, err = f.Data(nil, FromRemote, 1013, []byte("x"), 0, 0)
	require.Error(t, err)
	f.Missed(2)
	b = AppendTail(b, 0, f.Packets, f.Dropped, "some are missing")
	file, err := packets.Read(b)
	require.NoError(t, err)
	out, _, err := file.Streams(remote)
	require.NoError(t, err)
	require.Equal(t, packets.Stream{Data: []byte("helloagain"), Missed: 1002, Gaps: 2, Fin: true}, out)
	require.Equal(t, "some are missing", file.Tail[1])
	require.EqualValues(t, 6, f.Dropped)
	var said uint64
	for _, p := range file.Packets {
		said += p.Dropped
	}
	require.EqualValues(t, 4, said)
	require.Contains(t, fmt.Sprint(file.Packets), "1000 bytes before this packet are missing in this file")
}

// TestFlowLimits cuts packets, and ends with the right one.
func TestFlowLimits(t *testing.T) {
	local, remote := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	for _, l := range []Limits{{SnapLen: 50}, {SnapLen: 1}, {Count: 4}, {Count: 2}} {
		f := NewFlow(local, remote, l, 0, 0)
		b := f.Open(AppendHead(nil, "test", Interface{SnapLen: l.SnapLen}), FromLocal, 0)
		for i := range uint64(3) {
			var err error
			b, err = f.Data(b, FromLocal, 100*i, bytes.Repeat([]byte("x"), 100), 0, 0)
			require.NoError(t, err)
		}
		require.Equal(t, l.Count > 0, f.Full())
		file, err := packets.Read(b)
		require.NoError(t, err)
		switch {
		case l.Count > 0:
			require.Len(t, file.Packets, int(l.Count))
		case l.SnapLen == 50:
			require.Len(t, file.Packets, 6)
			require.Equal(t, strings.Repeat("x", 10), string(file.Packets[5].Data))
			require.Equal(t, 100, file.Packets[5].Size)
		}
	}
}

// TestText has names that are too long, or no text.
func TestText(t *testing.T) {
	file, err := packets.Read(AppendHead(nil, "p", Interface{Name: "a\xff", Comment: strings.Repeat("ä", 100_000)}))
	require.NoError(t, err)
	require.Equal(t, "a?", file.Interface[2])
	require.LessOrEqual(t, len(file.Interface[1]), maxText+1)
}
