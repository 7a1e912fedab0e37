package sched

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Doorbell is the worker's end of a pair of connected unix sockets. A byte that arrives
// wakes the worker. One peer has the other end, as a [Ringer].
//
// The worker never reads the bytes: a peer can have descriptors come with them, and to
// discard these can block. [Doorbell.Empty] does that, in a goroutine that serves this peer
// only.
type Doorbell struct {
	fd    int
	rings uint64 // bytes that Empty has read
}

// ringerBuffer bounds the bytes that lie unread in a doorbell's queue, by the memory that
// the kernel counts for them: that is less than a kilobyte each, so there is room for more
// than a hundred.
const ringerBuffer = 64 << 10

// NewDoorbell makes a doorbell. It returns the descriptor of the other end too, which is for
// the peer; the caller closes it.
func NewDoorbell() (d *Doorbell, ringerFD int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, ringerBuffer); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, -1, os.NewSyscallError("setsockopt", err)
	}
	return &Doorbell{fd: fds[0]}, fds[1], nil
}

// Empty reads all bytes, so that the peer can ring again, and returns how many bytes it has
// read so far. One goroutine at a time may call it. It can block for as long as the peer
// likes.
func (d *Doorbell) Empty() uint64 {
	var b [256]byte
	for {
		n, _, err := unix.Recvfrom(d.fd, b[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return d.rings
		}
		d.rings += uint64(n)
	}
}

// Close closes the doorbell. Like Empty it can block.
func (d *Doorbell) Close() { unix.Close(d.fd) }

// A Ringer is the end of a peer's [Doorbell] that rings it.
//
// To ring never blocks, whatever the peer does to this socket, which both applications hold:
// each send says by a flag that it does not wait, and does not depend on the mode of the
// descriptor, which the peer can change. A unix socket's send takes no lock that anybody
// holds for long. An eventfd, a pipe or a socket of another family would not do: a write to an
// eventfd whose counter is at its maximum blocks if the peer has cleared O_NONBLOCK; a pipe
// and the others have locks that a peer can hold for ever, by a system call that reads from
// memory whose page faults it serves itself.
type Ringer struct {
	fd int
}

// OpenRinger makes a Ringer of fd, which a peer made with [NewDoorbell]. It owns fd, unless it
// fails.
func OpenRinger(fd int) (*Ringer, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == unix.ENOTSOCK {
		return nil, errors.New("the doorbell is not a socket")
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return nil, errors.New("the doorbell is not a unix stream socket")
	}
	return &Ringer{fd}, nil
}

// Close closes the ringer. It can block for as long as the peer likes. No goroutine may ring
// any more.
func (r *Ringer) Close() { unix.Close(r.fd) }

var ding [1]byte

// ring puts a byte into the doorbell's queue. It returns false if the queue is full.
func (r *Ringer) ring() bool {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(r.fd), uintptr(unsafe.Pointer(&ding)), 1,
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			return errno != unix.EAGAIN && errno != unix.ENOBUFS && errno != unix.ENOMEM
		}
	}
}

// A Remote is a peer's worker, as the goroutines see it that notify it.
type Remote struct {
	Events Bitmap         // of the slots of this pair; the worker takes the bits
	Sleep  *atomic.Uint32 // the worker's sleep word
	Bell   *Ringer

	// Full is called when the doorbell's queue is full. It sends a message, on which the peer
	// calls [Worker.Empty]. If there is no room for that, the peer has messages that it has not
	// received, and will do so on these. It must not block.
	Full func()

	rung  atomic.Uint32 // the last sleep for which the doorbell was rung
	rings atomic.Uint32 // calls of ring since a goroutine began to ring; 0 if none rings
	full  bool          // Full was called since a byte found room; of the goroutine that rings
}

// Notify tells the worker of an event at slot. It never blocks.
func (r *Remote) Notify(slot uint32) {
	r.Events.Set(slot)
	// After the bit: a worker that announces its sleep after this load finds the
	// bit. It pairs with the store in polling.announce.
	if sleep := r.Sleep.Load(); sleep&1 != 0 && sleep != r.rung.Load() {
		r.ring()
	}
}

