package ctnet

import (
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/wait"
)

// A halfOpen is a connection that was asked for and not yet accepted.
type halfOpen interface {
	// answer tells the dialer that it is connected. When it returns the dialer has
	// been told; it may be called again.
	answer()
	// accept returns the accepting end, answered, or nil if the dialer has given up.
	accept() *Conn
	// refuse tells the dialer that it is not connected.
	refuse(errno syscall.Errno)
	// drop resets a connection that nobody accepts, answered.
	drop()
}

// A backlog is a listener's queue of half-opens, in the order in which they
// came. The first so many are answered: their dialers are connected, as with
// TCP before Accept is called. The others wait for those to be accepted.
//
// Beside them there may be a connection of the kernel's, whose own queue is the
// kernel's.
type backlog struct {
	wait.Deadline
	size int
	bell wait.Bell

	mu     sync.Mutex
	queue  []halfOpen
	kernel []*kernelConn // to be accepted: one, and more only once it is closed
	streak int           // accepted since the kernel's last one
	closed bool

	// drained is closed when the kernel's listener gives no more connections;
	// nil if there is none.
	drained chan struct{}

	// pending reports whether the kernel has a connection that it has not
	// handed over yet; nil if that can't be told.
	pending func() bool
}

// maxStreak is how many connections are accepted at most while the kernel has one
// that waits, and its goroutine is late with it. That costs a system call.
const maxStreak = 8

// A kernelConn is a connection that the kernel's listener has accepted, or the
// reason why it has not.
type kernelConn struct {
	conn  net.Conn
	err   error
	taken chan struct{} // closed when it was, or never will be
}

func (b *backlog) init(size int) {
	b.size = size
	b.bell = wait.NewBell()
}

// drainTime is how long a connection that can be accepted though the listener is
// closed waits for that.
const drainTime = time.Second

// offerKernel hands over a connection of the kernel's, or an error, and waits until
// it is taken or the backlog is closed.
func (b *backlog) offerKernel(c net.Conn, err error) {
	k := &kernelConn{c, err, make(chan struct{})}
	b.mu.Lock()
	b.kernel = append(b.kernel, k)
	closed := b.closed
	b.mu.Unlock()
	b.bell.Ring()
	if !closed {
		<-k.taken
	}
}

// offer queues h. It never blocks.
func (b *backlog) offer(h halfOpen) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		h.refuse(syscall.ECONNREFUSED)
		return
	}
	b.queue = append(b.queue, h)
	room := len(b.queue) <= b.size
	b.mu.Unlock()
	if room {
		h.answer()
		b.bell.Ring()
	}
}

// take removes the queue's element i. Its place among the answered goes to the
// one behind these, which the caller must answer, with mu released.
func (b *backlog) take(i int) (h, next halfOpen) {
	h = b.queue[i]
	b.queue = slices.Delete(b.queue, i, i+1)
	if i < b.size && len(b.queue) >= b.size {
		next = b.queue[b.size-1]
	}
	return h, next
}

// withdraw removes a half-open whose dialer has given up, if it is still there,
// and closes it.
func (b *backlog) withdraw(h halfOpen) {
	b.mu.Lock()
	i := slices.Index(b.queue, h)
	if i < 0 {
		b.mu.Unlock()
		return
	}
	_, next := b.take(i)
	b.mu.Unlock()
	if next != nil {
		next.answer()
		b.bell.Ring()
	}
	h.drop()
}

