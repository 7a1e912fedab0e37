// Package rendezvous lets the applications of a host find each other, by sockets in a directory,
// and exchange messages with descriptors.
//
// A listener binds a socket under the hash of its key ([Bind]); a dialer connects to it
// ([Dial]). Then they have a [Channel]: the kernel gives the credentials of the process at
// the other end, and the channel ends when that process does.
package rendezvous

import (
	"errors"
	"os"
	"syscall"

	"cutthrough.example/internal/syserr"
)

// ErrNobody means that there is no listener under a key. Compare it by ==: the error of a live
// listener that refuses a connection is ECONNREFUSED too, but not this value.
var ErrNobody error = syserr.New(syscall.ECONNREFUSED, "no ctnet listener is there")

// Errors of Bind and Dial.
var (
	ErrInUse    = syserr.New(syscall.EADDRINUSE, "another listener is there; close it, or choose another name or CTNET_DIR")
	ErrSilent   = syserr.New(syscall.ETIMEDOUT, "the listener's process did not answer; is it stopped?")
	ErrProtocol = syserr.New(syscall.EPROTO, "the peer broke the protocol")
	ErrNoRoom   = syserr.New(syscall.EMFILE, "no room for the descriptors that a peer has sent; raise RLIMIT_NOFILE")
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

// A Cred identifies the process at the other end of a channel, as the kernel reports it. PID is 0
// if the process is in a PID namespace that can't be seen from here.
type Cred struct {
	PID, UID, GID int
}

// Trusted reports whether a process belongs to this user or to root. By default only such a
// process may be at the other end.
func Trusted(c Cred) bool { return c.UID == os.Geteuid() || c.UID == 0 }
