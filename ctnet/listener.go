package ctnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

// A Listener accepts connections to its address. It implements net.Listener.
//
// On network "ct" all its connections are *Conn. On the others Accept returns those
// and the ones that come through the kernel's socket, as package net made them, in
// turns if there are both.
type Listener struct {
	app     *app
	network string
	addr    net.Addr
	key     string // what dialers find it by; "" if they can't
	sizes   sizes
	allow   func(Cred) bool
	bubble  int
	backlog backlog
	origins originTable // of its connections, on network tcp

	kernel  net.Listener // on networks of the kernel's
	door    *door        // for other applications; nil if there is none
	retired atomic.Bool  // another one has taken over the address

	begin     sync.Once   // to accept the kernel's connections
	unwanted  bool        // are these
	accepting atomic.Bool // Accept was called
	handedOn  atomic.Bool // File was called
}

// errHandedOn says that whoever has the listener's socket accepts its connections.
var errHandedOn = syserr.New(syscall.EAGAIN, "the listener was handed on with File, and this process does not call Accept")

// open lets dialers find the listener, those of this application last: by then
// nothing can fail any more.
func (l *Listener) open(ctx context.Context) (err error) {
	if l.bubble == 0 {
		if l.door, err = openDoor(ctx, l); err != nil {
			return err
		}
	}
	if err = l.app.addListener(l); err != nil {
		l.Close()
		return err
	}
	if l.door != nil {
		go l.door.accept()
	}
	return nil
}

// answers returns the address of the accepting end of connections that were dialed
// by a name, or nil if the listener is not the one for it.
func (l *Listener) answers(name string) net.Addr {
	network, address := splitName(name)
	if network != l.network {
		return nil
	}
	switch own := l.addr.(type) {
	case *net.TCPAddr:
		dialed, err := netip.ParseAddrPort(address)
		ap := own.AddrPort()
		if err != nil || dialed.Port() != ap.Port() || !ap.Addr().IsUnspecified() && dialed.Addr() != ap.Addr().Unmap() {
			return nil
		}
		return net.TCPAddrFromAddrPort(dialed)
	case *Addr:
		if own.name != address {
			return nil
		}
	}
	return l.addr
}

// allows reports whether a process may connect.
func (l *Listener) allows(c rendezvous.Cred) bool {
	if l.allow == nil {
		return rendezvous.Trusted(c)
	}
	return l.allow(Cred(c))
}

// Accept returns the next connection, waiting for it. It fails with
// net.ErrClosed after Close and with os.ErrDeadlineExceeded after the deadline.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, opError("accept", nil, l.addr, err)
	}
	return c, nil
}

// AcceptConn is Accept with the connection's own type, for a listener that has
// none of the kernel's.
func (l *Listener) AcceptConn() (*Conn, error) {
	if l.kernel != nil {
		return nil, opError("accept", nil, l.addr, syserr.New(syscall.EINVAL, "the kernel's connections are of another type, use Accept"))
	}
	c, err := l.accept()
	if err != nil {
		return nil, opError("accept", nil, l.addr, err)
	}
	return c.(*Conn), nil
}

func (l *Listener) accept() (net.Conn, error) {
	if l.kernel != nil && !l.accepting.Load() {
		l.accepting.Store(true)
		l.begin.Do(func() { go l.acceptKernel() })
	}
	return l.backlog.accept()
}

// acceptKernel accepts the connections of the kernel's listener until the Listener is closed.
// It is one connection ahead of Accept. It begins with the first Accept: before that the
// connections may be for another process that has the socket too.
func (l *Listener) acceptKernel() {
	defer l.backlog.endKernel()
	keepNonblocking := hostnet.KeepNonblocking(l.kernel)
	for {
		keepNonblocking()
		c, err := l.kernel.Accept()
		if l.unwanted && err == nil {
			c.Close()
			continue
		}
		if !l.backlog.offerKernel(c, err) {
			return
		}
	}
}

// SetDeadline sets the time after which Accept fails, also if it is blocked
// already. The zero time means never.
func (l *Listener) SetDeadline(t time.Time) error {
	if l.backlog.isClosed() {
		return opError("set", nil, l.addr, net.ErrClosed)
	}
	l.backlog.Set(t, &l.backlog)
	return nil
}

// Close stops listening, and returns at once. Dials that wait are refused,
// connections that nobody has accepted are reset, and those that were accepted
// live on.
//
// A connection that the kernel has handed over already is not lost: an Accept
// within a second returns it, and net.ErrClosed only after that. If another listener
// has taken over the address, the same is true of those in the backlog, whose
// dialers can't know.
func (l *Listener) Close() error {
	answered := resetAnswered
	if l.retired.Load() {
		answered = drainAnswered
	}
	if !l.backlog.close(answered) {
		return opError("close", nil, l.addr, net.ErrClosed)
	}
	l.app.removeListener(l)
	if l.door != nil {
		l.door.close()
	}
	if l.kernel != nil {
		l.begin.Do(l.backlog.endKernel) // acceptKernel was not started
		return l.kernel.Close()
	}
	return nil
}

// Addr returns the address that the listener listens on.
func (l *Listener) Addr() net.Addr { return l.addr }

// File returns a duplicate of the kernel's socket, as *net.TCPListener has it, for
// passing it to a process that is to take over. On network "ct" there is none.
//
// os/exec and File.Fd make the socket blocking, for whoever has it. This listener
// makes it non-blocking again before it accepts the next connection.
//
// If Accept was not called here, connections take the kernel's socket from then on, until
// it is: if it never is, the other process serves them all.
func (l *Listener) File() (*os.File, error) {
	k, ok := l.kernel.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, opError("file", nil, l.addr, syscall.EINVAL)
	}
	f, err := k.File()
	if err != nil {
		return nil, err
	}
	l.handedOn.Store(true)
	return f, nil
}

// elsewhere reports whether only another process accepts connections.
func (l *Listener) elsewhere() bool { return l.handedOn.Load() && !l.accepting.Load() }
