package ctnet

import (
	"context"
	"net"
	"os"
	"runtime"
	"runtime/trace"
	"slices"
	"sort"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/wait"
)

// An incoming is a connection through shared memory that a dialer has asked for and that was
// not accepted yet. Answering it tells the dialer that it is connected.
type incoming interface {
	// answer answers the dialer. The answer is stored when answer returns. It may be called
	// again.
	answer()
	// accept answers, and returns the accepting end, or nil if the dialer has given up.
	accept() *conn
	// refuse tells the dialer that it is not connected.
	refuse(errno syscall.Errno)
	// drop answers, and resets the connection, which will not be accepted.
	drop()
}

// A backlog is what a listener's Accept takes connections from. They come from two sources:
//
//   - The queue has the connections through shared memory, in the order in which dialers
//     asked for them, but so that peers take turns ([backlog.offer]). The first size of them
//     are answered, so their dialers are connected, as with TCP before Accept is called. The
//     others are answered as Accept makes room.
//   - The kernel's listener. A goroutine accepts its connections and hands them over, one at
//     a time ([backlog.offerKernel]). All others wait in the kernel's own queue, where another
//     process that has the same listener can take them.
//
// Accept takes from both in turns. What an Accept does is decided in one place,
// [backlog.next].
//
// A closed backlog drains: for drainTime Accept still returns connections that would be
// lost otherwise. These are the connection that the kernel's listener has accepted, and after
// a takeover the answered connections of the queue ([drainAnswered]). After drainTime, or as
// soon as no more connections can come, Accept returns net.ErrClosed.
type backlog struct {
	wait.Deadline // of Accept
	size          int
	pending       func() bool // reports whether the kernel has a connection; nil if it can't be asked

	// bell wakes goroutines that wait in accept. A goroutine rings it after a change that
	// can make next return another step than stepWait. A ring wakes only one goroutine,
	// which then rings again if next still returns another step (unlockAndRing).
	bell wait.Bell

	closing chan struct{} // closed when the backlog is

	mu          sync.Mutex
	queue       []queued
	round       uint64      // of the connection that was taken from the queue last
	kernel      *kernelConn // was handed over and not taken yet; or nil
	kernelEnded bool        // offerKernel will not be called again
	streak      int         // connections taken from the queue since the kernel's last one, or since awaitKernel gave up
	closed      bool
	drained     bool // closed, and drainTime has passed
}

// A kernelConn is a result of the kernel's listener's Accept.
type kernelConn struct {
	conn  net.Conn
	err   error
	taken chan struct{} // closed when accept has taken it
}

const (
	// maxStreak is how many connections are taken from the queue in a row before Accept
	// asks the kernel, by a system call, whether it has a connection, and waits for it.
	maxStreak = 8

	// kernelPatience is how long Accept waits then. acceptKernel hands over the connection
	// within microseconds, unless its thread waits for a CPU.
	kernelPatience = 10 * time.Millisecond

	// drainTime is how long connections can be accepted after the backlog was closed.
	drainTime = time.Second
)

func (b *backlog) init(size int) {
	b.size = size
	b.bell = wait.NewBell()
	b.closing = make(chan struct{})
	b.kernelEnded = true
}

// expectKernel says that offerKernel may be called, until endKernel. It is called before any
// other method but init.
func (b *backlog) expectKernel(pending func() bool) {
	b.kernelEnded = false
	b.pending = pending
}

// turns are a peer's, in the queues of the backlogs that it dials: the connections of several
// peers are taken in turns, however many one of them has there. A backlog's mu guards it.
type turns struct{ last uint64 }

// A queued is a connection in the queue.
type queued struct {
	incoming
	round    uint64 // connections are taken in the order of rounds; in each a peer has one
	answered bool
}

// offer adds h, which comes from a peer with turns t, to the queue. It never blocks.
func (b *backlog) offer(h incoming, t *turns) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		h.refuse(syscall.ECONNREFUSED)
		return
	}
	t.last = max(t.last+1, b.round)
	i := sort.Search(len(b.queue), func(i int) bool { return b.queue[i].round > t.last })
	answerNow := i < b.size
	b.queue = slices.Insert(b.queue, i, queued{h, t.last, answerNow})
	b.mu.Unlock()
	if answerNow {
		h.answer()
		b.bell.Ring()
	}
}

// withdraw removes h, whose dialer has given up, from the queue if it is still there, and
// drops it.
func (b *backlog) withdraw(h incoming) {
	b.mu.Lock()
	i := slices.IndexFunc(b.queue, func(q queued) bool { return q.incoming == h })
	if i < 0 {
		b.mu.Unlock()
		return
	}
	_, answerNow := b.take(i)
	b.mu.Unlock()
	if answerNow != nil {
		answerNow.answer()
	}
	h.drop()
}

// take removes the queue's element i. If that makes room for another connection to be
// answered, take returns it too, and the caller answers it after it has unlocked mu.
func (b *backlog) take(i int) (h, answerNow incoming) {
	h = b.queue[i].incoming
	b.queue = slices.Delete(b.queue, i, i+1)
	if len(b.queue) >= b.size && !b.queue[b.size-1].answered {
		b.queue[b.size-1].answered = true
		answerNow = b.queue[b.size-1].incoming
	}
	return h, answerNow
}

