//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"time"
)

// messageSize is that of small messages.
const messageSize = 64

var roundTrips = []*workload{
	{
		name:    "rtt",
		title:   "64 B round trip, one connection",
		columns: []string{"p50", "p99", "p999", "ops", "cpu"},
		over:    between,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return roundTrip(c, 1, 0) },
		limit:   (*limits).trips,
	},
	{
		name:    "rtt-nospin",
		title:   "64 B round trip, one connection, ctnet without spinning",
		columns: []string{"p50", "p99", "p999", "ops", "cpu"},
		over:    []string{tcp, unixes, ct},
		env:     []string{"CTNET_SPIN=0"},
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return roundTrip(c, 1, 0) },
	},
	{
		name:    "paced",
		title:   "a 64 B request every 200 us",
		columns: []string{"p50", "p99", "p999", "busy"},
		over:    between,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return roundTrip(c, 1, 200*time.Microsecond) },
	},
	roundTripsOn(8),
	roundTripsOn(64),
	roundTripsOn(1000),
}

func roundTripsOn(conns int) *workload {
	return &workload{
		name:    fmt.Sprintf("conns-%d", conns),
		title:   fmt.Sprintf("64 B round trips, %d connections", conns),
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    between,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return roundTrip(c, conns, 0) },
	}
}

// serveEcho returns messages until the client closes.
func serveEcho(s *server) error { return s.each(echoUntilEnd) }

func echoUntilEnd(c net.Conn) {
	b := make([]byte, messageSize)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func roundTrip(c *client, conns int, pace time.Duration) (sample, error) {
	return c.drivePaced(conns, pace, func() (func() error, func(), error) {
		conn, err := c.dial()
		if err != nil {
			return nil, nil, err
		}
		return echoOn(conn), func() { conn.Close() }, nil
	})
}

// echoOn returns a function that does a round trip on a connection.
func echoOn(conn net.Conn) func() error {
	out, in := make([]byte, messageSize), make([]byte, messageSize)
	var n byte
	return func() error {
		n++
		out[0], out[messageSize-1] = n, ^n
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, in); err != nil {
			return err
		}
		if in[0] != n || in[messageSize-1] != ^n {
			return fmt.Errorf("the echo of message %d is not the message", n)
		}
		return nil
	}
}