// accept returns the first of the queue or the kernel's connection, in turns if
// there are both, waiting for one.
func (b *backlog) accept() (net.Conn, error) {
	for late := false; ; {
		b.mu.Lock()
		if b.closed && len(b.queue) == 0 && len(b.kernel) == 0 {
			b.mu.Unlock()
			b.bell.Ring() // to others who wait
			return b.last()
		}
		if b.Passed() {
			b.mu.Unlock()
			b.bell.Ring()
			return nil, os.ErrDeadlineExceeded
		}
		if len(b.kernel) == 0 && len(b.queue) > 0 && b.streak >= maxStreak && b.pending != nil && !late {
			b.mu.Unlock()
			b.awaitKernel()
			late = true
			continue
		}
		if len(b.kernel) > 0 && (b.streak > 0 || len(b.queue) == 0) {
			k := b.takeKernel()
			b.streak = 0
			more := b.more()
			if !b.closed {
				close(k.taken) // otherwise close has done so, or nobody waits
			}
			b.mu.Unlock()
			if more {
				b.bell.Ring()
			}
			return k.conn, k.err
		}
		if len(b.queue) > 0 {
			h, next := b.take(0)
			if b.streak++; late {
				b.streak = 1
			}
			more := b.more()
			b.mu.Unlock()
			if next != nil {
				next.answer()
			}
			if more {
				b.bell.Ring()
			}
			if c := h.accept(); c != nil {
				return c, nil
			}
			continue
		}
		b.mu.Unlock()
		<-b.bell
	}
}

// more reports whether another Accept has something to return, be it an error. The
// caller has mu.
func (b *backlog) more() bool { return len(b.queue) > 0 || len(b.kernel) > 0 || b.closed }

// drop closes what nobody has accepted after the listener was closed.
func (b *backlog) drop() {
	b.mu.Lock()
	queue, kernel := b.queue, b.kernel
	b.queue, b.kernel = nil, nil
	b.mu.Unlock()
	for _, h := range queue {
		h.drop()
	}
	for _, k := range kernel {
		if k.conn != nil {
			k.conn.Close()
		}
	}
}

// awaitKernel waits for a moment for the connection that the kernel has, if it has
// one. Another process that has the same listener may take it.
func (b *backlog) awaitKernel() {
	if !b.pending() {
		return
	}
	for start := time.Now(); time.Since(start) < time.Millisecond; runtime.Gosched() {
		b.mu.Lock()
		there := len(b.kernel) > 0 || b.closed
		b.mu.Unlock()
		if there {
			return
		}
	}
}

// Expired is called when the deadline for accepting passes.
func (b *backlog) Expired() { b.bell.Ring() }

func (b *backlog) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

func (b *backlog) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// takeKernel removes the first of the kernel's, of which there is one.
func (b *backlog) takeKernel() *kernelConn {
	k := b.kernel[0]
	b.kernel = b.kernel[1:]
	return k
}

// last returns the connection that the kernel's listener gave while it was being
// closed, if there is one, and net.ErrClosed otherwise.
func (b *backlog) last() (net.Conn, error) {
	if b.drained != nil {
		select {
		case <-b.drained:
		case <-time.After(drainTime): // not a listener of package net's
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for len(b.kernel) > 0 {
			if k := b.takeKernel(); k.conn != nil {
				return k.conn, nil
			}
		}
	}
	return nil, net.ErrClosed
}

// close refuses those who were not answered and resets those who were, or if drain
// is set leaves these to be accepted for a moment. So it does with a connection that
// the kernel has handed over: no one else has it. It returns false if the backlog was
// closed before.
func (b *backlog) close(drain bool) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.closed = true
	queue := b.queue
	b.queue = nil
	if drain {
		n := min(len(queue), b.size)
		b.queue, queue = queue[:n:n], queue[n:]
	}
	kernel := b.kernel
	b.mu.Unlock()
	b.Stop()
	b.bell.Ring()
	for _, k := range kernel {
		close(k.taken)
	}
	if b.drained != nil || drain {
		time.AfterFunc(drainTime, b.drop)
	}
	if drain {
		for _, h := range queue {
			h.refuse(syscall.ECONNREFUSED)
		}
		return true
	}
	for i, h := range queue {
		if i < b.size {
			h.drop()
		} else {
			h.refuse(syscall.ECONNREFUSED)
		}
	}
	return true
}
