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
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/syserr"
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

// A ListenConfig holds what may be chosen about a listener. The zero value is
// what Listen uses.
type ListenConfig struct {
	// App is the application that listens: nil is the process's own.
	App *App

	// ReadBuffer and WriteBuffer are the sizes of the fifos of accepted
	// connections, from MinBuffer to MaxBuffer, rounded up to a power of two.
	// 0 leaves the choice to the dialer.
	ReadBuffer, WriteBuffer int

	// Backlog is the number of connections that are established before they
	// are accepted; further Dials wait. 0 is DefaultBacklog.
	Backlog int

	// Allow decides who may connect from another application. If it is nil,
	// processes of the same user and of root may. On the kernel's networks
	// the others get the kernel's socket, as anybody who can reach it does.
	Allow func(Cred) bool

	// Kernel has the options of the kernel's listener.
	Kernel net.ListenConfig

	// Path says which way connections may come.
	Path Path
}

// Listen listens on an address. The context is for the call, not the listener.
//
// On networks "tcp", "tcp4", "tcp6" and "unix" it listens on the kernel's socket too.
// If shared memory can't be offered there, because the directory in which
// applications find each other can't be used, it says so once through
// slog.Default and returns the kernel's listener.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	switch network {
	case networkCT:
	case "tcp", "tcp4", "tcp6", "unix":
		kernel, err := lc.Kernel.Listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		l, err := lc.over(ctx, kernel)
		if err != nil {
			kernel.Close()
			return nil, failure("listen", network, address, err)
		}
		return l, nil
	default:
		return nil, failure("listen", network, address, net.UnknownNetworkError(network))
	}
	l, err := lc.listen(ctx, address)
	if err != nil {
		return nil, failure("listen", network, address, err)
	}
	return l, nil
}

func (lc *ListenConfig) listen(ctx context.Context, name string) (*Listener, error) {
	if err := checkName(ctx, name); err != nil {
		return nil, err
	}
	if lc.Path == Kernel {
		return nil, syserr.New(syscall.EINVAL, `network "ct" is not the kernel's`)
	}
	l, err := lc.newListener(networkCT, &Addr{name: name})
	if err != nil {
		return nil, err
	}
	l.key = ctTarget(name).keys[0]
	l.bubble = currentBubble()
	return l, l.open(ctx)
}

// newListener makes a listener that nobody finds yet.
func (lc *ListenConfig) newListener(network string, addr net.Addr) (*Listener, error) {
	sz, err := checkSizes(sizes{ToServer: lc.ReadBuffer, ToClient: lc.WriteBuffer})
	if err != nil {
		return nil, err
	}
	if lc.Backlog < 0 {
		return nil, syserr.New(syscall.EINVAL, fmt.Sprintf("backlog %d is negative", lc.Backlog))
	}
	backlog := lc.Backlog
	if backlog == 0 {
		backlog = DefaultBacklog
	}
	l := &Listener{app: lc.App.app(), network: network, addr: addr, sizes: sz, allow: lc.Allow}
	l.backlog.init(backlog)
	return l, nil
}

// A Dialer holds what may be chosen about a Dial. The zero value is what Dial
// uses.
type Dialer struct {
	// App is the application that dials: nil is the process's own.
	App *App

	// Timeout is the longest that a Dial may take; 0 is no limit but the
	// context's, and those of Kernel, which hold for all networks.
	Timeout time.Duration

	// ReadBuffer and WriteBuffer are the sizes of the fifos that the dialer
	// asks for, from MinBuffer to MaxBuffer, rounded up to a power of two.
	// What the listener has chosen takes precedence; 0 is no preference.
	ReadBuffer, WriteBuffer int

	// Kernel has the options of connections through the kernel's socket. One
	// with a LocalAddr takes no other way.
	Kernel net.Dialer

	// Path says which way connections may take.
	Path Path
}

