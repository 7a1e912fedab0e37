// Package stream is one end of a connection: a byte stream each way over two fifos, with the
// deadlines, half-closes, resets and errors of a TCP connection.
//
// An [End] knows neither addresses nor how the fifos came to be here. It notifies its other
// end through a [Peer], and is woken by [End.Wake]. Two ends of one process are joined by
// [Join].
//
// Errors are returned bare: io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, a syscall.Errno
// or a *syserr.Error.
package stream

import (
	"bufio"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/syserr"
	"cutthrough.example/internal/wait"
)

// An End is one end of a connection. Any number of goroutines may use it at the same time.
type End struct {
	gate  gate
	state atomic.Uint32 // this end's, see below

	rx ring.Consumer // guarded by the lock for reading
	tx ring.Producer // guarded by the lock for writing
	rd half
	wr half

	// raceKey orders, for the race detector, what happened before a Write
	// and after the Read that returns its bytes.
	raceKey uint64

	peer    Peer
	memory  Memory
	janitor *Janitor

	scratch  []byte      // what Reserve lent in place of the fifo; guarded as tx
	written  int         // bytes since the writer has yielded its P; guarded as tx
	reserved atomic.Bool // Commit must follow

	tcp bool // a Write after the peer's close does as TCP's; see unnoticed
}

// A half is what reading and writing have each for themselves.
type half struct {
	wait.Waiter
	wait.Deadline
	spin    sched.Spin
	waiters wait.Bell // for the gate's lock
}

// nearAhead is how many bytes a writer gets ahead of a reader in its own process before it
// yields its P: that many are still in the CPU's cache when the reader runs there.
const nearAhead = 64 << 10

// yieldEvery is how many bytes a goroutine writes before it yields its P. A writer whose
// reader keeps up never has to wait, as it would with a kernel's small buffers; otherwise
// other goroutines starve until the runtime preempts it (10 ms).
const yieldEvery = 1 << 20

// Expired is called when the deadline passes.
func (h *half) Expired() {
	h.Wake()
	h.waiters.Ring()
}

// The bits of End.state. Except for lingerZero they are set once and never cleared. The
// goroutine that sets a bit wakes the goroutines that wait afterwards.
const (
	isClosed    = 1 << iota // by Close
	readClosed              // by CloseRead
	writeClosed             // by CloseWrite
	peerGone                // the other process died, or detached
	corrupted               // the peer broke the rules
	bytesLost               // the peer closed without having read a Write's bytes
	lingerZero              // by SetLinger(0)
)

// A Peer is an end's way to its other end.
type Peer interface {
	// Notify tells the other end that something it waits for may have come.
	// NotifyApart does so for calls that never wait.
	Notify()
	NotifyApart()
	// Poller is what to keep while looking whether the other end has done
	// something, or nil if that is done in this application.
	Poller() sched.Poller
	// Trim gives back the pages of a part of the fifo that this end writes to, in which
	// there are no bytes.
	Trim(b []byte)
	// Release lets go of the fifos. It is called once, when the end
	// is closed and nobody is inside any more.
	Release()
}

// Options are what an End is made with besides its fifos.
type Options struct {
	// RaceKey is the same at both ends of a connection, and at no others.
	RaceKey uint64
	// TCP has the first Write after the peer's close succeed, as TCP's does.
	TCP bool
	// First is the size of the rings with which the fifos begin; 0 is ring.FirstSize.
	// Memory was charged for both, once for the two ends of a Junction. A nil Memory has
	// any amount.
	First  int
	Memory Memory
	// Janitor makes rings that are not in use small again.
	Janitor *Janitor
}

// A Memory counts the bytes of all rings of an application.
type Memory interface {
	// MayGrow reports whether there are n bytes more for a fifo to go faster.
	MayGrow(n int) bool
	// Charge counts n bytes more, which may be negative.
	Charge(n int)
}

// Init makes e an end that reads from rx and writes to tx. It must be called before
// anything else.
func (e *End) Init(rx, tx ring.Fifo, p Peer, o Options) {
	e.gate.init()
	e.rd.Init()
	e.wr.Init()
	e.rd.waiters, e.wr.waiters = e.gate.waiters[reading], e.gate.waiters[writing]
	e.peer = p
	e.memory, e.janitor = o.Memory, o.Janitor
	if o.First == 0 {
		o.First = ring.FirstSize
	}
	e.tx.Init(tx.Header, tx.Data, o.First, (*owner)(e))
	if e.joint() != nil {
		e.rx.Init(rx.Header, rx.Data, o.First, nil) // the other end is charged
	} else {
		e.rx.Init(rx.Header, rx.Data, o.First, (*owner)(e))
	}
	e.raceKey, e.tcp = o.RaceKey, o.TCP
}

