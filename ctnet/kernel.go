package ctnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"cutthrough.example/internal/hostnet"
)

// NewListener adds the cut-through to a listener that was made elsewhere, such as
// one that was inherited from the process that it replaces. It takes inner over.
//
// inner must be a listener of package net's for a TCP or unix address, or one that
// hands on what such a one accepts: what changes the bytes, as TLS does, goes around
// the listener that is returned.
//
// If another listener offers the cut-through at this address, this one takes over:
// new connections come here, those that the other one has stay there.
func (lc *ListenConfig) NewListener(inner net.Listener) (net.Listener, error) {
	addr := inner.Addr()
	switch addr.(type) {
	case *net.TCPAddr, *net.UnixAddr:
	default:
		return nil, failure("listen", addr.Network(), addr.String(), net.UnknownNetworkError(addr.Network()))
	}
	l, err := lc.over(context.Background(), inner)
	if err != nil {
		return nil, failure("listen", addr.Network(), addr.String(), err)
	}
	return l, nil
}

// over returns a listener that accepts what kernel does, and the cut-through.
func (lc *ListenConfig) over(ctx context.Context, kernel net.Listener) (net.Listener, error) {
	if lc.Path == Kernel || lc.Path == AnyPath && (kernelOnly() || currentBubble() != 0) {
		return kernel, nil
	}
	l, err := lc.newListener(kernel.Addr().Network(), kernel.Addr())
	if err != nil {
		return nil, err
	}
	l.kernel = kernel
	l.backlog.pending = hostnet.Pending(kernel)
	l.backlog.drained = make(chan struct{})
	if l.key, err = listenerKey(kernel); err == nil {
		err = l.open(ctx)
	}
	if err != nil {
		if lc.Path == CutThrough || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return nil, err
		}
		complain.Do(func() {
			slog.Warn("ctnet: no cut-through, connections take the kernel's socket", "address", l.addr, "error", err)
		})
		return kernel, nil
	}
	l.unwanted = lc.Path == CutThrough
	return l, nil
}

var complain sync.Once

// acceptKernel accepts the kernel's connections, one ahead of Accept, until the
// listener is closed. If they are not wanted it closes them. It begins with the first
// Accept: they may be for another process that has the socket too.
func (l *Listener) acceptKernel() {
	defer close(l.backlog.drained)
	ready := hostnet.KeepNonblocking(l.kernel)
	for {
		ready()
		c, err := l.kernel.Accept()
		if err != nil && l.backlog.isClosed() {
			return
		}
		if l.unwanted && err == nil {
			c.Close()
			continue
		}
		l.backlog.offerKernel(c, err)
	}
}
