package hostnet

import (
	"math"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SocketUID returns the user who has made a TCP socket of this host: the one with this local and
// remote address, in the calling thread's network namespace. It returns false if there is no such
// socket that is connected, or if no process has it open: the kernel gives a socket that was closed
// to root.
func SocketUID(local, remote netip.AddrPort) (uid int, ok bool) {
	local, remote = plain(local), plain(remote)
	if local.Addr().Is4() != remote.Addr().Is4() {
		return -1, false
	}
	if m, ok := askSocket(local, remote, tcpEstablished); ok && m.inode != 0 {
		return int(m.uid), true
	}
	return readSocketUID(local, remote)
}

// plain returns an address as the kernel's tables have it.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// readSocketUID looks for the socket in /proc/net/tcp.
func readSocketUID(local, remote netip.AddrPort) (uid int, ok bool) {
	for s := range TCPSockets(ownSockets) {
		if s.State == tcpEstablished && s.Inode != 0 && plain(s.Local) == local && plain(s.Remote) == remote {
			return s.UID, true
		}
	}
	return -1, false
}

// PeerUID returns the user whose process has connected a unix socket of the kernel's. It returns
// false for other connections.
func PeerUID(kernel net.Conn) (uid int, ok bool) {
	peer := peerCred(kernel)
	if peer == nil || peer.Uid == math.MaxUint32 { // of another family
		return -1, false
	}
	return int(peer.Uid), true
}

// peerCred returns the credentials of the process that has connected a unix socket, or nil if the
// connection doesn't give access to its socket. Sockets of other families have the UID -1.
func peerCred(kernel net.Conn) (peer *unix.Ucred) {
	raw := rawConn(kernel)
	if raw == nil {
		return nil
	}
	var err error
	raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return nil
	}
	return peer
}
