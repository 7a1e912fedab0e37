// Package netif sets up network interfaces, for tests and examples that make network namespaces.
package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Up gives a network interface of this thread's network namespace an
// address of IPv4, if one is said, and brings it up.
func Up(name string, address ...string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if len(address) > 0 {
		prefix, err := netip.ParsePrefix(address[0])
		if err != nil {
			return err
		}
		if err := req.SetInet4Addr(prefix.Addr().AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, req); err != nil {
			return err
		}
		req.SetInet4Addr(net.CIDRMask(prefix.Bits(), 32))
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, req); err != nil {
			return err
		}
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// AddVeth makes two network interfaces that are joined: one here, the other one in
// the network namespace of a process.
func AddVeth(name, peer string, pid int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	native := binary.NativeEndian
	attribute := func(kind uint16, parts ...[]byte) []byte {
		value := bytes.Join(parts, nil)
		b := native.AppendUint16(nil, uint16(4+len(value)))
		b = append(native.AppendUint16(b, kind), value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	const vethInfoPeer = 1 // VETH_INFO_PEER
	link := make([]byte, unix.SizeofIfInfomsg)
	body := bytes.Join([][]byte{
		link,
		attribute(unix.IFLA_IFNAME, []byte(name), []byte{0}),
		attribute(unix.IFLA_LINKINFO,
			attribute(unix.IFLA_INFO_KIND, []byte("veth")),
			attribute(unix.IFLA_INFO_DATA,
				attribute(vethInfoPeer, link,
					attribute(unix.IFLA_IFNAME, []byte(peer), []byte{0}),
					attribute(unix.IFLA_NET_NS_PID, native.AppendUint32(nil, uint32(pid)))))),
	}, nil)
	m := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = native.AppendUint16(m, unix.RTM_NEWLINK)
	m = native.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m = append(append(m, make([]byte, 8)...), body...) // sequence number, sender
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 1<<10)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("not an answer of netlink's")
	}
	if errno := -int32(native.Uint32(b[unix.SizeofNlMsghdr:])); errno != 0 {
		return os.NewSyscallError("RTM_NEWLINK", syscall.Errno(errno))
	}
	return nil
}
