package ctnet

import (
	"context"
	"errors"
	"net"
	"syscall"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

// A Fallback says why a Dial did not connect through shared memory. If it may use the kernel's
// socket it did so, and tells [Dialer.Fallback]; otherwise the Fallback is in its error:
//
//	var f *ctnet.Fallback
//	if errors.As(err, &f) && f.Reason == ctnet.ReasonNotTrusted { … }
type Fallback struct {
	Reason Reason

	// Network and Address are the arguments of Dial. If the address stood for others, Address
	// is the one that was connected to.
	Network, Address string

	// UID is the user of the listener's process if Reason is ReasonNotTrusted, and -1 otherwise.
	UID int

	// Looked are the abstract names, or the paths, at which the Dial looked for a listener; none
	// if it did not look. A listener that has its first one taken by another user has the next.
	Looked []string

	Err error // the cause
}

func (f *Fallback) Error() string {
	s := f.Err.Error()
	if f.Reason == ReasonAbsent && len(f.Looked) > 0 {
		s += "; looked for " + f.Looked[0]
		if len(f.Looked) > 1 {
			s += " and others"
		}
	}
	return s
}

func (f *Fallback) Unwrap() error { return f.Err }

// Timeout reports whether the listener did not answer in time, and Temporary whether the next Dial
// may succeed; they are for net.Error.
func (f *Fallback) Timeout() bool {
	e, ok := f.Err.(interface{ Timeout() bool })
	return ok && e.Timeout()
}

func (f *Fallback) Temporary() bool {
	e, ok := f.Err.(interface{ Temporary() bool })
	return ok && e.Temporary()
}

// A Reason says in a word why a connection does not go through shared memory.
type Reason string

// The reasons.
const (
	ReasonAbsent         Reason = "absent"           // no ctnet listener is at the address
	ReasonNotHere        Reason = "not-here"         // the address belongs to another host or network namespace, or has a zone
	ReasonOtherNamespace Reason = "other-namespace"  // the socket file's listener is in another network namespace
	ReasonNotTrusted     Reason = "not-trusted"      // the listener belongs to a user whom the dialer does not trust
	ReasonForbidden      Reason = "forbidden"        // the listener does not trust the dialer
	ReasonOtherVersion   Reason = "other-version"    // the listener's process has another version of the protocol
	ReasonBrokeProtocol  Reason = "broke-protocol"   // the listener's process broke the protocol
	ReasonLimitReached   Reason = "limit-reached"    // of connections or memory, on either side
	ReasonOutOfResources Reason = "out-of-resources" // no more descriptors, or memory, on either side
	ReasonSilent         Reason = "silent"           // the listener's process did not answer in time
	ReasonClosing        Reason = "closing"          // the listener is closing, or was just replaced
	ReasonHandedOn       Reason = "handed-on"        // the listener was handed on with [Listener.File]
	ReasonUnusable       Reason = "unusable"         // on either side sockets or memory can't be made, or the directory in CTNET_DIR can't be used
	ReasonHasLocalAddr   Reason = "has-local-addr"   // Dialer.Kernel.LocalAddr is set
	ReasonSwitchedOff    Reason = "switched-off"     // by CTNET_KERNEL_ONLY
	ReasonInBubble       Reason = "in-bubble"        // the program runs in a testing/synctest bubble
	ReasonFailed         Reason = "failed"           // anything else; see the error
)

// Errors that say why a Dial does not look for a listener.
var (
	errLocalAddr   = syserr.New(syscall.EINVAL, "Dialer.Kernel.LocalAddr is set, which needs the kernel's socket")
	errSwitchedOff = syserr.New(syscall.EOPNOTSUPP, "CTNET_KERNEL_ONLY is set")
	errInBubble    = syserr.New(syscall.EOPNOTSUPP, "in a testing/synctest bubble only network ct has shared memory")
	errNotShared   = syserr.New(syscall.ECONNREFUSED, "an address with a zone, and one of multicast, has no cut-through")
)

// Errors that say more of an absence than [rendezvous.ErrNobody] does.
var (
	errNotHere        = syserr.New(syscall.ECONNREFUSED, "the address belongs to another host or network namespace")
	errOtherNamespace = syserr.New(syscall.ECONNREFUSED, "the listener's process is in another network namespace; share it, or a directory by CTNET_DIR")
)

// reasonOf returns the reason for which a Dial has failed with err.
func reasonOf(err error) Reason {
	switch err {
	case rendezvous.ErrNobody:
		return ReasonAbsent
	case errNotHere, errNotShared:
		return ReasonNotHere
	case errOtherNamespace:
		return ReasonOtherNamespace
	case errHandedOn, errHandedOn.Errno:
		return ReasonHandedOn
	case errLocalAddr:
		return ReasonHasLocalAddr
	case errSwitchedOff:
		return ReasonSwitchedOff
	case errInBubble:
		return ReasonInBubble
	case rendezvous.ErrSilent, context.DeadlineExceeded:
		return ReasonSilent
	case hostnet.ErrNoNamespace:
		return ReasonUnusable
	}
	var unusable *rendezvous.Unusable
	switch {
	case errors.As(err, &unusable):
		return ReasonUnusable
	case isStranger(err):
		return ReasonNotTrusted
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	switch errno {
	case syscall.EACCES:
		return ReasonForbidden
	case syscall.EPROTONOSUPPORT:
		return ReasonOtherVersion
	case syscall.EPROTO:
		return ReasonBrokeProtocol
	case syscall.ENOBUFS:
		return ReasonLimitReached
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		return ReasonOutOfResources
	case syscall.ECONNREFUSED:
		return ReasonClosing
	case syscall.EPERM, syscall.ENOSYS: // from memfd_create
		return ReasonUnusable
	}
	return ReasonFailed
}

// isFault reports whether somebody should look at a reason: with other settings, or a process that
// behaves, there would be shared memory.
func (r Reason) isFault() bool {
	switch r {
	case ReasonAbsent, ReasonNotHere, ReasonClosing, ReasonHandedOn, ReasonHasLocalAddr, ReasonSwitchedOff, ReasonInBubble:
		return false
	}
	return true
}

// newFallback returns the Fallback of a Dial that has failed with err. t may be nil.
func newFallback(network, address string, t *target, err error) *Fallback {
	f := &Fallback{Reason: reasonOf(err), Network: network, Address: address, UID: -1, Err: advised(err)}
	if s, ok := err.(*rendezvous.Stranger); ok {
		f.UID = s.Cred.UID
	}
	if t != nil {
		f.Looked = t.looked()
	}
	return f
}

// explain returns the error of a Dial that has failed with err and has no other way. t may be nil.
func explain(network, address string, t *target, err error) error {
	if err == context.Canceled || err == context.DeadlineExceeded || err == net.ErrClosed {
		return err
	}
	return newFallback(network, address, t, foundOut(err, nil))
}

// foundOut returns the cause of a Dial that has found no listener: why it could not find one, if that
// is so, and what its connection through the kernel's socket tells, if there is one.
func foundOut(cause error, kernel net.Conn) error {
	if cause != rendezvous.ErrNobody {
		return cause
	}
	if err := rendezvous.Check(); err != nil {
		return err
	}
	if kernel == nil {
		return cause
	}
	switch remote := kernel.RemoteAddr().(type) {
	case *net.TCPAddr:
		local, ok := kernel.LocalAddr().(*net.TCPAddr)
		if ok && !remote.IP.IsLoopback() && !remote.IP.Equal(local.IP) {
			return errNotHere
		}
	case *net.UnixAddr:
		if !hostnet.IsAbstract(remote.Name) && hostnet.PeerElsewhere(kernel) {
			return errOtherNamespace
		}
	}
	return cause
}
