package hostnet

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A TCPSocket is a line of the kernel's table of TCP sockets, /proc/net/tcp or tcp6.
type TCPSocket struct {
	Local, Remote netip.AddrPort
	State         uint8 // TCP_ESTABLISHED and so on
	SendQueue     int
	RecvQueue     int // of a listener: connections that wait
	UID           int
	Inode         uint64 // 0 if no process has it open
}

// TCPSockets returns the TCP sockets of a network namespace, whose tables are in a directory such as
// /proc/self/net. Where there are none it returns nothing. Lines are read one at a time, as there can be
// a hundred thousand of them.
func TCPSockets(dir string) iter.Seq[TCPSocket] {
	return func(yield func(TCPSocket) bool) {
		for _, name := range []string{"tcp", "tcp6"} {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			more := readTCPSockets(f, yield)
			f.Close()
			if !more {
				return
			}
		}
	}
}

// readTCPSockets reads one table. It returns false if yield does not want more.
func readTCPSockets(from io.Reader, yield func(TCPSocket) bool) bool {
	for s := bufio.NewScanner(from); s.Scan(); {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		local, ok := parseProcAddr(f[1])
		remote, ok2 := parseProcAddr(f[2])
		state, err := strconv.ParseUint(f[3], 16, 8)
		tx, rx, ok3 := strings.Cut(f[4], ":")
		send, err2 := strconv.ParseUint(tx, 16, 32)
		recv, err3 := strconv.ParseUint(rx, 16, 32)
		uid, err4 := strconv.Atoi(f[7])
		inode, err5 := strconv.ParseUint(f[9], 10, 64)
		if !ok || !ok2 || !ok3 || err != nil || err2 != nil || err3 != nil || err4 != nil || err5 != nil {
			continue // the heading
		}
		if !yield(TCPSocket{local, remote, uint8(state), int(send), int(recv), uid, inode}) {
			return false
		}
	}
	return true
}

// parseProcAddr parses an address of /proc/net/tcp: its 32-bit words are in the machine's order.
func parseProcAddr(s string) (addr netip.AddrPort, ok bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return addr, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip, uint16(p)), ok
}
