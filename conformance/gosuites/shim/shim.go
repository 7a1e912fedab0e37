// Package net stands in for package net in the suites of Go's own tree: what dials and
// listens can be something else, which package glue sets. Command gosuites adds the rest,
// every other name that package net exports, and compiles it inside Go's tree.
//
// ctnet itself can't be imported here, as it needs packages that import this one there.
package net

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// DialStream and ListenStream are what connects and listens on the networks tcp and
// unix, package net if they are nil.
var (
	DialStream   func(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error)
	ListenStream func(ctx context.Context, lc *net.ListenConfig, network, address string) (net.Listener, error)
)

// A Dialer is net.Dialer, but for the way its connections take.
type Dialer net.Dialer

// A ListenConfig is net.ListenConfig, but for the way connections come.
type ListenConfig net.ListenConfig

// Dial stands in for net.Dial.
func Dial(network, address string) (net.Conn, error) {
	return new(Dialer).Dial(network, address)
}

// DialTimeout stands in for net.DialTimeout.
func DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d := Dialer{Timeout: timeout}
	return d.Dial(network, address)
}

// Listen stands in for net.Listen.
func Listen(network, address string) (net.Listener, error) {
	return new(ListenConfig).Listen(context.Background(), network, address)
}

// Dial connects as DialContext does.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects with DialStream on the networks that it is for.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if DialStream == nil || !isStream(network) {
		return d.kernel().DialContext(ctx, network, address)
	}
	return DialStream(ctx, d.kernel(), network, address)
}

// Listen listens with ListenStream on the networks that it is for.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if ListenStream == nil || !isStream(network) {
		return lc.kernel().Listen(ctx, network, address)
	}
	return ListenStream(ctx, lc.kernel(), network, address)
}

func isStream(network string) bool {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
		return true
	}
	return false
}

// What follows is package net's own.

func (d *Dialer) kernel() *net.Dialer              { return (*net.Dialer)(d) }
func (lc *ListenConfig) kernel() *net.ListenConfig { return (*net.ListenConfig)(lc) }

// MultipathTCP is net.Dialer's.
func (d *Dialer) MultipathTCP() bool { return d.kernel().MultipathTCP() }

// SetMultipathTCP is net.Dialer's.
func (d *Dialer) SetMultipathTCP(use bool) { d.kernel().SetMultipathTCP(use) }

// DialTCP is net.Dialer's.
func (d *Dialer) DialTCP(ctx context.Context, network string, local, remote netip.AddrPort) (*net.TCPConn, error) {
	return d.kernel().DialTCP(ctx, network, local, remote)
}

// DialUDP is net.Dialer's.
func (d *Dialer) DialUDP(ctx context.Context, network string, local, remote netip.AddrPort) (*net.UDPConn, error) {
	return d.kernel().DialUDP(ctx, network, local, remote)
}

// DialIP is net.Dialer's.
func (d *Dialer) DialIP(ctx context.Context, network string, local, remote netip.Addr) (*net.IPConn, error) {
	return d.kernel().DialIP(ctx, network, local, remote)
}

// DialUnix is net.Dialer's.
func (d *Dialer) DialUnix(ctx context.Context, network string, local, remote *net.UnixAddr) (*net.UnixConn, error) {
	return d.kernel().DialUnix(ctx, network, local, remote)
}

// MultipathTCP is net.ListenConfig's.
func (lc *ListenConfig) MultipathTCP() bool { return lc.kernel().MultipathTCP() }

// SetMultipathTCP is net.ListenConfig's.
func (lc *ListenConfig) SetMultipathTCP(use bool) { lc.kernel().SetMultipathTCP(use) }

// ListenPacket is net.ListenConfig's.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return lc.kernel().ListenPacket(ctx, network, address)
}
