// Package hostnet asks the kernel about its network: namespaces, addresses, ports, and the
// sockets of listeners that package net has made.
package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// ErrNoNamespace means that the calling thread's network namespace is not known.
var ErrNoNamespace = errors.New("the network namespace can't be determined; is /proc mounted?")

// IsHere reports whether an address belongs to this host: then the local address of a UDP
// socket that is connected to it is the same address. Nothing is sent.
func IsHere(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 9)))
	if err != nil {
		return false
	}
	defer c.Close()
	local, _ := netip.AddrFromSlice(c.LocalAddr().(*net.UDPAddr).IP)
	return local.Unmap() == ip
}

// OnlyIPv6 reports whether a listener on all addresses of IPv6 does not accept IPv4. It returns
// true if that can't be found out.
func OnlyIPv6(kernel net.Listener) bool {
	raw := rawConn(kernel)
	if raw == nil {
		return true
	}
	only := true
	raw.Control(func(fd uintptr) { only = socketOnlyIPv6(fd) })
	return only
}

// rawConn returns the socket of a listener or connection of the kernel's, or nil if that doesn't give
// access to it.
func rawConn(kernel any) syscall.RawConn {
	c, ok := kernel.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
