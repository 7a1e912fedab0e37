//go:build linux

package main

import (
	"fmt"
	"net"
)

// scaleOf are the numbers of connections, of which 1 % are active.
var scaleOf = []int{1, 10, 100, 1000, 10_000}

var scales = func() (all []*workload) {
	for _, n := range scaleOf {
		all = append(all, &workload{
			name:    fmt.Sprintf("scale-%d", n),
			title:   fmt.Sprintf("64 B round trips on %d of %d connections", max(n/100, 1), n),
			columns: []string{"ops", "cpu", "p50", "p99"},
			over:    scalable,
			serve:   serveEcho,
			run:     func(c *client) (sample, error) { return amongIdle(c, max(n/100, 1), n) },
			long:    n == 10 || n == 100,
		})
	}
	return append(all, peerWorkloads()...)
}()

// dialEchoed dials so many connections and has one echo on each. The caller closes
// those that it returns, also with an error.
func (c *client) dialEchoed(n int) (conns []net.Conn, err error) {
	conns = make([]net.Conn, 0, n)
	for range n {
		conn, err := c.dial()
		if err != nil {
			return conns, fmt.Errorf("connection %d: %w", len(conns)+1, err)
		}
		conns = append(conns, conn)
		if err := echoOn(conn)(); err != nil {
			return conns, fmt.Errorf("connection %d: %w", len(conns), err)
		}
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// amongIdle does round trips on every so many-th connection.
func amongIdle(c *client, active, n int) (sample, error) {
	if c.Quick {
		n = min(n, 2000)
	}
	conns, err := c.dialEchoed(n)
	defer closeAll(conns)
	if err != nil {
		return sample{}, err
	}
	next := 0
	return c.drive(active, func() (func() error, func(), error) {
		conn := conns[next]
		next += n / active
		return echoOn(conn), func() {}, nil
	})
}