// Dial connects to an address.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to an address. On network "ct" the connection is in the
// listener's backlog when it returns, accepted or not; it waits while the backlog is
// full. The context is for the call, not the connection.
//
// On networks "tcp", "tcp4", "tcp6" and "unix" it connects through shared memory if
// the address is one of this host and network namespace, and a listener of this
// package is there that this process may connect to. In all other cases, also if
// such a listener has not answered after a quarter of a second, it does what
// net.Dialer does.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	for _, timeout := range []time.Duration{d.Timeout, d.Kernel.Timeout} {
		if timeout != 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
	}
	if !d.Kernel.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.Kernel.Deadline)
		defer cancel()
	}
	switch network {
	case networkCT:
	case "tcp", "tcp4", "tcp6", "unix":
		return d.dialEither(ctx, network, address)
	default:
		return nil, failure("dial", network, address, net.UnknownNetworkError(network))
	}
	c, err := d.dial(ctx, address)
	if err != nil {
		return nil, failure("dial", network, address, err)
	}
	traceConnect(ctx, network, address)
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, name string) (*Conn, error) {
	if err := checkName(ctx, name); err != nil {
		return nil, err
	}
	if d.Path == Kernel {
		return nil, syserr.New(syscall.EINVAL, `network "ct" is not the kernel's`)
	}
	ask, err := checkSizes(sizes{ToServer: d.WriteBuffer, ToClient: d.ReadBuffer})
	if err != nil {
		return nil, err
	}
	a, t := d.App.app(), ctTarget(name)
	if l := a.listener(t.keys[0], currentBubble()); l != nil {
		return a.dialLocal(ctx, l, t, ask)
	}
	if currentBubble() != 0 {
		return nil, syserr.New(syscall.ECONNREFUSED, "nobody listens on this name in the same testing/synctest bubble")
	}
	return a.dialRemote(ctx, t.keys[0], t, ask)
}

// failure makes the error of a Listen or Dial.
func failure(op, network, address string, err error) error {
	switch err {
	case context.Canceled:
		err = canceled{}
	case context.DeadlineExceeded:
		err = timedOut{}
	}
	if e, ok := err.(syscall.Errno); ok && op == "dial" {
		err = syserr.New(e, dialAdvice(e))
	}
	e := &net.OpError{Op: op, Net: network, Err: err}
	switch network {
	case networkCT:
		e.Addr = &Addr{name: address}
	case "unix":
		e.Addr = &net.UnixAddr{Name: address, Net: network}
	default:
		e.Addr = textAddr{network, address}
		if addr, err := netip.ParseAddrPort(address); err == nil {
			e.Addr = net.TCPAddrFromAddrPort(addr)
		}
	}
	return e
}

// A textAddr is an address that was not resolved.
type textAddr struct{ network, address string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.address }

func dialAdvice(e syscall.Errno) string {
	switch e {
	case syscall.ECONNREFUSED:
		return "no ctnet listener is there"
	case syscall.EACCES:
		return "the listener's Allow, or its user's being another, forbids it"
	case errHandedOn.Errno:
		return errHandedOn.Advice
	case syscall.ENOBUFS:
		return "the listener's application has reached a limit of its AppConfig"
	}
	return "the listener's application could not take the connection"
}

// maxName is the longest name in bytes.
const maxName = 200

func checkName(ctx context.Context, address string) error {
	switch {
	case address == "":
		return &net.AddrError{Err: "missing name"}
	case len(address) > maxName:
		return &net.AddrError{Err: fmt.Sprintf("name of %d bytes, the most is %d", len(address), maxName), Addr: address[:32] + "..."}
	case strings.Contains(address, "\x00"):
		return &net.AddrError{Err: "NUL in name", Addr: address}
	case strings.Contains(address, ".."):
		return &net.AddrError{Err: `".." in name`, Addr: address}
	}
	return ctx.Err()
}

// sizes are those of a connection's fifos; 0 where there is no preference.
type sizes pair.Sizes

// checkSizes rounds them up to what a fifo can have.
func checkSizes(s sizes) (sizes, error) {
	for _, n := range []*int{&s.ToServer, &s.ToClient} {
		switch {
		case *n == 0:
		case *n < MinBuffer || *n > MaxBuffer:
			return s, syserr.New(syscall.EINVAL, fmt.Sprintf("a buffer of %d bytes is not between %d and %d", *n, MinBuffer, MaxBuffer))
		default:
			*n = ring.RoundSize(*n)
		}
	}
	return s, nil
}

// decide returns what a listener that prefers s grants to a dialer that asks.
func (s sizes) decide(ask sizes) (toServer, toClient int) {
	choose := func(a, b int) int {
		if a != 0 {
			return a
		}
		if b != 0 {
			return b
		}
		return DefaultBuffer
	}
	return choose(s.ToServer, ask.ToServer), choose(s.ToClient, ask.ToClient)
}
