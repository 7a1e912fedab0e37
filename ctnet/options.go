package ctnet

import (
	"net"
	"runtime"
	"time"
)

// Options of sockets that a fifo has no use for. Programs set them on every connection that has
// the methods. As those of package net, all but MultipathTCP fail with net.ErrClosed after Close.

// SetNoDelay does nothing: no Write is delayed.
func (c *Conn) SetNoDelay(noDelay bool) error { return c.setNothing() }

// SetKeepAlive does nothing: the death of the process at the other end is noticed without probes.
func (c *Conn) SetKeepAlive(keepalive bool) error { return c.setNothing() }

// SetKeepAlivePeriod does nothing, like [Conn.SetKeepAlive].
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error { return c.setNothing() }

// SetKeepAliveConfig does nothing, like [Conn.SetKeepAlive].
func (c *Conn) SetKeepAliveConfig(config net.KeepAliveConfig) error { return c.setNothing() }

// MultipathTCP returns false.
func (c *Conn) MultipathTCP() (bool, error) { return false, nil }

// SetReadBuffer does nothing: a fifo's size is chosen when the connection is made, see
// [ListenConfig] and [Dialer].
func (c *Conn) SetReadBuffer(bytes int) error { return c.setNothing() }

// SetWriteBuffer does nothing, like [Conn.SetReadBuffer].
func (c *Conn) SetWriteBuffer(bytes int) error { return c.setNothing() }

func (c *Conn) setNothing() error {
	defer runtime.KeepAlive(c)
	if c.c.end.Closed() {
		return c.c.opError("set", net.ErrClosed)
	}
	return nil
}