// look looks at ready for a moment, which may spare a wake-up.
func (e *End) look(h *half, ready func() bool) bool {
	poller := e.peer.Poller()
	if poller == nil {
		return sched.Yield(ready)
	}
	return h.spin.Until(poller, ready)
}

// Wake is called when the other end may have done what this one waits for.
// It never blocks.
func (e *End) Wake() {
	e.rd.Wake()
	e.wr.Wake()
}

// PeerGone is called when there is no other end any more. It never blocks.
func (e *End) PeerGone() {
	e.state.Or(peerGone)
	e.Wake()
}

// Enter keeps the fifos until Leave, unless the end is closed.
func (e *End) Enter() bool { return e.gate.enter() }

// Closed reports whether Close or Withdraw was called.
func (e *End) Closed() bool { return e.state.Load()&isClosed != 0 }

// AwaitPeer waits until ready returns true, looking each time that the end is woken. It is
// for an end that nobody reads from or writes to yet. announce is called before a look that
// may be the last one before the goroutine sleeps.
func (e *End) AwaitPeer(ready func() bool, announce func()) {
	var spin sched.Spin
	if spin.Until(nil, ready) {
		return
	}
	for {
		e.rd.Prepare()
		announce()
		if ready() {
			e.rd.Cancel()
			return
		}
		e.rd.Wait()
	}
}

// Used returns how many bytes of each fifo's data were used, by this end as it knows.
func (e *End) Used() (rx, tx int) { return e.rx.Used(), e.tx.Used() }

// Charged returns for how many bytes of its fifos the end's Memory is charged. Nobody uses
// the fifos any more.
func (e *End) Charged() int { return e.rx.Charged() + e.tx.Charged() }

// owner is an End as its fifos know it.
type owner End

func (o *owner) MayGrow(n int) bool { return o.memory == nil || o.memory.MayGrow(n) }

func (o *owner) Charge(n int) {
	if o.memory != nil {
		o.memory.Charge(n)
	}
}

func (o *owner) Spread() { o.janitor.watch((*End)(o)) }

// A Status is what can be seen of an end from outside.
type Status struct {
	Closed      bool // and the rest is not known
	WriteClosed bool // by CloseWrite
	PeerClosed  bool // or gone

	// Bytes that wait to be read here and by the peer, and what there is room for.
	RecvQueue, RecvBuffer int
	SendQueue, SendBuffer int
}

// Status returns what can be seen of e. It returns false if e is closed and nobody holds
// its memory.
func (e *End) Status() (s Status, ok bool) {
	if !e.gate.enter() {
		return Status{Closed: true}, e.gate.held()
	}
	defer e.Leave()
	fin, reset := e.rx.Ended()
	state := e.state.Load()
	return Status{
		WriteClosed: state&writeClosed != 0,
		PeerClosed:  fin || reset || state&(peerGone|corrupted) != 0,
		RecvQueue:   e.rx.Queued(), RecvBuffer: e.rx.Size(),
		SendQueue: e.tx.Queued(), SendBuffer: e.tx.Size(),
	}, true
}

// corrupt ends a connection whose peer broke the rules. The caller has a lock.
func (e *End) corrupt() error {
	e.state.Or(corrupted)
	e.rx.Close()
	e.endStream()
	e.Wake()
	return errCorrupt
}

var errCorrupt = syserr.New(syscall.ECONNRESET, ring.ErrCorrupt.Error())

// Read reads up to len(b) bytes. It waits until there is at least one, the deadline passes,
// or the stream ends: with io.EOF if the peer closed its end or its writing side, with
// ECONNRESET if the peer reset the connection or died. What the peer wrote before it did
// either is read first.
func (e *End) Read(b []byte) (n int, err error) {
	if err := e.lockRead(); err != nil {
		return 0, err
	}
	n, err = e.read(b)
	e.unlock(reading)
	return n, err
}

// lockRead takes the lock for reading, which ends the last Peek.
func (e *End) lockRead() error {
	err := e.gate.lock(reading, &e.rd.Deadline)
	if err != os.ErrDeadlineExceeded && e.gate.endPeek() {
		e.letGo()
	}
	return err
}

func (e *End) read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		end := e.readEnd()
		if end.once {
			return 0, end.err
		}
		n := 0
		for n < len(b) {
			m, err := e.rx.Read(b[n:])
			if err != nil {
				return n, e.corrupt()
			}
			if m == 0 {
				break
			}
			n += m
			if e.rx.SpaceWanted() {
				e.peer.Notify()
			}
		}
		if n > 0 {
			ring.RaceAcquire(e.raceKey)
			return n, nil
		}
		if end.err != nil {
			e.rx.Stop()
			return 0, end.err
		}
		if n := e.awaitInto(b); n > 0 {
			ring.RaceAcquire(e.raceKey)
			return n, nil
		}
	}
}

