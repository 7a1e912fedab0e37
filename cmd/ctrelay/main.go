// Command ctrelay joins two networks, for programs whose other end can't be
// changed: it accepts connections on one address and connects each to another one.
//
//	ctrelay -listen ct:svc/db -dial unix:/run/postgresql/.s.PGSQL.5432
//	ctrelay -listen tcp:127.0.0.1:8080 -dial ct:svc/hello
//
// Either side may be ct, tcp or unix. Bytes go straight between a fifo and a socket.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

func main() {
	var listen, dial address
	flag.Var(&listen, "listen", "`network:address` to accept connections on")
	flag.Var(&dial, "dial", "`network:address` to connect them to")
	flag.Parse()
	if listen.network == "" || dial.network == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	// The first signal stops listening, and open connections may end; the
	// second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	ln, err := ctnet.Listen(listen.network, listen.address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctrelay:", err)
		os.Exit(1)
	}
	fmt.Printf("%s -> %v\n", ln.Addr(), dial)
	relay(ctx, ln, func(ctx context.Context) (net.Conn, error) {
		return ctnet.DialContext(ctx, dial.network, dial.address)
	})
}

// An address is a flag's value: a network and an address in it.
type address struct{ network, address string }

func (a address) String() string { return a.network + ":" + a.address }

// Set implements flag.Value.
func (a *address) Set(s string) error {
	network, rest, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("want network:address, such as tcp:127.0.0.1:80")
	}
	*a = address{network, rest}
	return nil
}

// relay connects what ln accepts, until ctx ends, and then waits until the
// connections have ended.
func relay(ctx context.Context, ln net.Listener, dial func(context.Context) (net.Conn, error)) {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		in, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			slog.Error("accept", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		conns.Go(func() {
			defer in.Close()
			out, err := dial(ctx)
			if err != nil {
				slog.Error("dial", "error", err)
				reset(in)
				return
			}
			defer out.Close()
			var back sync.WaitGroup
			back.Go(func() { pipe(in, out) })
			pipe(out, in)
			back.Wait()
		})
	}
}

// pipe copies from src to dst and passes the end on: an orderly one as such, so
// that the other direction goes on, and anything else as a reset of both.
func pipe(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		reset(dst)
		reset(src)
	}
}

// reset closes c in a way that its peer takes for a failure, where there is one.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}