// offerKernel hands over a result of the kernel's listener's Accept, and waits until accept
// has taken it. It returns false if the backlog is closed: the caller accepts no more.
func (b *backlog) offerKernel(c net.Conn, err error) bool {
	k := &kernelConn{c, err, make(chan struct{})}
	b.mu.Lock()
	open, lost := !b.closed, b.drained
	if open || err == nil && !lost {
		b.kernel = k
	}
	b.mu.Unlock()
	b.bell.Ring()
	if lost && err == nil {
		c.Close()
	}
	if !open {
		return false
	}
	select {
	case <-k.taken:
		return true
	case <-b.closing:
		return false
	}
}

// endKernel says that offerKernel will not be called again.
func (b *backlog) endKernel() {
	b.mu.Lock()
	b.kernelEnded = true
	b.mu.Unlock()
	b.bell.Ring()
}

// A step is what an Accept does next.
type step int

const (
	stepWait        step = iota // there is nothing to accept
	stepTakeQueued              // take the first connection of the queue
	stepTakeKernel              // take the kernel's connection
	stepAwaitKernel             // wait for the kernel's connection: it is its turn
	stepDeadline                // fail: the deadline has passed
	stepClosed                  // fail: the backlog is closed, and nothing is left
)

// next decides what an Accept does next. The caller holds mu.
func (b *backlog) next() step {
	queued, kernel := len(b.queue) > 0, b.kernel != nil
	switch {
	case !b.closed && b.Passed():
		return stepDeadline
	case queued && kernel:
		if b.streak > 0 {
			return stepTakeKernel
		}
		return stepTakeQueued
	case kernel:
		return stepTakeKernel
	case queued:
		if b.streak >= maxStreak && b.pending != nil && !b.closed {
			return stepAwaitKernel
		}
		return stepTakeQueued
	case b.closed && (b.kernelEnded || b.drained):
		return stepClosed
	}
	return stepWait
}

// accept returns the next connection, waiting for it.
func (b *backlog) accept() (net.Conn, error) {
	for {
		b.mu.Lock()
		switch b.next() {
		case stepWait:
			b.mu.Unlock()
			waiting := trace.StartRegion(context.Background(), "ctnet.Accept")
			<-b.bell
			waiting.End()
		case stepAwaitKernel:
			b.mu.Unlock()
			b.awaitKernel()
		case stepTakeQueued:
			b.round = b.queue[0].round
			h, answerNow := b.take(0)
			b.streak++
			b.unlockAndRing()
			if answerNow != nil {
				answerNow.answer()
			}
			if c := h.accept(); c != nil {
				return c.handOut(), nil
			}
		case stepTakeKernel:
			k := b.kernel
			b.kernel = nil
			b.streak = 0
			b.unlockAndRing()
			close(k.taken)
			return k.conn, k.err
		case stepDeadline:
			b.unlockAndRing()
			return nil, os.ErrDeadlineExceeded
		case stepClosed:
			b.unlockAndRing()
			return nil, net.ErrClosed
		}
	}
}

// unlockAndRing unlocks mu, and wakes another goroutine in accept unless that would wait again.
func (b *backlog) unlockAndRing() {
	more := b.next() != stepWait
	b.mu.Unlock()
	if more {
		b.bell.Ring()
	}
}

// awaitKernel waits until acceptKernel hands over the connection that the kernel has. It waits
// for kernelPatience at most, and only while the kernel has one: another process with the same
// listener may take it.
func (b *backlog) awaitKernel() {
	const yields = 100
	for start := time.Now(); b.pending() && time.Since(start) < kernelPatience; time.Sleep(100 * time.Microsecond) {
		for range yields { // acceptKernel is mostly ready on this P
			runtime.Gosched()
			if b.kernelCame() {
				return
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kernel == nil {
		b.streak = 0
	}
}

// kernelCame reports whether awaitKernel may return: the connection was handed over, or the
// backlog is closed.
func (b *backlog) kernelCame() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kernel != nil || b.closed
}

// Expired is called when the deadline passes.
func (b *backlog) Expired() { b.bell.Ring() }

// waiting returns the length of the queue.
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

// A closeMode says what [backlog.close] does with the answered connections in the queue. It
// refuses the others.
type closeMode int

const (
	// resetAnswered resets them. Their dialers notice, and may dial again.
	resetAnswered closeMode = iota
	// drainAnswered lets Accept return them for drainTime. It is for a listener whose
	// address another listener has taken over, which its dialers can't notice.
	drainAnswered
)

// close closes the backlog. It returns false if the backlog was closed before.
func (b *backlog) close(how closeMode) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.closed = true
	var drain, end []queued
	for _, q := range b.queue {
		if q.answered && how == drainAnswered {
			drain = append(drain, q)
		} else {
			end = append(end, q)
		}
	}
	b.queue = drain
	if b.kernel != nil && b.kernel.err != nil {
		b.kernel = nil // Accept returns net.ErrClosed
	}
	draining := len(b.queue) > 0 || !b.kernelEnded
	b.mu.Unlock()
	close(b.closing)
	b.Stop()
	b.bell.Ring()
	if draining {
		time.AfterFunc(drainTime, b.endDrain)
	}
	for _, h := range end {
		if h.answered {
			h.drop()
		} else {
			h.refuse(syscall.ECONNREFUSED)
		}
	}
	return true
}

// endDrain closes the connections that were not accepted within drainTime.
func (b *backlog) endDrain() {
	b.mu.Lock()
	b.drained = true
	queue, k := b.queue, b.kernel
	b.queue, b.kernel = nil, nil
	b.mu.Unlock()
	b.bell.Ring()
	for _, h := range queue {
		h.drop()
	}
	if k != nil {
		k.conn.Close()
	}
}
