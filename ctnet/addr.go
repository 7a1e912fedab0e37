package ctnet

import (
	"fmt"
	"net"
)

// An Addr is an address of network "ct". The address of a listener is its name, which Dial takes,
// and so is the remote address of a dialed connection. The address of a dialing end is its application's
// identity and the connection's number, as in "5f3c0a1b9d2e4c71:42". net.SplitHostPort
// understands this form, and no other live connection has the same address.
type Addr struct {
	name   string
	app    uint64
	number uint64
}

// Network returns "ct".
func (a *Addr) Network() string { return networkCT }

func (a *Addr) String() string {
	if a.name != "" {
		return a.name
	}
	return fmt.Sprintf("%016x:%d", a.app, a.number)
}

// A family is the 4 or 6 that ends the name of a network, or 0. Addresses of networks "tcp4" and
// "tcp6" say that they are of network "tcp", but errors have the name that the program gave.
type family uint8

// familyOf returns the family of a network.
func familyOf(network string) family {
	switch network {
	case "tcp4":
		return 4
	case "tcp6":
		return 6
	}
	return 0
}

// network returns the name of the network of an address for errors.
func (f family) network(a net.Addr) string {
	switch f {
	case 4:
		return "tcp4"
	case 6:
		return "tcp6"
	}
	return a.Network()
}

// isTCP reports whether an address is of network tcp.
func isTCP(a net.Addr) bool {
	_, ok := a.(*net.TCPAddr)
	return ok
}
