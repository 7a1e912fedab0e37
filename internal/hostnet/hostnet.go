// Package hostnet asks the kernel about its own network: namespaces, addresses, ports, and
// the sockets of listeners that package net has made.
package hostnet

import (
	"net"
	"net/netip"
	"syscall"
)

// IsHere reports whether an address belongs to this host: the kernel reaches
// such a one from the same address. Nothing is sent.
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

// OnlyIPv6 reports whether a listener on all addresses of IPv6 does not take IPv4.
func OnlyIPv6(kernel net.Listener) bool {
	raw := rawConn(kernel)
	if raw == nil {
		return true // it may not
	}
	only := true
	raw.Control(func(fd uintptr) { only = socketOnlyIPv6(fd) })
	return only
}

// rawConn returns the socket of a listener of the kernel's, or nil if it can't be had.
func rawConn(kernel net.Listener) syscall.RawConn {
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
