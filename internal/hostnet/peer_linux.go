package hostnet

import (
	"fmt"
	"net"
	"os"
)

// PeerElsewhere reports whether the process at the other end of a unix socket, which the kernel has
// connected, is in another network namespace than the calling thread. It returns false if that can't
// be found out.
func PeerElsewhere(kernel net.Conn) bool {
	peer := peerCred(kernel)
	if peer == nil || peer.Pid == 0 {
		return false
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", peer.Pid))
	if err != nil {
		return false
	}
	own, ok := NetNamespace()
	return ok && theirs != own
}
