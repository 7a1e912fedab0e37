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

// On network tcp the dialing end of a connection has an address like any other: an
// IP address of this host and a port. The listener gives it, so that no two of its
// connections have the same at a time; and the port is one that the kernel does
// not choose for connections of its own, so that none of these has it either.

// freePorts are the ports that dialers get.
var freePorts = hostnet.FreePorts

// loopbacks is how many of the addresses from 127.0.0.1 on dialers of IPv4's
// loopback get, so that there are enough for all connections of an application.
const loopbacks = 8

// An origin is the address of a dialing end: a port, and which of the loopback
// addresses it is on, beginning with 0 for the one that was dialed.
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

// An originTable has the origins that a listener has given.
type originTable struct {
	mu   sync.Mutex
	used map[origin]struct{}
	next int // the one to try first: not one that was given back just now
}

// take returns an origin for a connection to the address dialed that no other one
// of the listener's has, or 0 if there is none.
func (t *originTable) take(dialed netip.AddrPort) origin {
	free := freePorts()
	n := free.Count()
	limit := n
	if ip := dialed.Addr(); ip.Is4() && ip.IsLoopback() {
		limit *= loopbacks
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used == nil {
		t.used = make(map[origin]struct{})
		// Another listener on this address, of a process that shares it or
		// comes after this one, most likely begins elsewhere.
		t.next = rand.IntN(n)
	}
	for range limit {
		i := t.next % limit
		t.next = i + 1
		o := origin(uint32(i/n)<<16 | free.At(i%n))
		if _, ok := t.used[o]; !ok && o.port() != dialed.Port() {
			t.used[o] = struct{}{}
			return o
		}
	}
	return 0
}

// give gives an origin back.
func (t *originTable) give(o origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.used, o)
}

// unnamed is the address of a unix socket without a name, as package net has it.
var unnamed = &net.UnixAddr{Name: "@", Net: "unix"}

// ends returns the address of the dialing end of a connection, given that of the
// accepting end. own is what it is on network "ct". An origin that is not 0 is to be
// given back when the connection is no more.
func (l *Listener) ends(accepted net.Addr, own *Addr) (net.Addr, origin, error) {
	switch a := accepted.(type) {
	case *net.TCPAddr:
		dialed := a.AddrPort()
		o := l.origins.take(dialed)
		if o == 0 {
			return nil, 0, syserr.New(syscall.ENOBUFS, "all ports that dialers can have are in use")
		}
		return o.addr(dialed.Addr()), o, nil
	case *net.UnixAddr:
		return unnamed, 0, nil
	}
	return own, 0, nil
}
