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

// canceled is the error of a Dial whose context was canceled. Its text is package net's.
type canceled struct{}

func (canceled) Error() string        { return "operation was canceled" }
func (canceled) Is(target error) bool { return target == context.Canceled }

var _ net.Error = timedOut{}

// timedOut is the error of a Dial whose deadline has passed. It is a context.DeadlineExceeded,
// as the error of package net's Dial is, and an os.ErrDeadlineExceeded, as the errors of all
// other calls are.
type timedOut struct{}

func (timedOut) Error() string   { return os.ErrDeadlineExceeded.Error() }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }
func (timedOut) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// opError returns err in the form that package net has for it: io.EOF as it is, and any other
// error in a *net.OpError. An errno is wrapped in an *os.SyscallError first, with the name of
// the call. os.ErrDeadlineExceeded is not, as OpError.Timeout looks for it directly inside.
func opError(op, network string, source, addr net.Addr, err error) error {
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
	return &net.OpError{Op: op, Net: network, Source: source, Addr: addr, Err: err}
}

// asTimeout returns an error of package net's Dial. If the deadline has passed the error is
// made an os.ErrDeadlineExceeded too, see timedOut.
func asTimeout(err error) error {
	if e, ok := err.(*net.OpError); ok && e.Timeout() && e.Err.Error() == (timedOut{}).Error() {
		own := *e
		own.Err = timedOut{}
		return &own
	}
	return err
}

// failure returns the error of a Listen or Dial: a *net.OpError with the address as it was
// given. An errno of a Dial is completed with advice.
func failure(op, network, address string, err error) error {
	switch err {
	case context.Canceled:
		err = canceled{}
	case context.DeadlineExceeded:
		err = timedOut{}
	}
	if op == "dial" {
		err = advised(err)
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

// advised returns an errno of a Dial with advice, and any other error as it is.
func advised(err error) error {
	if e, ok := err.(syscall.Errno); ok {
		return syserr.New(e, dialAdvice(e))
	}
	return err
}

// A textAddr is an address that was not parsed or resolved.
type textAddr struct{ network, address string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.address }

// dialAdvice returns what an errno means for the caller of Dial.
func dialAdvice(e syscall.Errno) string {
	switch e {
	case syscall.ECONNREFUSED:
		return "the listener there is closing, or another one has its place now; try again"
	case syscall.EACCES:
		return "the listener's Allow, or its user's being another, forbids it"
	case errHandedOn.Errno:
		return errHandedOn.Advice
	case syscall.ENOBUFS:
		return "the listener's application has reached a limit of its AppConfig"
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		return "this process, or the listener's, has no more descriptors or memory; raise the limit, or try again"
	}
	return "the listener's application could not take the connection"
}
