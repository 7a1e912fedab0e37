// Package rendezvous lets the applications of a host find each other, and exchange messages with
// descriptors.
//
// A listener binds a socket under its key ([Bind]); a dialer connects to it ([Dial]). The
// socket's name is in the network namespace, as an abstract one, or in the directory that
// CTNET_DIR names. A user can occupy another user's name, and so a key has several; which of them
// is a listener's, the credentials decide that the kernel gives of the process at the other end.
//
// Then the two have a [Channel], which ends when the other process does.
package rendezvous

import (
	"errors"
	"syscall"

	"cutthrough.example/internal/syserr"
)

// ErrNobody means that there is no listener under a key. Compare it by ==: the error of a live
// listener that refuses a connection is ECONNREFUSED too, but not this value.
var ErrNobody error = syserr.New(syscall.ECONNREFUSED, "no ctnet listener is there")

// Errors of Bind and Dial.
var (
	ErrInUse      = syserr.New(syscall.EADDRINUSE, "another listener is there; close it, or choose another name")
	ErrNamesTaken = syserr.New(syscall.EADDRINUSE, "other users occupy all names that the address can have here")
	ErrSilent     = syserr.New(syscall.ETIMEDOUT, "the listener's process did not answer; is it stopped?")
	ErrProtocol   = syserr.New(syscall.EPROTO, "the peer broke the protocol")
	ErrNoRoom     = syserr.New(syscall.EMFILE, "no room for the descriptors that a peer has sent; raise RLIMIT_NOFILE")
)

// Broken returns ErrProtocol with the text of err, which says what the peer has sent. An err of
// this process's own system call is returned as it is.
func Broken(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return err
	}
	return syserr.New(syscall.EPROTO, "the peer broke the protocol: "+err.Error())
}

// Unusable is the error of a Bind or Dial in a process that can't find others, or be found: it may
// not make the sockets that are needed, or the directory can't be used.
type Unusable struct {
	Place string // the directory, or the words "the network namespace"
	Err   error
}

func (u *Unusable) Error() string {
	return "applications can't find each other in " + u.Place + ": " + u.Err.Error()
}
func (u *Unusable) Unwrap() error { return u.Err }
