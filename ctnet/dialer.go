package ctnet

import (
	"context"
	"net"
	"runtime/trace"
	"syscall"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

// A Dialer has the options of a Dial. The zero value is what the function Dial uses. Any
// number of goroutines may use a Dialer at the same time.
type Dialer struct {
	// App is the application that dials; nil is the process's own.
	App *App

	// Timeout is the longest duration of a Dial; 0 is no limit. The limits of the context
	// and of Kernel apply too, on all networks.
	Timeout time.Duration

	// ReadBuffer and WriteBuffer are the sizes in bytes of the fifos that the dialer
	// asks for, from MinBuffer to MaxBuffer, rounded up to a power of two. If the
	// listener has sizes of its own, these are used; 0 is no preference.
	ReadBuffer, WriteBuffer int

	// Kernel has the options of connections through the kernel's socket. If its
	// LocalAddr is set, shared memory is not used, unless Path is CutThrough. Its
	// Control and ControlContext functions are called before a connection through shared
	// memory too, and may forbid the address.
	Kernel net.Dialer

	// Path says which way connections may take.
	Path Path

	// Allow reports whether the listener may belong to a process of another application. By
	// default it may belong to this user, to root, to a user in CTNET_ALLOW, and to the user
	// to whom the kernel's listener belongs that has the address: of network "unix" the owner
	// of the socket file. A user without a number in this user namespace is never allowed.
	// If the listener is not allowed, the Dial uses the kernel's socket, or fails with EACCES
	// if it may not. Several goroutines may call Allow at a time, for each Dial.
	Allow func(Cred) bool

	// Fallback, if it is not nil, is told why a connection uses the kernel's socket, before
	// the Dial returns that connection. It is not called if Path is Kernel, nor on networks
	// that have no cut-through. The application counts and logs the same, see [Snapshot] and
	// [AppConfig].
	Fallback func(*Fallback)
}

// Dial connects to an address, see [Dialer.DialContext].
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to an address. On network "ct" the connection is in the
// listener's backlog when DialContext returns, accepted or not; DialContext waits while the
// backlog is full. The context limits the call, not the connection. The caller
// closes the connection.
//
// On networks "tcp", "tcp4", "tcp6" and "unix" it connects through shared memory if
// the address is an address of this host and network namespace, and a listener of this
// package is there that this process may connect to. In all other cases, also if
// that listener does not answer within 250 ms, it does what net.Dialer does. On all other networks,
// such as "udp" and "unixgram", it does so too, unless Path is CutThrough.
//
// An error is a *net.OpError around a syscall.Errno, such as ECONNREFUSED if there is no
// listener, ENOBUFS if a limit is reached on either side, EACCES if the listener forbids the
// connection and ETIMEDOUT if its process doesn't answer for 5 s; or around an error that is
// context.Canceled, context.DeadlineExceeded, net.ErrClosed, a *net.AddrError or a
// net.UnknownNetworkError.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	defer trace.StartRegion(ctx, "ctnet.Dial").End()
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
		return d.dialCT(ctx, address)
	case "tcp", "tcp4", "tcp6", "unix":
		return d.dialNet(ctx, network, address)
	}
	if d.Path == CutThrough {
		return nil, failure("dial", network, address, errNotCarried)
	}
	c, err := d.Kernel.DialContext(ctx, network, address)
	return c, asTimeout(err)
}

// errNotCarried is the error of [Path] CutThrough on a network of package net's that has no
// cut-through, or that nobody has.
var errNotCarried = syserr.New(syscall.EPROTONOSUPPORT, `only networks "ct", "tcp", "tcp4", "tcp6" and "unix" have a cut-through`)

// dialCT connects on network "ct".
func (d *Dialer) dialCT(ctx context.Context, name string) (net.Conn, error) {
	c, err := d.dialName(ctx, name)
	if err != nil {
		return nil, failure("dial", networkCT, name, err)
	}
	traceConnect(ctx, networkCT, c.remote)
	return d.App.app().dialed(c), nil
}

// dialName connects to the listener with a name of network "ct".
func (d *Dialer) dialName(ctx context.Context, name string) (*conn, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.Path == Kernel {
		return nil, errNotTheKernels
	}
	ask, err := d.sizes()
	if err != nil {
		return nil, err
	}
	a, t, bubble := d.App.app(), ctTarget(name), currentBubble()
	if l := a.listener(t.keys[0], bubble); l != nil {
		return a.dialLocal(ctx, l, t, ask)
	}
	if bubble != 0 {
		return nil, syserr.New(syscall.ECONNREFUSED, "nobody listens on this name in the same testing/synctest bubble")
	}
	c, err := a.dialRemote(ctx, t.keys[0], t, ask, d.allow())
	if err != nil {
		t.look() // for the error's text
		return nil, explain(networkCT, name, t, err)
	}
	return c, nil
}

// allow returns Allow as package pair calls it.
func (d *Dialer) allow() func(rendezvous.Cred) bool {
	if d.Allow == nil {
		return nil
	}
	return func(c rendezvous.Cred) bool { return d.Allow(Cred(c)) }
}

// errNotTheKernels is the error of [Path] Kernel on network "ct".
var errNotTheKernels = syserr.New(syscall.EINVAL, `network "ct" is not the kernel's`)

// sizes returns the fifo sizes that a Dial asks for.
func (d *Dialer) sizes() (sizes, error) {
	return checkSizes(sizes{ToServer: d.WriteBuffer, ToClient: d.ReadBuffer})
}
