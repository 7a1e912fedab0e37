package hostnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Owns reports whether the kernel's socket belongs to a user at which a connect to an address would
// arrive: of a TCP address, whether he has made the listener, and of a socket file, whether the file
// is his.
func Owns(uid int, addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return owners.has(uid, netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port()))
	case *net.UnixAddr:
		var st unix.Stat_t
		return !IsAbstract(a.Name) && unix.Stat(a.Name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK && int(st.Uid) == uid
	}
	return false
}

// ownerTime is how long the owner of a TCP address is remembered. To ask for it costs more than to
// dial.
const ownerTime = time.Second

// owners are the owners of TCP addresses that were found last.
var owners ownerCache

type ownerCache struct {
	mu    sync.Mutex
	known map[netip.AddrPort]owner
}

type owner struct {
	uid   int
	until time.Time
}

func (c *ownerCache) has(uid int, addr netip.AddrPort) bool {
	now := time.Now()
	if OneNamespace() {
		c.mu.Lock()
		o, ok := c.known[addr]
		c.mu.Unlock()
		if ok && o.uid == uid && now.Before(o.until) {
			return true
		}
	}
	owned, ok := askOwner(addr)
	if !ok {
		owned = readOwner(addr)
	}
	if owned != uid {
		return false // it may be his by the next time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) > 1000 {
		c.known = make(map[netip.AddrPort]owner)
	}
	c.known[addr] = owner{uid, now.Add(ownerTime)}
	return true
}

// Messages of the kernel's sock_diag for TCP: linux/inet_diag.h.
type (
	inetDiagSockID struct {
		sport, dport [2]byte // big-endian
		src, dst     [16]byte
		iface        uint32
		cookie       [2]uint32
	}
	inetDiagReq struct {
		header              unix.NlMsghdr
		family, protocol    uint8
		extensions, padding uint8
		states              uint32
		id                  inetDiagSockID
	}
	inetDiagMsg struct {
		header                        unix.NlMsghdr
		family, state, timer, retrans uint8
		id                            inetDiagSockID
		expires, rqueue, wqueue       uint32
		uid, inode                    uint32
	}
)

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	tcpEstablished   = 1  // TCP_ESTABLISHED
	tcpListen        = 10 // TCP_LISTEN

	ownSockets = "/proc/thread-self/net" // of the calling thread's network namespace
)

// askOwner asks the kernel for the listener that it would choose for a connection to addr. It
// returns false if the kernel can't be asked.
func askOwner(addr netip.AddrPort) (uid int, ok bool) {
	// The source is the local end. The other one is the same host, with a port that nobody has.
	m, ok := askSocket(addr, netip.AddrPortFrom(addr.Addr(), 0), tcpListen)
	return int(m.uid), ok
}

// askSocket asks the kernel for the TCP socket with these addresses, which both are of one family,
// or for the listener at the local one. It returns false if the kernel can't be asked, or if that
// socket is in another state.
func askSocket(local, remote netip.AddrPort, state uint8) (m inetDiagMsg, ok bool) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return m, false
	}
	defer unix.Close(fd)
	req := inetDiagReq{
		family:   unix.AF_INET6,
		protocol: unix.IPPROTO_TCP,
		states:   1 << state,
		id:       inetDiagSockID{cookie: [2]uint32{^uint32(0), ^uint32(0)}},
	}
	req.header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(req)), Type: sockDiagByFamily, Flags: unix.NLM_F_REQUEST}
	if local.Addr().Is4() {
		req.family = unix.AF_INET
	}
	copy(req.id.src[:], local.Addr().AsSlice())
	copy(req.id.dst[:], remote.Addr().AsSlice())
	binary.BigEndian.PutUint16(req.id.sport[:], local.Port())
	binary.BigEndian.PutUint16(req.id.dport[:], remote.Port())
	b := unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return m, false
	}
	var answer [4096]byte
	n, from, err := unix.Recvfrom(fd, answer[:], unix.MSG_DONTWAIT) // the kernel has answered
	if kernel, ok := from.(*unix.SockaddrNetlink); err != nil || !ok || kernel.Pid != 0 || n < unix.SizeofNlMsghdr+4 {
		return m, false
	}
	switch kind := binary.NativeEndian.Uint16(answer[4:]); {
	case kind == unix.NLMSG_ERROR:
		return m, false // ENOENT: there is no such socket, or the kernel has no such module
	case kind != sockDiagByFamily || n < int(unsafe.Sizeof(m)):
		return m, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m)), answer[:n])
	return m, m.state == state
}

// readOwner looks for the listener in /proc/net/tcp, and returns -1 if there is none.
func readOwner(addr netip.AddrPort) (uid int) {
	uid = -1
	best := 0
	for s := range TCPSockets(ownSockets) {
		if s.State != tcpListen || s.Local.Port() != addr.Port() {
			continue
		}
		fit := 0
		switch ip := s.Local.Addr(); {
		case ip.Unmap() == addr.Addr():
			fit = 3
		case ip.IsUnspecified() && ip.Is4() == addr.Addr().Is4():
			fit = 2
		case ip.IsUnspecified() && ip.Is6():
			fit = 1 // of IPv6, and perhaps of IPv4 too
		}
		if fit > best {
			uid, best = s.UID, fit
		}
	}
	return uid
}
