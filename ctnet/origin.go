package ctnet

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/syserr"
)

// On network tcp the dialing end of a connection has an IP address of this host and a port.
// The listener allocates them, so that no two of its connections have the same at a time. The
// kernel does not choose such a port for its own connections, so none of these has it either.

// originPorts returns the ports that dialers get.
var originPorts = hostnet.NonEphemeralPorts

// loopbacks is how many loopback addresses dialers of IPv4's loopback get, so that there are
// enough origins for all connections of an application.
const loopbacks = 8

// An origin is the address of a dialing end: in the lower 16 bits a port, and above them the
// number of the loopback address, which is 0 for the dialed one.
type origin uint32

func (o origin) port() uint16 { return uint16(o) }

// addr returns the address of an origin for connections to the address dialed.
func (o origin) addr(dialed netip.Addr) *net.TCPAddr {
	if k := o >> 16; k > 0 && dialed.Is4() && dialed.IsLoopback() {
		b := dialed.As4()
		b[2] += byte(k)
		dialed = netip.AddrFrom4(b)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(dialed, o.port()))
}

// An originTable has the origins that a listener has allocated.
type originTable struct {
	mu   sync.Mutex
	used map[origin]struct{}
	next int // the one to try first: not one that was freed just now
}

// alloc returns an origin for a connection to the address dialed that no other connection of
// the listener has, or 0 if none is free.
func (t *originTable) alloc(dialed netip.AddrPort) origin {
	ports := originPorts()
	n := ports.Count()
	limit := n
	if ip := dialed.Addr(); ip.Is4() && ip.IsLoopback() {
		limit *= loopbacks
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used == nil {
		t.used = make(map[origin]struct{})
		// A listener of another process that shares the address, or has it later,
		// most likely begins at another origin.
		t.next = rand.IntN(n)
	}
	for range limit {
		i := t.next % limit
		t.next = i + 1
		o := origin(uint32(i/n)<<16 | ports.At(i%n))
		if _, ok := t.used[o]; !ok && o.port() != dialed.Port() {
			t.used[o] = struct{}{}
			return o
		}
	}
	return 0
}

// free makes an origin free again.
func (t *originTable) free(o origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.used, o)
}

// unnamed is the address of a unix socket without a name, as package net has it.
var unnamed = &net.UnixAddr{Name: "@", Net: "unix"}

// ends returns the address of the dialing end of a connection, given the address of the
// accepting end. own is the result on network "ct". If the origin is not 0 the caller frees it
// when the connection has ended.
func (l *Listener) ends(accepted net.Addr, own *Addr) (net.Addr, origin, error) {
	switch a := accepted.(type) {
	case *net.TCPAddr:
		dialed := a.AddrPort()
		o := l.origins.alloc(dialed)
		if o == 0 {
			return nil, 0, syserr.New(syscall.ENOBUFS, "all ports that dialers can have are in use")
		}
		return o.addr(dialed.Addr()), o, nil
	case *net.UnixAddr:
		return unnamed, 0, nil
	}
	return own, 0, nil
}
