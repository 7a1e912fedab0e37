package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/hostnet"
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
// seen. Each network namespace's table is read once, and nothing is kept of sockets of other processes,
// of which there may be a hundred thousand.
func kernelConns(apps []ctnet.Snapshot) (all []kernelConn, err error) {
	seen := make(map[int]bool)
	tables := make(map[string]string)           // a directory of each network namespace
	owners := make(map[string]map[uint64][]int) // processes by network namespace, and inode
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
		if owners[netns] == nil {
			owners[netns] = make(map[uint64][]int)
		}
		tables[netns] = filepath.Join(proc, "net")
		for _, inode := range inodes {
			owners[netns][inode] = append(owners[netns][inode], a.PID)
		}
	}
	for netns, dir := range tables {
		for s := range hostnet.TCPSockets(dir) {
			for _, pid := range owners[netns][s.Inode] {
				k := newKernelConn(s)
				k.PID = pid
				all = append(all, k)
			}
		}
	}
	return all, err
}

// socketInodes returns the numbers of a process's sockets.
func socketInodes(dir string) (inodes []uint64, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		link, _ := os.Readlink(filepath.Join(dir, n))
		if number, ok := strings.CutPrefix(link, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); err == nil {
				inodes = append(inodes, inode)
			}
		}
	}
	return inodes, err
}

// kernelStates are the kernel's states, by number.
var kernelStates = map[uint8]string{
	1: ctnet.StateEstablished, 2: "SYN-SENT", 3: "SYN-RECV", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
	7: ctnet.StateClosed, 8: ctnet.StateCloseWait, 9: "LAST-ACK", 10: stateListen, 11: ctnet.StateClosing,
}

// newKernelConn returns a socket as it is shown, without its process.
func newKernelConn(s hostnet.TCPSocket) kernelConn {
	k := kernelConn{Network: "tcp", State: kernelStates[s.State], Local: shown(s.Local), Remote: shown(s.Remote), RecvQueue: s.RecvQueue, SendQueue: s.SendQueue}
	if k.State == stateListen {
		k.Remote, k.SendQueue = "*", -1
	}
	return k
}

// shown returns an address as package net writes it.
func shown(a netip.AddrPort) string { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String() }
