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

// A Doorbell is the eventfd on which a worker is woken by one peer. It may be
// rung until it is closed.
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

// OpenDoorbell takes over fd, a doorbell that a peer made, unless it fails. To
// write to anything but an eventfd could block, so it is checked to be one.
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

// Close closes the doorbell. Nobody may ring it any more.
func (d *Doorbell) Close() { unix.Close(d.fd) }

var zero uint64

func (d *Doorbell) ring() {
	// Not a raw system call, as it can block: see Remote.
	unix.Syscall(unix.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(&zero)), 8)
}

// A Remote is a worker of a peer, as those see it who notify it.
//
// To ring its doorbell can block only if the peer has gone out of its way: there
// are means other than writing to drive an eventfd's counter to its very maximum,
// where not even 0 can be added, and the peer that holds the same eventfd can take
// its non-blocking mode away. So at most one goroutine rings at a time, and those
// who serve other peers too leave it to a goroutine of its own: a peer that does
// such things makes one call on its own connections hang, and no more.
type Remote struct {
	Events Bitmap         // the worker's, for the slots of this pair
	Sleep  *atomic.Uint32 // the worker's sleep word
	Bell   *Doorbell

	rung  atomic.Uint32 // the sleep that was last rung
	rings atomic.Uint32 // how many times it was to be rung since somebody began to
}

// Notify tells the worker of an event at slot.
func (r *Remote) Notify(slot uint32) {
	if r.Post(slot) {
		r.Ring()
	}
}

// Post is the part of Notify that can't block. It reports whether the caller has
// to Ring.
func (r *Remote) Post(slot uint32) (asleep bool) {
	r.Events.Set(slot)
	// After the bit: the worker that announces its sleep after this look
	// finds the bit.
	sleep := r.Sleep.Load()
	if sleep&1 == 0 {
		return false
	}
	// One ring a sleep. Whoever loses the exchange leaves it to the winner.
	last := r.rung.Load()
	return last != sleep && r.rung.CompareAndSwap(last, sleep)
}

// Ring wakes the worker. While somebody else is at it, that one does it once more.
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

// An epoll is what a worker parks on: an epoll instance that holds its
// doorbells, itself registered with the runtime's network poller.
type epoll struct {
	epfd int
	bell *Doorbell // for the worker's own application
	file *os.File
	conn syscall.RawConn
}

func newEpoll() (*epoll, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// Non-blocking is what makes os.NewFile hand it to the network poller.
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

// wait parks until a doorbell rings, unless announce, which announces that the worker
// sleeps and then looks whether it may, returns false.
//
// RawConn.Read arms the network poller before it calls its function: it forgets the readiness
// that it knew of. So the order is arm, announce, look, park, and a ring for this sleep,
// which comes after the announcement, is never forgotten, not even one for an event that
// was delivered meanwhile: every peer leaves out further rings for a sleep that it has
// rung for. Model: sleep.pml.
func (e *epoll) wait(announce func() bool) {
	announced := false
	e.conn.Read(func(uintptr) bool {
		if announced {
			return true // whatever woke it, this sleep is over
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
