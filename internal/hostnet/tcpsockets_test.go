package hostnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/leakcheck"
)

// TestTCPSockets reads what the kernel writes on a little-endian machine, and anything else.
func TestTCPSockets(t *testing.T) {
	leakcheck.Check(t)
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table is that of a little-endian machine")
	}
	const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(heading+text), 0o644))
	}
	require.Empty(t, slices.Collect(TCPSockets(dir)), "there are no tables")
	write("tcp", `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000    17        0 4711 1 0000000000000000 100 0 0 10 0
garbage
   3: zz:1 0:2 01 0 0 0 0 0 0 0 0
   3: 0100007F:1F90 00000000:0000 0A 00000000:xx 00:00000000 00000000    17        0 4711
   3: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000    17        0 many
`)
	write("tcp6", `   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:D431 01 00000010:00000005 00:00000000 00000000     0        0 4712 1 0000000000000000
   2: 00000000000000000000000001000000:0050 00000000000000000000000001000000:C000 08 00000000:00000000 00:00000000 00000000     0        0 0
`)
	at := netip.MustParseAddrPort
	want := []TCPSocket{
		{Local: at("127.0.0.1:8080"), Remote: at("0.0.0.0:0"), State: 10, RecvQueue: 3, UID: 17, Inode: 4711},
		{Local: at("[::ffff:127.0.0.1]:8080"), Remote: at("[::ffff:127.0.0.1]:54321"), State: 1, SendQueue: 16, RecvQueue: 5, Inode: 4712},
		{Local: at("[::1]:80"), Remote: at("[::1]:49152"), State: 8},
	}
	require.Equal(t, want, slices.Collect(TCPSockets(dir)))
	for n := range want { // it can be left at any line
		var got []TCPSocket
		for s := range TCPSockets(dir) {
			if got = append(got, s); len(got) == n+1 {
				break
			}
		}
		require.Equal(t, want[:n+1], got)
	}
}

// TestManyTCPSockets reads a table of 300,000 lines without keeping it.
func TestManyTCPSockets(t *testing.T) {
	const lines = 300_000
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "tcp"))
	require.NoError(t, err)
	for i := range lines {
		fmt.Fprintf(f, "%4d: 0100007F:%04X 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 %d 1\n", i, i&0xffff, i+1)
	}
	require.NoError(t, f.Close())
	n, held := 0, uint64(0)
	for s := range TCPSockets(dir) {
		if n++; s.Inode != uint64(n) {
			require.Equal(t, n, s.Inode)
		}
		if n == lines-1 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			held = m.HeapAlloc
		}
	}
	require.Equal(t, lines, n)
	require.Less(t, held, uint64(16<<20), "the table has 30 MB")
}
