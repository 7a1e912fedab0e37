package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cutthrough.example/ctnet"
)

// The kernel's TCP sockets of the processes that use ctnet, from /proc. On systems that have none there
// is nothing to be seen.

// A kernelConn is a TCP socket of the kernel's.
type kernelConn struct {
	PID           int
	Network       string
	State         string
	Local, Remote string
	RecvQueue     int // of a listener: connections that wait
	SendQueue     int // -1 for a listener: its limit is not known
}

// kernelConns returns the sockets of the applications' processes. The error says whose can't be
// seen.
func kernelConns(apps []ctnet.Snapshot) (all []kernelConn, err error) {
	seen := make(map[int]bool)
	tables := make(map[string]map[string]kernelConn) // by network namespace, and inode
	for _, a := range apps {
		if seen[a.PID] {
			continue
		}
		seen[a.PID] = true
		proc := fmt.Sprintf("/proc/%d", a.PID)
		inodes, fdErr := socketInodes(filepath.Join(proc, "fd"))
		if fdErr != nil {
			if !errors.Is(fdErr, os.ErrNotExist) { // it has exited
				err = errors.Join(err, fmt.Errorf("the kernel's sockets of process %d: %w", a.PID, fdErr))
			}
			continue
		}
		netns, _ := os.Readlink(filepath.Join(proc, "ns/net"))
		table := tables[netns]
		if table == nil {
			table = make(map[string]kernelConn)
			for _, name := range []string{"tcp", "tcp6"} {
				if f, openErr := os.Open(filepath.Join(proc, "net", name)); openErr == nil {
					readSockets(f, table)
					f.Close()
				}
			}
			tables[netns] = table
		}
		for _, inode := range inodes {
			if k, ok := table[inode]; ok {
				k.PID = a.PID
				all = append(all, k)
			}
		}
	}
	return all, err
}

// socketInodes returns the numbers of a process's sockets.
func socketInodes(dir string) (inodes []string, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		link, _ := os.Readlink(filepath.Join(dir, n))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes, err
}

// kernelStates are the states in /proc/net/tcp.
var kernelStates = map[string]string{
	"01": ctnet.StateEstablished, "02": "SYN-SENT", "03": "SYN-RECV", "04": "FIN-WAIT-1", "05": "FIN-WAIT-2", "06": "TIME-WAIT",
	"07": ctnet.StateClosed, "08": ctnet.StateCloseWait, "09": "LAST-ACK", "0A": stateListen, "0B": ctnet.StateClosing,
}

// readSockets reads a /proc/net/tcp.
func readSockets(from io.Reader, into map[string]kernelConn) {
	for s := bufio.NewScanner(from); s.Scan(); {
		// sl local rem st tx:rx tr:when retrnsmt uid timeout inode
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		local, ok := parseHexAddr(f[1])
		remote, ok2 := parseHexAddr(f[2])
		tx, rx, ok3 := strings.Cut(f[4], ":")
		if !ok || !ok2 || !ok3 {
			continue
		}
		k := kernelConn{Network: "tcp", State: kernelStates[f[3]], Local: local.String(), Remote: remote.String()}
		k.SendQueue, k.RecvQueue = parseHex(tx), parseHex(rx)
		if k.State == stateListen {
			k.Remote, k.SendQueue = "*", -1
		}
		into[f[9]] = k
	}
}

func parseHex(s string) int {
	n, _ := strconv.ParseUint(s, 16, 32)
	return int(n)
}

// parseHexAddr parses an address of /proc/net/tcp: words of four bytes in the machine's order, which
// is little-endian on all that Go and ctnet run on but s390x, and the port.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), uint16(parseHex(port))), ok
}