// ring wakes the worker, unless it is awake or the doorbell was rung for this sleep. If
// another goroutine is ringing, that goroutine looks once more, and ring returns at once. So
// a peer rings once for each sleep at most, which is what the other side counts on.
func (r *Remote) ring() {
	n := r.rings.Add(1)
	if n > 1 {
		return
	}
	for {
		if sleep := r.Sleep.Load(); sleep&1 != 0 && sleep != r.rung.Load() {
			r.rung.Store(sleep)
			if r.Bell.ring() {
				r.full = false
			} else if !r.full {
				// If it was called before, the peer has not emptied the queue since,
				// and wakes the worker when it has.
				r.full = true
				r.Full()
			}
		}
		if r.rings.CompareAndSwap(n, 0) {
			return
		}
		n = r.rings.Load()
	}
}

// An epoll is what a worker parks on: an epoll instance that holds the worker's
// doorbells, and is itself registered with the runtime's network poller.
type epoll struct {
	epfd int
	self int // an eventfd that wakes the worker from within its own application: see kick
	file *os.File
	conn syscall.RawConn
}

func newEpoll() (*epoll, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile registers only a non-blocking descriptor with the network poller.
	if err := unix.SetNonblock(epfd, true); err != nil {
		unix.Close(epfd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	e := &epoll{epfd: epfd, self: -1, file: os.NewFile(uintptr(epfd), "ctnet worker")}
	e.conn, err = e.file.SyscallConn()
	if err == nil {
		// os.NewFile doesn't say that it could not register the descriptor, nor why.
		if e.file.SetDeadline(time.Time{}) != nil {
			err = fmt.Errorf("the network poller can't watch one more descriptor, perhaps because of fs.epoll.max_user_watches: %w", syscall.ENOSPC)
		}
	}
	if err == nil {
		// Its counter is 1 from the start and is never read, so it is always readable: to
		// write 0 makes an edge.
		if e.self, err = unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			err = os.NewSyscallError("eventfd", err)
		}
	}
	if err == nil {
		err = e.add(e.self, kindBell)
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// What a descriptor is whose readiness wakes the worker.
const (
	kindBell    = iota // a doorbell, or what kick rings
	kindProcess        // that of a process: ended returns it
)

func (e *epoll) add(fd int, kind int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(fd), Pad: kind}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.epfd, unix.EPOLL_CTL_ADD, fd, &ev))
}

func (e *epoll) remove(fd int) {
	unix.EpollCtl(e.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

var zero uint64

// kick wakes the worker from within its own application. No other process has the eventfd.
func (e *epoll) kick() {
	unix.Syscall(unix.SYS_WRITE, uintptr(e.self), uintptr(unsafe.Pointer(&zero)), 8)
}

// ended returns the descriptors of the processes that have ended since the last call.
func (e *epoll) ended() (fds []int) {
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(e.epfd, events[:], 0)
		if err != nil {
			return fds // EINTR: the next call returns the others
		}
		for _, ev := range events[:n] {
			if ev.Pad == kindProcess {
				fds = append(fds, int(ev.Fd))
			}
		}
		if n < len(events) {
			return fds
		}
	}
}

// wait parks until a doorbell rings. First it calls announce, which announces that the
// worker sleeps and then reports whether there is nothing to do; if announce returns
// false, wait returns at once.
//
// RawConn.Read arms the network poller before it calls its function: it forgets the
// readiness that it knew of. So the order is arm, announce, look, park. A ring for this
// sleep comes after the announcement, and so it is never forgotten, even if it is for an
// event that was delivered meanwhile. That matters because a peer rings once for each
// sleep. Model: sleep.pml.
func (e *epoll) wait(announce func() bool) {
	announced := false
	e.conn.Read(func(uintptr) bool {
		if announced {
			return true // whatever the reason for waking, this sleep is over
		}
		announced = true
		return !announce()
	})
}

func (e *epoll) close() {
	e.file.Close()
	if e.self >= 0 {
		unix.Close(e.self)
	}
}
