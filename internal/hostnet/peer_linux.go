package hostnet

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PeerElsewhere reports whether the process at the other end of a unix socket, which the kernel has
// connected, is in another network namespace than the calling thread. It returns false if that can't
// be found out.
func PeerElsewhere(kernel net.Conn) bool {
	c, ok := kernel.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || peer == nil || peer.Pid == 0 {
		return false
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", peer.Pid))
	if err != nil {
		return false
	}
	own, ok := NetNamespace()
	return ok && theirs != own
}
