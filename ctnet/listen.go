package ctnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/syserr"
)

// A ListenConfig has the options of a listener. The zero value is what the function Listen
// uses. Any number of goroutines may use a ListenConfig at the same time.
type ListenConfig struct {
	// App is the application that listens; nil is the process's own.
	App *App

	// ReadBuffer and WriteBuffer are the sizes in bytes of the fifos of accepted
	// connections, from MinBuffer to MaxBuffer, rounded up to a power of two.
	// 0 leaves the choice to the [Dialer]. A fifo begins smaller, and grows up to its
	// size as AppConfig.MaxMemory allows it.
	ReadBuffer, WriteBuffer int

	// Backlog is the number of connections that are established before they
	// are accepted; further Dials wait. 0 is DefaultBacklog. The kernel's connections are
	// not among them: they wait in the kernel's own queue.
	Backlog int

	// Allow reports whether a process may connect from another application. By default on
	// networks "ct" and "unix" processes of the same user, of root and of users in
	// CTNET_ALLOW may. On network "tcp", and at an abstract address of network "unix", all
	// users of the network namespace may, as the kernel lets them connect too. A user without a
	// number in this user namespace never may. On the networks that the kernel has too, all
	// other processes use the kernel's socket, if they can reach it. A listener calls
	// Allow from one goroutine; no other application can attach until Allow returns. Allow
	// is not called for connections inside the listener's own App.
	Allow func(Cred) bool

	// Peer limits what each other application may hold of the listener.
	Peer PeerLimits

	// Kernel has the options of the kernel's listener.
	Kernel net.ListenConfig

	// Path says which way connections may take.
	Path Path
}

// PeerLimits are the most that one peer may hold of a listener, so that the others can have the
// rest. A peer is a process; the processes of a user who is neither this process's nor root are
// one peer together. A Dial beyond a limit fails with ENOBUFS, or waits if the limit is that of
// half-open connections; on the networks that the kernel has too it takes the kernel's socket. 0
// means the default.
type PeerLimits struct {
	// Attached is the number of applications; 256. Dials that ask for other fifo sizes or
	// name the address in another way count as other applications.
	Attached int
	// HalfOpens is about the number of connections from one application that were not
	// accepted; the listener's Backlog, and 64 more that are not answered yet.
	HalfOpens int
	Conns     int   // connections, with those that were not accepted; 25,000
	Segments  int   // mappings of the peer's shared memory; 2,048
	Bytes     int64 // address space of these; 128 GiB, on 32-bit systems 1 GiB
	Memory    int64 // what the connections' fifos may come to; half of AppConfig.MaxMemory
}

// fill replaces zeros by the defaults.
func (p *PeerLimits) fill(backlog int, app segpool.Limits) error {
	if setDefault(&p.Attached, 256) && setDefault(&p.HalfOpens, backlog+64) &&
		setDefault(&p.Conns, 25_000) && setDefault(&p.Segments, 2048) &&
		setDefault(&p.Bytes, defaultBytes>>(^uint(0)>>63)) && // addresses are scarce on 32-bit systems
		setDefault(&p.Memory, app.Memory/2) {
		return nil
	}
	return syserr.New(syscall.EINVAL, "a limit in PeerLimits is negative")
}

// Listen listens on an address. The context limits the call, not the listener, which the
// caller closes.
//
// On networks "tcp", "tcp4", "tcp6" and "unix" it listens on the kernel's socket too, and the
// address is that of this socket. If shared memory can't be offered there, because the
// sockets can't be made by which applications find each other, the application logs that and
// Listen returns the kernel's listener.
//
// On network "ct" the addresses "" and ":0" stand for a name that nobody has, which the listener's
// Addr returns.
//
// On all other networks, such as "unixpacket", it does what net.ListenConfig does, unless Path is
// CutThrough.
//
// An error is a *net.OpError around a syscall.Errno, such as EADDRINUSE, a *net.AddrError, a
// net.UnknownNetworkError or what net.ListenConfig returns.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	switch network {
	case networkCT:
		l, err := lc.listenCT(ctx, address)
		if err != nil {
			return nil, failure("listen", network, address, err)
		}
		return l, nil
	case "tcp", "tcp4", "tcp6", "unix":
		kernel, err := lc.Kernel.Listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		l, err := lc.over(ctx, kernel, network)
		if err != nil {
			kernel.Close()
			return nil, failure("listen", network, address, err)
		}
		return l, nil
	}
	if lc.Path == CutThrough {
		return nil, failure("listen", network, address, errNotCarried)
	}
	return lc.Kernel.Listen(ctx, network, address)
}

