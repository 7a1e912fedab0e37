// Package tls stands in for crypto/tls in the suites that command suites runs: what dials and
// listens uses the shim for package net. The command adds every other name that crypto/tls
// exports.
package tls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	shim "cutthrough.example/conformance/gosuites/shim"
)

// A Dialer stands in for tls.Dialer.
type Dialer struct {
	NetDialer *shim.Dialer
	Config    *tls.Config
}

// Dial stands in for tls.Dial.
func Dial(network, addr string, config *tls.Config) (*tls.Conn, error) {
	return DialWithDialer(new(shim.Dialer), network, addr, config)
}

// DialWithDialer stands in for tls.DialWithDialer.
func DialWithDialer(dialer *shim.Dialer, network, addr string, config *tls.Config) (*tls.Conn, error) {
	return dial(context.Background(), dialer, network, addr, config)
}

// Dial connects as DialContext does.
func (d *Dialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

// DialContext connects with the shim and makes the handshake.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := d.NetDialer
	if dialer == nil {
		dialer = new(shim.Dialer)
	}
	c, err := dial(ctx, dialer, network, addr, d.Config)
	if err != nil {
		return nil, err // and not a nil *tls.Conn
	}
	return c, nil
}

// Listen stands in for tls.Listen.
func Listen(network, laddr string, config *tls.Config) (net.Listener, error) {
	if config == nil || len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
		return nil, errors.New("tls: neither Certificates, GetCertificate, nor GetConfigForClient set in Config")
	}
	l, err := shim.Listen(network, laddr)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, config), nil
}

// dial is tls.Dial's: the dialer's timeout and deadline are for the handshake too, and the
// host in the address is the name that the certificate must have.
func dial(ctx context.Context, dialer *shim.Dialer, network, addr string, config *tls.Config) (*tls.Conn, error) {
	if dialer.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialer.Timeout)
		defer cancel()
	}
	if !dialer.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, dialer.Deadline)
		defer cancel()
	}
	raw, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		config = config.Clone()
		config.ServerName = host
	}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}
