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
	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/syserr"
)

// A Listener accepts connections to its address. It implements net.Listener. Any number of
// goroutines may call its methods at the same time.
//
// On network "ct" all its connections are *Conn. On the other networks Accept returns
// connections through shared memory, which are *Conn, and connections through the kernel's
// socket, which are of package net's types. If there are both, it returns them in turns.
type Listener struct {
	app     *app
	network string
	family  family // of the network that the program gave
	addr    net.Addr
	key     string // dialers find the listener by it
	sizes   sizes  // of the fifos of its connections
	allow   func(Cred) bool
	bubble  int // the number of the testing/synctest bubble in which it was made, or 0
	backlog backlog
	origins originTable // of its connections, on network tcp

	peerLimits PeerLimits
	local      turns // of dialers in its application

	kernel  net.Listener // the kernel's listener at this address; nil on network "ct"
	door    *pair.Door   // the socket for other applications; nil if there is none
	retired atomic.Bool  // another listener has taken over the address, or this one is closed

	begin     sync.Once   // starts acceptKernel, or prevents that
	unwanted  bool        // acceptKernel closes the kernel's connections
	accepting atomic.Bool // Accept was called
	handedOn  atomic.Bool // File has succeeded
}

// errHandedOn means that another process, which has the kernel's socket, accepts the
// listener's connections.
var errHandedOn = syserr.New(syscall.EAGAIN, "the listener was handed on with File, and this process does not call Accept")

// open lets dialers find the listener. It adds the listener to the application last, so that a
// dialer of this application does not find a listener that then fails to open.
func (l *Listener) open(ctx context.Context) (err error) {
	if l.bubble == 0 {
		if l.door, err = l.app.remote.Open(ctx, served{l}, l.key); err != nil {
			return err
		}
	}
	if err = l.app.addListener(l); err != nil {
		l.Close()
		return err
	}
	if l.door != nil {
		go l.door.Serve()
	}
	return nil
}

// isOpen reports whether the kernel lets every user connect to the listener's address who is in its
// network namespace: it asks for a permission only if there is a socket file.
func (l *Listener) isOpen() bool {
	switch a := l.addr.(type) {
	case *net.TCPAddr:
		return true
	case *net.UnixAddr:
		return hostnet.IsAbstract(a.Name)
	}
	return false
}

// answers returns the local address of an accepted connection whose dialer has dialed the
// target with this name. It returns nil if the listener doesn't listen at that address.
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

// Accept waits for the next connection and returns it. The caller closes the connection.
//
// An error is a *net.OpError around net.ErrClosed after Close, os.ErrDeadlineExceeded after
// the deadline, or an error of the kernel's listener, such as EMFILE; after the last the next
// Accept may succeed.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return c, nil
}

// AcceptConn is [Listener.Accept] with the connection's own type. It is for network "ct": on
// a listener that accepts the kernel's connections too it fails with EINVAL.
func (l *Listener) AcceptConn() (*Conn, error) {
	if l.kernel != nil {
		return nil, l.opError("accept", syserr.New(syscall.EINVAL, "the kernel's connections are of another type, use Accept"))
	}
	c, err := l.accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return c.(*Conn), nil
}

// accept is Accept without the wrapping of errors. The first call starts acceptKernel.
func (l *Listener) accept() (net.Conn, error) {
	if l.kernel != nil && !l.accepting.Load() {
		l.accepting.Store(true)
		l.begin.Do(func() { go l.acceptKernel() })
	}
	c, err := l.backlog.accept()
	if _, ok := c.(*Conn); ok {
		l.app.counts.Accepted.Add(1)
	}
	return c, err
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

// SetDeadline sets the time after which Accept fails with os.ErrDeadlineExceeded, also an
// Accept that is blocked. The zero time means never. SetDeadline fails with net.ErrClosed
// after Close.
func (l *Listener) SetDeadline(t time.Time) error {
	if l.backlog.isClosed() {
		return l.opError("set", net.ErrClosed)
	}
	l.backlog.Set(t, &l.backlog)
	return nil
}

// Close stops listening, and returns at once. Dials that wait are refused, connections in
// the backlog are reset, and connections that were accepted live on. It fails with
// net.ErrClosed if the listener was closed before.
//
// A connection that the kernel's listener has accepted already is not lost: an Accept
// within a second returns it, and later ones return net.ErrClosed. If another listener has
// taken over the address, the same is true of the connections in the backlog, as their
// dialers can't notice that.
func (l *Listener) Close() error {
	answered := resetAnswered
	if l.retired.Load() {
		answered = drainAnswered
	}
	if !l.backlog.close(answered) {
		return l.opError("close", net.ErrClosed)
	}
	l.app.removeListener(l)
	if l.door != nil {
		l.door.Close()
	}
	if l.kernel != nil {
		l.begin.Do(l.backlog.endKernel) // if acceptKernel was not started, it won't be
		return l.kernel.Close()
	}
	return nil
}

// Addr returns the address that the listener listens on. The caller doesn't modify it.
func (l *Listener) Addr() net.Addr { return l.addr }

// File returns a duplicate of the kernel's socket, as net.TCPListener.File does, to be passed
// to a process that takes over. The caller closes the file; that doesn't close the listener.
// On network "ct" there is no socket, and File fails with EINVAL.
//
// os/exec and os.File.Fd make the socket blocking, in all processes that have it. This
// listener makes it non-blocking again before it accepts the next connection.
//
// After File, and until Accept is called here for the first time, dialers use the kernel's
// socket. So if this process never calls Accept, the other process serves all connections.
func (l *Listener) File() (*os.File, error) {
	k, ok := l.kernel.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, l.opError("file", syscall.EINVAL)
	}
	f, err := k.File()
	if err != nil {
		return nil, err
	}
	l.handedOn.Store(true)
	return f, nil
}

// SyscallConn returns the kernel's socket for raw system calls, as net.TCPListener.SyscallConn does.
// On network "ct" there is no socket, and SyscallConn fails with EINVAL.
//
// Unlike [Listener.File] it does not say that another process may accept the connections.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	k, ok := l.kernel.(syscall.Conn)
	if !ok {
		return nil, l.opError("raw", syscall.EINVAL)
	}
	return k.SyscallConn()
}

// SetUnlinkOnClose says whether Close removes the socket's file, as that of net.UnixListener does. On
// other networks than "unix" it does nothing.
func (l *Listener) SetUnlinkOnClose(unlink bool) {
	if k, ok := l.kernel.(interface{ SetUnlinkOnClose(bool) }); ok {
		k.SetUnlinkOnClose(unlink)
	}
}

// opError returns err in the form of package net's errors.
func (l *Listener) opError(op string, err error) error {
	return opError(op, l.family.network(l.addr), nil, l.addr, err)
}

// elsewhere reports whether another process, and not this one, accepts connections.
func (l *Listener) elsewhere() bool { return l.handedOn.Load() && !l.accepting.Load() }
