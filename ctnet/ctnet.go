// Package ctnet is a drop-in for package net between programs on one machine.
// Listen and Dial return a net.Listener and net.Conns, but the bytes never enter
// the kernel: they cross in pairs of fifos in memory that the two processes
// share. A program replaces
//
//	ln, err := net.Listen("tcp", ":8080")
//	conn, err := net.Dial("tcp", "localhost:8080")
//
// with
//
//	ln, err := ctnet.Listen("tcp", ":8080")
//	conn, err := ctnet.Dial("tcp", "localhost:8080")
//
// and changes nothing else: net/http, gRPC and any library that accepts a net.Listener or a
// dial function work with ctnet.
//
// # Networks
//
// On "tcp", "tcp4", "tcp6" and "unix" Listen opens the kernel's socket, and offers
// shared memory beside it, which is called the cut-through. Dial uses the cut-through if a
// listener offers it, and the kernel's socket otherwise: if the address belongs to another
// host, if the program there doesn't use ctnet, or if the listener doesn't let this process
// connect through shared memory. CTNET_KERNEL_ONLY in the environment turns the
// cut-through off for a process.
//
// All other networks of package net's, such as "udp" and "unixgram", are left to package net.
//
// An address of network "ct" is a name, such as "svc/echo", of up to 200 bytes
// without NUL and "..". The kernel has no such network, so there is no fallback.
//
// Applications find each other by names in the network namespace, or in the directory that
// CTNET_DIR names, if it is set: so containers can connect that share a volume and not a network.
//
// The kernel tells both sides which process is at the other end, see [Cred]. On network tcp a
// listener accepts processes of all users, and a dialer trusts the user who has the port. Otherwise
// processes connect with those of their own user and of root. [ListenConfig].Allow and
// [Dialer].Allow can decide otherwise, and CTNET_ALLOW names further users.
//
// # In tests
//
// Within one process there is nothing to set up: no port, no file. If both ends of a
// connection of network "ct" are used in one testing/synctest bubble, goroutines that wait
// for bytes are durably blocked, so the bubble's time passes. A listener that was made in a
// bubble is found only by dialers in that bubble. On the other networks there is no
// cut-through in a bubble.
//
// # Safety
//
// The processes that share memory need to trust each other only as to the bytes that they
// exchange. A peer that crashes, stops, or overwrites all memory that it shares can break its
// own connections and nothing else.
//
// On systems other than Linux the cut-through exists within one process only. Processes
// connect through the kernel's socket.
package ctnet

import (
	"context"
	"math/bits"
	"net"
	"time"

	"cutthrough.example/internal/ring"
)

// Listen listens on an address, as net.Listen does. Networks are "ct", where an
// address is a name, and "tcp", "tcp4", "tcp6" and "unix". The listener is a
// [*Listener], or a listener of package net if the cut-through can't be offered. The caller
// closes it. See [ListenConfig.Listen] for errors.
func Listen(network, address string) (net.Listener, error) {
	var lc ListenConfig
	return lc.Listen(context.Background(), network, address)
}

// ListenPacket does what net.ListenPacket does, so that a program can use this package in place of
// package net. No network of packets has a cut-through.
func ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

// NewListener adds the cut-through to a listener that was made elsewhere, see
// [ListenConfig.NewListener].
func NewListener(inner net.Listener) (net.Listener, error) {
	var lc ListenConfig
	return lc.NewListener(inner)
}

// Dial connects to an address, as net.Dial does. The connection is a *Conn if it
// goes through shared memory, as it always does on network "ct". Otherwise it is a connection
// of package net. The caller closes it. See [Dialer.DialContext] for errors.
func Dial(network, address string) (net.Conn, error) {
	var d Dialer
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is Dial with a timeout; 0 is no timeout.
func DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d := Dialer{Timeout: timeout}
	return d.DialContext(context.Background(), network, address)
}

// DialContext is Dial with a context, which limits the call and not the connection. Its
// signature is that of http.Transport.DialContext.
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d Dialer
	return d.DialContext(ctx, network, address)
}

// Sizes of a connection's fifos in bytes. Only the pages of a fifo that were written to
// occupy memory.
const (
	MinBuffer     = ring.MinSize                      // 4 KiB
	MaxBuffer     = ring.MaxSize                      // 64 MiB
	DefaultBuffer = 64 << (10 + 4*(bits.UintSize>>6)) // 1 MiB; 64 KiB on 32-bit systems
)

// DefaultBacklog is the default of [ListenConfig].Backlog: how many connections are established
// before they are accepted. It is Linux's own limit for a TCP listener.
const DefaultBacklog = 4096