// ListenPacket does what net.ListenConfig does: no network of packets has a cut-through. With Path
// CutThrough it fails with EPROTONOSUPPORT.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if lc.Path == CutThrough {
		return nil, failure("listen", network, address, errNotCarried)
	}
	return lc.Kernel.ListenPacket(ctx, network, address)
}

// NewListener adds the cut-through to a listener that was made elsewhere, such as a
// listener that was inherited from the process that this one replaces. The listener that it
// returns owns inner, and closes it.
//
// inner must be a listener of package net's for a TCP or unix address, or a wrapper that
// returns that listener's connections as they are. A wrapper that changes the bytes, as TLS
// does, goes around the listener that NewListener returns.
//
// If another listener offers the cut-through at this address, this one takes over:
// new connections come here, and the other listener keeps its connections.
func (lc *ListenConfig) NewListener(inner net.Listener) (net.Listener, error) {
	addr := inner.Addr()
	switch addr.(type) {
	case *net.TCPAddr, *net.UnixAddr:
	default:
		return nil, failure("listen", addr.Network(), addr.String(), net.UnknownNetworkError(addr.Network()))
	}
	l, err := lc.over(context.Background(), inner, addr.Network())
	if err != nil {
		return nil, failure("listen", addr.Network(), addr.String(), err)
	}
	return l, nil
}

// freshTries is how many fresh names a Listen tries. Nobody has one by chance.
const freshTries = 8

// listenCT listens on a name of network "ct", or on a fresh one for "" and ":0".
func (lc *ListenConfig) listenCT(ctx context.Context, address string) (l *Listener, err error) {
	if address != "" && address != ":0" {
		return lc.listenName(ctx, address)
	}
	for range freshTries {
		if l, err = lc.listenName(ctx, lc.App.app().freshName()); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return l, err
}

// freshName returns a name that nobody has. It looks like the address of a dialing end.
func (a *app) freshName() string {
	return (&Addr{app: a.id, number: a.number.Add(1)}).String()
}

// listenName listens on a name of network "ct".
func (lc *ListenConfig) listenName(ctx context.Context, name string) (*Listener, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if lc.Path == Kernel {
		return nil, errNotTheKernels
	}
	l, err := lc.newListener(networkCT, &Addr{name: name})
	if err != nil {
		return nil, err
	}
	l.key = ctTarget(name).keys[0]
	l.bubble = currentBubble()
	return l, l.open(ctx)
}

// over returns a listener that also accepts connections through shared memory. It returns
// kernel itself if Path forbids shared memory, or if shared memory can't be offered and
// Path doesn't demand it. network is what the program gave.
func (lc *ListenConfig) over(ctx context.Context, kernel net.Listener, network string) (net.Listener, error) {
	addr := kernel.Addr()
	if barrier := lc.Path.barrier(); barrier != nil {
		if barrier != errPathKernel {
			lc.App.app().fellBack("listen", addr.Network(), addr.String(), barrier, nil)
		}
		return kernel, nil
	}
	l, err := lc.newListener(addr.Network(), addr)
	if err != nil {
		return nil, err
	}
	l.kernel, l.family = kernel, familyOf(network)
	l.backlog.expectKernel(hostnet.Pending(kernel))
	if l.key, err = listenerKey(kernel); err == nil {
		err = l.open(ctx)
	}
	if err != nil {
		if lc.Path == CutThrough || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return nil, err
		}
		l.app.fellBack("listen", l.network, addr.String(), err, nil)
		return kernel, nil
	}
	l.unwanted = lc.Path == CutThrough
	return l, nil
}

// newListener makes a listener that dialers can't find yet.
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
	app, limits := lc.App.app(), lc.Peer
	if err := limits.fill(backlog, app.account.Limits()); err != nil {
		return nil, err
	}
	l := &Listener{app: app, network: network, addr: addr, sizes: sz, allow: lc.Allow, peerLimits: limits}
	l.backlog.init(backlog)
	return l, nil
}
