package ctnet

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
)

// networkCT is the network whose addresses are names.
const networkCT = "ct"

// canceled is what package net returns when the context of a Dial is canceled.
type canceled struct{}

func (canceled) Error() string        { return "operation was canceled" }
func (canceled) Is(target error) bool { return target == context.Canceled }

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
