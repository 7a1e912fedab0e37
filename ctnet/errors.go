package ctnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"cutthrough.example/internal/syserr"
)

// canceled is what package net returns when the context of a Dial is canceled.
type canceled struct{}

func (canceled) Error() string        { return "operation was canceled" }
func (canceled) Is(target error) bool { return target == context.Canceled }

var _ net.Error = timedOut{}

// timedOut is the error of a Dial whose deadline has passed. Package net's is a
// context.DeadlineExceeded, that of all other calls an os.ErrDeadlineExceeded.
type timedOut struct{}

func (timedOut) Error() string   { return os.ErrDeadlineExceeded.Error() }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }
func (timedOut) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// opError returns err as package net would: io.EOF as it is, and everything else
// in a *net.OpError, an errno with the name of the call in between. Deadlines
// stay directly inside, where Timeout looks for them.
func opError(op string, source, addr net.Addr, err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case syscall.Errno:
		err = os.NewSyscallError(op, e)
	case *net.OpError:
		return e
	default:
		if err == io.EOF {
			return err
		}
	}
	return &net.OpError{Op: op, Net: addr.Network(), Source: source, Addr: addr, Err: err}
}

// asTimeout returns the error of package net's Dial, which is an os.ErrDeadlineExceeded
// too if the deadline has passed.
func asTimeout(err error) error {
	if e, ok := err.(*net.OpError); ok && e.Timeout() && e.Err.Error() == (timedOut{}).Error() {
		own := *e
		own.Err = timedOut{}
		return &own
	}
	return err
}

// failure makes the error of a Listen or Dial.
func failure(op, network, address string, err error) error {
	switch err {
	case context.Canceled:
		err = canceled{}
	case context.DeadlineExceeded:
		err = timedOut{}
	}
	if e, ok := err.(syscall.Errno); ok && op == "dial" {
		err = syserr.New(e, dialAdvice(e))
	}
	e := &net.OpError{Op: op, Net: network, Err: err}
	switch network {
	case networkCT:
		e.Addr = &Addr{name: address}
	case "unix":
		e.Addr = &net.UnixAddr{Name: address, Net: network}
	default:
		e.Addr = textAddr{network, address}
		if addr, err := netip.ParseAddrPort(address); err == nil {
			e.Addr = net.TCPAddrFromAddrPort(addr)
		}
	}
	return e
}

// A textAddr is an address that was not resolved.
type textAddr struct{ network, address string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.address }

func dialAdvice(e syscall.Errno) string {
	switch e {
	case syscall.ECONNREFUSED:
		return "no ctnet listener is there"
	case syscall.EACCES:
		return "the listener's Allow, or its user's being another, forbids it"
	case errHandedOn.Errno:
		return errHandedOn.Advice
	case syscall.ENOBUFS:
		return "the listener's application has reached a limit of its AppConfig"
	}
	return "the listener's application could not take the connection"
}
