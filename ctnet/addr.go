package ctnet

import (
	"fmt"
	"net"
)

// An Addr is an address of network "ct". The address of a listener is its name, and so is the
// remote address of a dialed connection. The address of a dialing end is its application's
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

// isTCP reports whether an address is of network tcp.
func isTCP(a net.Addr) bool {
	_, ok := a.(*net.TCPAddr)
	return ok
}
