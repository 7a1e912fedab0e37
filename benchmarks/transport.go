//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"cutthrough.example/ctnet"
	"google.golang.org/grpc/test/bufconn"
)

// A transport is a way from a client to a server.
type transport struct {
	name  string
	title string
	// listen returns a listener and what dial needs to reach it. dir is a
	// directory that both processes have to themselves.
	listen func(dir string) (net.Listener, string, error)
	dial   func(ctx context.Context, address string) (net.Conn, error)
	// foreign is for what is here for comparison: if it fails in a workload
	// then the table says so, but the command has not failed.
	foreign bool
}

// The names of transports, as flags and the tables have them.
const (
	tcp    = "tcp"
	unixes = "unix"
	ct     = "ct"
	ctTCP  = "ct-tcp"
	shm    = "shmipc"
	pipe   = "pipe"
	bufc   = "bufconn"
	cRing  = "c" // the C program, which is no transport of this list
)

// between are those between processes, in the order of the tables. scalable are those
// for any number of connections.
var (
	between  = []string{tcp, unixes, ct, ctTCP, shm}
	scalable = between[:4]
)

var transports = []*transport{
	{
		name:  tcp,
		title: "loopback TCP",
		listen: func(string) (net.Listener, string, error) {
			return addressed(net.Listen("tcp", "127.0.0.1:0"))
		},
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
	},
	{
		name:  unixes,
		title: "unix socket",
		listen: func(dir string) (net.Listener, string, error) {
			return addressed(net.Listen("unix", filepath.Join(dir, "socket")))
		},
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", address)
		},
	},
	{
		name:  ct,
		title: `ctnet, network "ct"`,
		listen: func(dir string) (net.Listener, string, error) {
			return addressed(ctnet.Listen("ct", filepath.Base(dir)))
		},
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			return ctnet.DialContext(ctx, "ct", address)
		},
	},
	{
		name:  ctTCP,
		title: `ctnet, network "tcp"`,
		listen: func(string) (net.Listener, string, error) {
			return addressed(ctnet.Listen("tcp", "127.0.0.1:0"))
		},
		dial: dialCutThrough,
	},
	{
		name:    shm,
		title:   "shmipc-go",
		listen:  listenShmipc,
		dial:    dialShmipc,
		foreign: true,
	},
	{
		name:  pipe,
		title: "net.Pipe",
		listen: func(string) (net.Listener, string, error) {
			return addressed(pipes, nil)
		},
		dial: pipes.dial,
	},
	{
		name:  bufc,
		title: "gRPC's bufconn",
		listen: func(string) (net.Listener, string, error) {
			buffers = bufconn.Listen(ctnet.DefaultBuffer)
			return addressed(buffers, nil)
		},
		dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return buffers.DialContext(ctx)
		},
	},
}

// dialCutThrough makes sure that what is measured is not TCP again. On a busy
// machine it may be at first: a server that has not had a CPU for a quarter of a
// second is left alone for five.
func dialCutThrough(ctx context.Context, address string) (net.Conn, error) {
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		c, err := ctnet.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if _, ok := c.(*ctnet.Conn); ok {
			return c, nil
		}
		c.Close()
		if time.Since(begin) > 12*time.Second {
			return nil, fmt.Errorf("the connection is a %T: not cut through", c)
		}
	}
}

func transportNamed(name string) *transport {
	for _, t := range transports {
		if t.name == name {
			return t
		}
	}
	return nil
}

func addressed(ln net.Listener, err error) (net.Listener, string, error) {
	if err != nil {
		return nil, "", err
	}
	return ln, ln.Addr().String(), nil
}

// A process measures one transport at a time, so one listener is enough for each
// of those that exist in one process only.
var (
	pipes   = &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	buffers *bufconn.Listener
)

// A pipeListener hands out one end of each net.Pipe, as a listener would.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
