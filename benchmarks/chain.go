//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/armon/go-socks5"
)

// Chains are three processes: a client, a proxy, and a server. All connections are of one transport.
var chains = []*workload{
	{
		name:    "chain-copy",
		title:   "64 B round trip through a proxy that copies with io.Copy",
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    scalable,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return through(c, 1, nil) },
		atLeast: settled,
	},
	{
		name:    "chain-copy-64",
		title:   "64 B round trips on 64 connections through a proxy that copies with io.Copy",
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    scalable,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return through(c, 64, nil) },
		atLeast: settled,
	},
	{
		name:    "chain-socks",
		title:   "64 B round trip through go-socks5",
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    []string{tcp, ctTCP}, // it knows no other addresses
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return through(c, 1, askSOCKS) },
		atLeast: settled,
	},
}

// through does round trips through a proxy. ask, if there is one, asks the proxy for the server.
func through(c *client, conns int, ask func(net.Conn) error) (sample, error) {
	t := c.task
	t.Address = c.served.Address
	p, err := startPeer("proxy", t)
	if err != nil {
		return sample{}, err
	}
	defer p.cmd.Wait()
	defer p.in.Close()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		return sample{}, fmt.Errorf("the proxy did not start: %w", err)
	}
	c.served.Address, c.proxyPID = strings.TrimSpace(line), p.cmd.Process.Pid
	return c.drive(conns, func() (func() error, func(), error) {
		conn, err := c.dial()
		if err == nil && ask != nil {
			err = ask(conn)
		}
		if err != nil {
			return nil, nil, err
		}
		return echoOn(conn), func() { conn.Close() }, nil
	})
}

// askSOCKS asks for a connection. The proxy dials the server, whatever is asked for.
func askSOCKS(conn net.Conn) error {
	const (
		hello   = "\x05\x01\x00"
		connect = "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01"
	)
	if _, err := io.WriteString(conn, hello+connect); err != nil {
		return err
	}
	b := make([]byte, 2+10)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if b[1] != 0 || b[3] != 0 {
		return fmt.Errorf("the proxy answers % x", b)
	}
	return nil
}

// runProxy is the main function of a proxy.
func runProxy(t task) error {
	dir := filepath.Join(t.Dir, filepath.Base(t.Dir)+"-proxy")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	ln, address, err := t.transport().listen(dir)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return t.transport().dial(ctx, t.Address) }
	if t.Workload == "chain-socks" {
		s, err := socks5.New(&socks5.Config{
			Logger: log.New(io.Discard, "", 0), // that clients have closed
			Dial:   func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		})
		if err != nil {
			return err
		}
		go s.Serve(ln)
	} else {
		go serveCopies(ln, dial)
	}
	fmt.Println(address)
	_, err = io.Copy(io.Discard, os.Stdin) // until it is closed
	return err
}

// serveCopies copies between clients and a server.
func serveCopies(ln net.Listener, dial func(context.Context) (net.Conn, error)) {
	accept(ln, func(client net.Conn) {
		server, err := dial(context.Background())
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			io.Copy(server, client)
			server.Close()
		}()
		io.Copy(client, server)
	})
}