// A readEnd says that reading ends, if err is not nil: at once, whatever lies in the fifo, or
// when the fifo is empty.
type readEnd struct {
	err  error
	once bool // at once
}

// readEnd returns how reading ends. Call it before looking for bytes: all bytes that came
// before the end are visible then. The call that tells the user of the end stops the
// consumer. An honest peer publishes nothing after it has told of its end, but the end may
// also be known from elsewhere: the control channel, CloseRead.
func (e *End) readEnd() readEnd {
	// The state first: a peer that is gone has done all that it did.
	state := e.state.Load()
	if state&isClosed != 0 {
		return readEnd{net.ErrClosed, true}
	}
	if e.rd.Passed() {
		return readEnd{os.ErrDeadlineExceeded, true}
	}
	if state&corrupted != 0 {
		return readEnd{errCorrupt, true}
	}
	fin, reset := e.rx.Ended()
	switch {
	case reset || state&bytesLost != 0:
		return readEnd{err: syscall.ECONNRESET}
	case fin || state&readClosed != 0:
		return readEnd{err: io.EOF}
	case state&peerGone != 0 || e.rx.Stopped():
		return readEnd{err: syscall.ECONNRESET}
	}
	return readEnd{}
}

// awaitReadable waits until n bytes can be read, and returns how many can. If these are
// fewer the error says why there will not be more: bufio.ErrBufferFull if the fifo is
// smaller than n.
func (e *End) awaitReadable(n int) (have int, err error) {
	for {
		end := e.readEnd()
		if end.once {
			return 0, end.err
		}
		have, err := e.rx.Buffered(n)
		switch {
		case err != nil:
			return 0, e.corrupt()
		case have >= n:
			return have, nil
		case end.err != nil:
			e.rx.Stop()
			return have, end.err
		case n > e.rx.Size():
			return have, bufio.ErrBufferFull
		}
		e.awaitData(have, nil)
	}
}

// awaitData waits until there are more than have bytes to read, or there is any
// other reason to look again, such as that in was used.
func (e *End) awaitData(have int, in *handoff) {
	ready := func() bool {
		if e.rx.HasData(have) || e.rd.Passed() || e.state.Load()&^(writeClosed|lingerZero) != 0 {
			return true
		}
		fin, reset := e.rx.Ended()
		return fin || reset || in != nil && in.used()
	}
	if e.look(&e.rd, ready) {
		return
	}
	e.rd.Prepare()
	e.rx.RequestData()
	// A producer that waits for more space than there is would never fill the
	// fifo to where this waits. It looks at the request after making its own.
	if have > 0 && e.rx.AnySpaceWanted() {
		e.peer.Notify()
	}
	if ready() {
		e.rd.Cancel()
	} else {
		e.rd.Wait()
	}
	e.rx.DropRequest()
}

// Write writes all of b, unless the deadline passes, the connection is closed, or the peer
// has: then it returns how much it wrote and the reason, EPIPE if the peer had read
// everything and closed in order, ECONNRESET otherwise. It waits while the fifo is full.
//
// If Write returns nil then the bytes have been read, or can be, or this end will get
// ECONNRESET.
func (e *End) Write(b []byte) (n int, err error) {
	if err := e.gate.lock(writing, &e.wr.Deadline); err != nil {
		return 0, err
	}
	n, err = e.write(b)
	e.unlock(writing)
	return n, err
}

func (e *End) write(b []byte) (n int, err error) {
	if err := e.beforeWrite(); err != nil || len(b) == 0 {
		if e.unnoticed(err) {
			if len(b) > 0 {
				e.lose()
			}
			return len(b), nil
		}
		return 0, err
	}
	ring.RaceRelease(e.raceKey)
	for {
		m := e.give(b[n:])
		if n += m; m == 0 {
			if m, err = e.tx.Write(b[n:]); err != nil {
				return n, e.corrupt()
			}
			if n += m; m == 0 {
				e.awaitSpace(min(len(b)-n, e.tx.Ring()/4), true)
			} else if e.tx.DataWanted() {
				e.peer.Notify()
			}
			e.maybeYield(m)
			if e.joint() != nil && e.tx.Queued() >= nearAhead {
				runtime.Gosched()
			}
		}
		if n == len(b) {
			return n, e.afterWrite()
		}
		if err := e.beforeWrite(); err != nil {
			return n, err
		}
	}
}

