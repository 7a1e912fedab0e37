package ctnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
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
	l.backlog.pending = pendingIn(kernel)
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

// listenerKey returns what dialers find a kernel's listener by.
func listenerKey(kernel net.Listener) (string, error) {
	switch addr := kernel.Addr().(type) {
	case *net.TCPAddr:
		netns, ok := netNamespace()
		if !ok {
			return "", errors.New("the network namespace is not to be found out")
		}
		ap := addr.AddrPort()
		ip := ap.Addr().Unmap().WithZone("")
		return tcpKey(netns, ip, ip == netip.IPv6Unspecified() && !onlyIPv6(kernel), ap.Port()), nil
	case *net.UnixAddr:
		return unixKey(addr.Name)
	}
	return "", fmt.Errorf("address is a %T", kernel.Addr())
}

// acceptKernel accepts the kernel's connections, one ahead of Accept, until the
// listener is closed. If they are not wanted it closes them. It begins with the first
// Accept: they may be for another process that has the socket too.
func (l *Listener) acceptKernel() {
	defer close(l.backlog.drained)
	ready := keepNonblocking(l.kernel)
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

// onlyIPv6 reports whether a listener on all addresses of IPv6 does not take IPv4.
func onlyIPv6(kernel net.Listener) bool {
	raw := rawConn(kernel)
	if raw == nil {
		return true // it may not
	}
	only := true
	raw.Control(func(fd uintptr) { only = socketOnlyIPv6(fd) })
	return only
}

// rawConn returns the socket of a listener of the kernel's, or nil if it can't be had.
func rawConn(kernel net.Listener) syscall.RawConn {
	c, ok := kernel.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
