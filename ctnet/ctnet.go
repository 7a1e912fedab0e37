// Package ctnet is a drop-in for package net between programs on one machine.
// Listen and Dial return a net.Listener and net.Conns, but the bytes never enter
// the kernel: they cross in pairs of fifos in memory that the two processes
// share. What used to be
//
//	ln, err := net.Listen("tcp", ":8080")
//	conn, err := net.Dial("tcp", "localhost:8080")
//
// becomes
//
//	ln, err := ctnet.Listen("tcp", ":8080")
//	conn, err := ctnet.Dial("tcp", "localhost:8080")
//
// and nothing else changes: net/http, gRPC and whatever takes a net.Listener or
// a function that dials works with them.
//
// # Networks
//
// On "tcp", "tcp4", "tcp6" and "unix" Listen opens the kernel's socket and offers
// the cut-through beside it. Dial takes that if it is there, and the kernel's socket
// otherwise: if the address is another host's, if nobody has ctnet there, or if this
// process may not connect that way. CTNET_KERNEL_ONLY in the environment turns the
// cut-through off for a process.
//
// An address of network "ct" is a name, such as "svc/echo", of up to 200 bytes
// without NUL and "..". There is no kernel's socket, and nothing to fall back to.
//
// Applications find each other in a directory: $CTNET_DIR,
// else $XDG_RUNTIME_DIR/ctnet, else one in the temporary directory that is named
// for the user. It must belong to this user or to root, and nobody else may be able
// to write to it. Containers that share the directory, as a volume, can connect.
//
// Who may connect is decided by credentials that the kernel vouches for. Without
// more being said it is processes of the same user and root.
//
// # In tests
//
// Within one process there is nothing to set up: no port, no file. Connections
// of network "ct" whose both ends are used in one testing/synctest bubble block
// durably there, so the bubble's time passes while they wait. A listener that was
// made in a bubble is found by dialers in that bubble, and only these. On the other
// networks there is no cut-through in a bubble.
//
// # Safety
//
// The processes that share memory need not trust each other further than for
// the bytes they exchange. A peer that crashes, stops, or scribbles over all that
// it shares can spoil its own connections and nothing else.
//
// On systems other than Linux there is the cut-through within one process, and the
// kernel's socket between processes.
package ctnet

import (
	"context"
	"net"
	"time"

	"cutthrough.example/internal/ring"
)

// Listen listens on an address, as net.Listen does. Networks are "ct", where an
// address is a name, and "tcp", "tcp4", "tcp6" and "unix". The listener is a
// *Listener, see there for what it accepts; or package net's, where there is no
// cut-through.
func Listen(network, address string) (net.Listener, error) {
	var lc ListenConfig
	return lc.Listen(context.Background(), network, address)
}

// NewListener is Listen for a listener that was made elsewhere.
func NewListener(inner net.Listener) (net.Listener, error) {
	var lc ListenConfig
	return lc.NewListener(inner)
}

// Dial connects to an address, as net.Dial does. The connection is a *Conn if it
// goes through shared memory, as all those of network "ct" do, and what package net
// makes otherwise.
func Dial(network, address string) (net.Conn, error) {
	var d Dialer
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is Dial with a timeout.
func DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d := Dialer{Timeout: timeout}
	return d.DialContext(context.Background(), network, address)
}

// DialContext is Dial with a context. Its signature is that of
// http.Transport.DialContext.
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d Dialer
	return d.DialContext(ctx, network, address)
}

// Sizes of a connection's fifos in bytes. A fifo's memory is used up to the part
// that was ever filled.
const (
	MinBuffer     = ring.MinSize
	MaxBuffer     = ring.MaxSize
	DefaultBuffer = 64 << (10 + 4*(^uint(0)>>63)) // 1 MiB; 64 KiB on 32-bit systems
)

// DefaultBacklog is the number of connections that wait to be accepted, as many
// as Linux lets a TCP listener have.
const DefaultBacklog = 4096