// maybeYield yields the P when many bytes were written; these are n more.
func (e *End) maybeYield(n int) {
	if e.written += n; e.written >= yieldEvery {
		e.written = 0
		runtime.Gosched()
	}
}

// beforeWrite returns an error if nothing may be written.
func (e *End) beforeWrite() error {
	if e.wr.Passed() && e.state.Load()&isClosed == 0 {
		return os.ErrDeadlineExceeded
	}
	return e.lost()
}

// afterWrite returns an error if what was just published must not count. It does
// count if this end is closed meanwhile, as the stream ends after it: see ending.go. It
// counts as well if the peer has closed, as with TCP: either the bytes were read, or
// Read is going to say that the connection was reset. Programs rely on that: net/http
// repeats a request that it wrote to a connection which the server was just closing,
// if reading fails, and not if writing did.
func (e *End) afterWrite() error {
	if e.state.Load()&corrupted != 0 {
		return errCorrupt
	}
	if e.peerEnd() != nil && !e.tx.Taken() {
		e.lose()
	}
	return nil
}

// lose has Read say that bytes that were written got lost.
func (e *End) lose() {
	e.state.Or(bytesLost)
	e.rd.Wake()
}

// lost returns an error if what is published would never be read.
func (e *End) lost() error {
	switch state := e.state.Load(); {
	case state&isClosed != 0:
		return net.ErrClosed
	case state&corrupted != 0:
		return errCorrupt
	case state&writeClosed != 0:
		return syscall.EPIPE
	}
	return e.peerEnd()
}

// peerEnd returns an error if the peer doesn't read any more. A closing reader sets
// its mark before it looks for unread bytes. So if the mark is not to be seen after a
// publish, then the reader finds these bytes, or has read them.
func (e *End) peerEnd() error {
	state := e.state.Load()
	if e.tx.ConsumerClosed() {
		// The mark comes before the end. But a reader that closes with bytes
		// unread is going to reset. A fin says nothing: it may be an earlier one, of
		// CloseWrite, or come before what was just published.
		if _, reset := e.rx.Ended(); reset || !e.tx.Taken() || state&bytesLost != 0 && !e.tcp {
			return syscall.ECONNRESET
		}
		return syscall.EPIPE
	}
	if state&peerGone != 0 {
		return syscall.ECONNRESET
	}
	return nil
}

// unnoticed reports whether err says that the peer has closed, having read all, and
// a TCP socket would not know it yet: the first write succeeds there, and makes the
// peer's kernel answer with a reset. TLS says goodbye in such a write. The bytes are
// lost, which the caller must say with lose.
func (e *End) unnoticed(err error) bool {
	return err == syscall.EPIPE && e.tcp && e.state.Load()&(writeClosed|bytesLost) == 0
}

// awaitSpace waits until n bytes are free, or there is any other reason to look
// again: such as that the fifo is to become larger for a peer that waits for more bytes than
// it holds. With fewer, one is that at least one byte is free and the peer waits for more
// bytes than it has. A caller that needs all n must not set it: both sides would wake each
// other for ever.
func (e *End) awaitSpace(n int, fewer bool) {
	ready := func() bool {
		return e.tx.HasSpace(n) || e.wr.Passed() || e.tx.ConsumerClosed() ||
			e.state.Load()&^(readClosed|lingerZero) != 0 || e.tx.Starves() ||
			fewer && e.tx.ConsumerWaits() && e.tx.HasSpace(1)
	}
	if e.look(&e.wr, ready) {
		return
	}
	e.wr.Prepare()
	e.tx.RequestSpace()
	if ready() {
		e.wr.Cancel()
	} else {
		e.wr.Wait()
	}
	e.tx.DropRequest()
}

// SetLinger with now has Close reset the connection, so that the peer gets ECONNRESET after
// what was written.
func (e *End) SetLinger(now bool) error {
	return e.control(func() {
		if now {
			e.state.Or(lingerZero)
		} else {
			e.state.And(^uint32(lingerZero))
		}
	})
}

// SetReadDeadline sets the time after which reading fails with os.ErrDeadlineExceeded, also
// where it is blocked. The zero time means never.
func (e *End) SetReadDeadline(t time.Time) error {
	return e.control(func() { e.rd.Set(t, &e.rd) })
}

// SetWriteDeadline is SetReadDeadline for writing.
func (e *End) SetWriteDeadline(t time.Time) error {
	return e.control(func() { e.wr.Set(t, &e.wr) })
}

// control calls f unless the end is closed.
func (e *End) control(f func()) error {
	if !e.gate.enter() {
		return net.ErrClosed
	}
	f()
	e.Leave()
	return nil
}
