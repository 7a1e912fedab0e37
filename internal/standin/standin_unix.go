//go:build unix

package standin

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Supported reports whether the system has such sockets.
const Supported = true

// Most is the most bytes that a [Socket] holds at a time.
const Most = 64 << 10

// A Socket stands in for a connection's descriptor. One goroutine at a time may call its methods,
// except for [Socket.FD], which any goroutine may call at any time before Close.
type Socket struct {
	user  int // the program's
	inner int // what is written to it is read from user; -1 after a reset
	ended bool
}

// New makes a Socket. The caller closes it.
func New() (*Socket, error) {
	user, inner, err := pair()
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	// A byte that nobody reads: a socket that is closed with bytes unread resets the other one,
	// on Linux. See End.
	if _, err = unix.Write(user, []byte{0}); err == nil {
		err = unix.Shutdown(user, unix.SHUT_WR)
	}
	if err != nil {
		unix.Close(user)
		unix.Close(inner)
		return nil, os.NewSyscallError("shutdown", err)
	}
	return &Socket{user: user, inner: inner}, nil
}

// FD returns the descriptor for the program. It is valid until Close.
func (s *Socket) FD() uintptr { return uintptr(s.user) }

// Put lets the program read b, which is no longer than Most, from the descriptor, as far as there is
// room for it. It returns how many bytes these are: none if the stream or the program has ended
// reading. It fails only if it has put in none.
func (s *Socket) Put(b []byte) (n int, err error) {
	if s.ended {
		return 0, nil
	}
	for n < len(b) {
		m, err := unix.Write(s.inner, b[n:])
		switch {
		case err == unix.EINTR:
		case n > 0 && err != nil, err == unix.EPIPE:
			return n, nil
		case err != nil:
			return 0, os.NewSyscallError("write", err)
		default:
			n += m
		}
	}
	return n, nil
}

// unwanted has buffers for bytes that nobody wants.
var unwanted = sync.Pool{New: func() any { return new([Most]byte) }}

// TakeBack removes the bytes that the program has not read, and returns how many there were. It
// removes them by one system call, so that a goroutine that reads from the descriptor at the same
// time has read the bytes before them.
func (s *Socket) TakeBack() int {
	b := unwanted.Get().(*[Most]byte)
	defer unwanted.Put(b)
	for {
		// The program may have made the descriptor blocking.
		n, _, err := unix.Recvfrom(s.user, b[:], unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0)
		}
	}
}

// End ends what the program reads: with an end of file or, on Linux, with ECONNRESET. The Socket
// is empty. Nothing can be put into it any more.
func (s *Socket) End(reset bool) {
	if s.ended {
		return
	}
	s.ended = true
	if reset {
		unix.Close(s.inner)
		s.inner = -1
	} else {
		unix.Shutdown(s.inner, unix.SHUT_WR)
	}
}

// Ended reports whether End was called.
func (s *Socket) Ended() bool { return s.ended }

// Close closes the descriptor. No goroutine uses it any more.
func (s *Socket) Close() {
	unix.Close(s.user)
	if s.inner >= 0 {
		unix.Close(s.inner)
	}
}
