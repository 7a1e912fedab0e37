// Package glue makes the shim for package net dial and listen with ctnet. Command gosuites
// imports it into the tests that it runs, and so does command suites. If GOSUITES_WITH is net
// the shim goes on using package net.
package glue

import (
	"context"
	"net"
	"os"
	"sync"

	shim "cutthrough.example/conformance/gosuites/shim"
	"cutthrough.example/ctnet"
)

func init() {
	if os.Getenv("GOSUITES_WITH") == "net" {
		return
	}
	shim.DialStream = func(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
		cut := ctnet.Dialer{App: dialing(), Timeout: d.Timeout, Kernel: *d}
		c, err := cut.DialContext(ctx, network, address)
		if err == nil {
			note(c)
		}
		return c, err
	}
	shim.ListenStream = func(ctx context.Context, lc *net.ListenConfig, network, address string) (net.Listener, error) {
		cut := ctnet.ListenConfig{Kernel: *lc}
		return cut.Listen(ctx, network, address)
	}
}

// dialing returns the application that dials. If GOSUITES_APPS is 2 it is not the one that
// listens, so connections go from one application to another.
var dialing = sync.OnceValue(func() *ctnet.App {
	if os.Getenv("GOSUITES_APPS") != "2" {
		return nil
	}
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		panic(err)
	}
	return a
})

// note adds the way of a Dial to the file GOSUITES_WAYS: c is shared memory, k is the kernel's
// socket.
func note(c net.Conn) {
	if f := ways(); f != nil {
		if _, ok := c.(*ctnet.Conn); ok {
			f.WriteString("c")
		} else {
			f.WriteString("k")
		}
	}
}

var ways = sync.OnceValue(func() *os.File {
	name := os.Getenv("GOSUITES_WAYS")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	return f
})
