//go:build linux

package main

import "fmt"

var dials = []*workload{
	dialsOf(1, "dial, 64 B echo, close: one at a time"),
	dialsOf(16, "dial, 64 B echo, close: 16 at once"),
}

func dialsOf(at int, title string) *workload {
	return &workload{
		name:    fmt.Sprintf("dial-%d", at),
		title:   title,
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    between,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return dialRepeatedly(c, at) },
	}
}

func dialRepeatedly(c *client, at int) (sample, error) {
	return c.drive(at, func() (func() error, func(), error) {
		return func() error {
			conn, err := c.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			return echoOn(conn)()
		}, func() {}, nil
	})
}
