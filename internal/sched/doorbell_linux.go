package sched

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Doorbell is the eventfd through which one peer wakes a worker. It may be rung until it
// is closed.
type Doorbell struct {
	fd int
}

// NewDoorbell makes a doorbell.
func NewDoorbell() (*Doorbell, error) {
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &Doorbell{fd}, nil
}

// OpenDoorbell makes a Doorbell of fd, which a peer made with [NewDoorbell], and owns fd
// unless it fails. It checks that fd is an eventfd, as a write to anything else could block.
func OpenDoorbell(fd int) (*Doorbell, error) {
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
		return nil, err
	} else if name != "anon_inode:[eventfd]" {
		return nil, errors.New("doorbell is not an eventfd")
	}
	return &Doorbell{fd}, nil
}

// FD returns the file descriptor, for passing it to a peer.
func (d *Doorbell) FD() int { return d.fd }

// Close closes the doorbell. No goroutine may ring it any more.
func (d *Doorbell) Close() { unix.Close(d.fd) }

var zero uint64

func (d *Doorbell) ring() {
	// Not a raw system call, as it can block: see [Remote].
	unix.Syscall(unix.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(&zero)), 8)
}

// A Remote is a peer's worker, for the goroutines that notify it.
//
// A ring can block only if the peer is hostile: it can drive the eventfd's
// counter to its very maximum by means other than writing, so that not even 0 can be
// added, and it can take away the non-blocking mode of the eventfd, which both
// applications hold. So at most one goroutine rings at a time, and a goroutine that also
// serves other peers leaves the ring to a goroutine of its own. Such a peer makes one call
// on its own connections hang, and nothing else.
type Remote struct {
	Events Bitmap         // of this pair; the worker takes the bits
	Sleep  *atomic.Uint32 // the worker's sleep word
	Bell   *Doorbell

	rung  atomic.Uint32 // the last sleep for which the doorbell was rung
	rings atomic.Uint32 // calls of Ring since a goroutine began to ring; 0 if none rings
}

// Notify tells the worker of an event at slot. It may block: see [Remote].
func (r *Remote) Notify(slot uint32) {
	if r.Post(slot) {
		r.Ring()
	}
}

// Post is the part of [Remote.Notify] that can't block. It reports whether the caller has
// to call [Remote.Ring].
func (r *Remote) Post(slot uint32) (asleep bool) {
	r.Events.Set(slot)
	// After the bit: a worker that announces its sleep after this load finds the
	// bit. It pairs with the store in polling.announce.
	sleep := r.Sleep.Load()
	if sleep&1 == 0 {
		return false
	}
	// One ring for each sleep. A goroutine that loses the exchange leaves the ring
	// to the winner.
	last := r.rung.Load()
	return last != sleep && r.rung.CompareAndSwap(last, sleep)
}

// Ring wakes the worker. If another goroutine is ringing, that goroutine rings once more,
// and Ring returns at once.
func (r *Remote) Ring() {
	n := r.rings.Add(1)
	if n > 1 {
		return
	}
	for {
		r.Bell.ring()
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
	bell *Doorbell // rung by the worker's own application: see kick
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
	e := &epoll{epfd: epfd, file: os.NewFile(uintptr(epfd), "ctnet worker")}
	e.conn, err = e.file.SyscallConn()
	if err == nil {
		e.bell, err = NewDoorbell()
	}
	if err == nil {
		err = e.add(e.bell.fd)
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *epoll) add(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.epfd, unix.EPOLL_CTL_ADD, fd, &ev))
}

func (e *epoll) remove(fd int) {
	unix.EpollCtl(e.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// kick wakes the worker from within its own application.
func (e *epoll) kick() { e.bell.ring() }

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
			return true // this sleep is over, whatever the reason for waking
		}
		announced = true
		return !announce()
	})
}

func (e *epoll) close() {
	e.file.Close()
	if e.bell != nil {
		e.bell.Close()
	}
}
