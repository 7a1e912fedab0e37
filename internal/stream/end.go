// Package stream has one end of a connection: a byte stream each way over two fifos, with the
// deadlines, half-closes, resets and errors of a TCP connection.
//
// An [End] knows neither addresses nor where its fifos come from. It notifies its other end
// through a [Peer], and is woken by [End.Wake]. A [Junction] joins two ends of one process.
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
	"cutthrough.example/internal/standin"
	"cutthrough.example/internal/syserr"
	"cutthrough.example/internal/tap"
	"cutthrough.example/internal/wait"
)

// An End is one end of a connection. Any number of goroutines may use it at the same time.
type End struct {
	gate  gate
	state atomic.Uint32 // isClosed and so on

	rx ring.Consumer // guarded by the lock for reading
	tx ring.Producer // guarded by the lock for writing
	rd half
	wr half

	// raceKey tells the race detector that a Write happens before the Read that returns
	// its bytes.
	raceKey uint64

	peer    Peer
	janitor *Janitor

	scratch  []byte      // the buffer that Reserve returned in place of the fifo; guarded as tx
	written  int         // bytes since a writer has yielded its P; guarded as tx
	reserved atomic.Bool // Commit must follow
	watched  atomic.Bool // the janitor may know the end

	tcp    bool // a Write after the peer's Close succeeds once, as with TCP; see unnoticed
	bubble bool // see InBubble

	rare atomic.Pointer[rare] // nil as long as nothing of it was needed

	made     time.Duration // since epoch
	sighting sighting
	totals   *Totals
	recorded *[2]recorded // by the last Status, for each kind of lock; guarded by totals.mu
}

// A rare has what ends do not need in each call, and many never. Its size would also move an end's other
// words into other cache lines: the two ends of a connection in one application lie side by side.
type rare struct {
	socket atomic.Pointer[standin.Socket] // nil before the first raw call; see raw.go
	tap    atomic.Pointer[tap.Tap]        // nil if there is no capture; see capture.go
	events atomic.Pointer[recorder]       // nil before the first event; see events.go
}

// makeRare returns the end's rare, and makes it if there is none.
func (e *End) makeRare() *rare {
	if e.rare.Load() == nil {
		e.rare.CompareAndSwap(nil, new(rare))
	}
	return e.rare.Load()
}

// A half is the state of waiting that reading and writing each have.
type half struct {
	wait.Waiter
	wait.Deadline
	spin    sched.Spin
	resting atomic.Uint32
	waiters *waiters // for the gate's lock

	tally tally // guarded by the gate's lock, and resting
}

// nearAhead is how many bytes a writer gets ahead of a reader in its own process before it
// yields its P. These bytes are still in the CPU's cache when the reader runs there.
const nearAhead = 64 << 10

// yieldEvery is how many bytes a goroutine writes before it yields its P. A writer whose
// reader keeps up never has to wait, as it would with a kernel's small buffers; otherwise
// other goroutines starve until the runtime preempts it (10 ms).
const yieldEvery = 1 << 20

// Expired is called when the deadline passes.
func (h *half) Expired() {
	h.Wake()
	h.waiters.ring()
}

// The bits of End.state. Except for lingerZero and captured they are set once and never cleared. A goroutine
// that sets a bit then wakes the goroutines for which the bit ends a wait.
const (
	isClosed    = 1 << iota // by Close or Refuse
	readClosed              // by CloseRead
	writeClosed             // by CloseWrite
	peerGone                // the other process died, or detached
	corrupted               // the peer broke the protocol
	bytesLost               // the peer closed without having read a Write's bytes
	lingerZero              // by SetLinger(0)
	severed                 // by Sever
	captured                // by Capture, until EndCapture
)

// A Peer is an end's way to its other end.
type Peer interface {
	// Notify wakes the other end, because something it waits for may have come. It never
	// blocks.
	Notify()
	// CutOff tells that the other end's process has broken the protocol. It never blocks.
	CutOff()
	// Poller delivers the events that the other end sends, for [sched.Spin.Until]. It is
	// nil if the other end is in this application.
	Poller() sched.Poller
	// Trim returns the pages of a part of the fifo that this end writes to, in which there
	// are no bytes, to the system.
	Trim(b []byte)
	// LetGo tells that the end does not use its fifos any more. It is called once, when
	// the end is closed and the last goroutine has left it.
	LetGo()
}

// Options are the options of an End.
type Options struct {
	// RaceKey is the same at both ends of a connection, and at no others.
	RaceKey uint64
	// TCP makes the first Write after the peer's Close succeed, as on a TCP socket.
	TCP bool
	// Janitor looks after the rings. Without one they grow as they like and stay so. Its
	// Memory was charged for two rings of ring.MinSize, once for the two ends of a Junction.
	Janitor *Janitor
	// Totals count what the end does. Without any it is not counted together with other ends.
	Totals *Totals
}

// Init makes e an end that reads from rx and writes to tx. It must be called before
// anything else.
func (e *End) Init(rx, tx ring.Fifo, p Peer, o Options) {
	now := time.Now()
	e.bubble = wait.IsBubble(now)
	e.made = now.Sub(epoch)
	e.sighting.at.Store(int64(e.made))
	e.gate.init(e.bubble)
	e.rd.Init()
	e.wr.Init()
	e.rd.waiters, e.wr.waiters = &e.gate.waiters[reading], &e.gate.waiters[writing]
	e.peer = p
	e.janitor = o.Janitor
	if e.totals = o.Totals; e.totals == nil {
		e.totals = new(Totals)
	}
	e.tx.Init(tx.Header, tx.Data, (*payer)(e))
	if e.joint() != nil {
		e.rx.Init(rx.Header, rx.Data, nil) // the other end is charged
	} else {
		e.rx.Init(rx.Header, rx.Data, (*payer)(e))
	}
	e.raceKey, e.tcp = o.RaceKey, o.TCP
}

// look calls ready for a moment, because a result within that moment spares a wake-up.
func (e *End) look(h *half, ready func() bool) bool {
	found := false
	if poller := e.peer.Poller(); poller == nil {
		found = sched.Yield(ready)
	} else {
		found = h.spin.Until(poller, ready)
	}
	if found {
		h.tally.polls++
	}
	return found
}

// notify notifies the peer, which waits for what the holder of the half's lock has done.
func (e *End) notify(h *half) {
	h.tally.wakes++
	e.peer.Notify()
}

// Wake wakes the goroutines that wait at this end, because the other end may have done what
// they wait for. It never blocks.
func (e *End) Wake() {
	e.rd.Wake()
	e.wr.Wake()
}

// PeerGone says that the other end does not exist any more. It never blocks.
func (e *End) PeerGone() {
	e.state.Or(peerGone)
	if !e.Closed() { // else nobody asks any more
		e.note(EventPeerGone)
	}
	e.Wake()
}

// Enter enters the end, which keeps its fifos until [End.Leave]. It returns false if the end
// is closed.
func (e *End) Enter() bool { return e.gate.enter() }

// InBubble reports whether the end was made in a testing/synctest bubble.
func (e *End) InBubble() bool { return e.bubble }

// Closed reports whether [End.Close] or [End.Refuse] was called.
func (e *End) Closed() bool { return e.state.Load()&isClosed != 0 }

// AwaitPeer waits until ready returns true. It calls ready after each wake-up, and announce
// before each call of ready after which the goroutine may sleep. The user must not have the
// end yet: AwaitPeer waits in place of a reader.
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

// Used returns up to which offset this end has read rx's data and written tx's data.
func (e *End) Used() (rx, tx int) { return e.rx.Used(), e.tx.Used() }

// Charged returns for how many bytes of its fifos the janitor's Memory is charged. Nobody uses
// the fifos any more.
func (e *End) Charged() int { return e.rx.Charged() + e.tx.Ring() }

// payer is an End as its fifos know it.
type payer End

// MayGrow, Plenty, Charge and Spread implement [ring.Owner].
func (p *payer) MayGrow(n int) bool { return p.janitor == nil || p.janitor.Memory.MayGrow(n) }

func (p *payer) Plenty(n int) bool { return p.janitor == nil || p.janitor.Memory.Plenty(n) }

func (p *payer) Charge(n int) {
	if p.janitor != nil {
		p.janitor.Memory.Charge(n)
	}
}

func (p *payer) Spread() { p.janitor.watch((*End)(p)) }

// A Status describes an end.
type Status struct {
	Closed      bool // then the other fields are zero
	WriteClosed bool // by CloseWrite
	PeerClosed  bool // the peer has ended its stream, or is gone
	Reset       bool // Read returns ECONNRESET, at the latest after the bytes that have come

	Recv, Send Flow

	Age  time.Duration // since Init
	Idle time.Duration // for how long nothing has moved, as far as is known
}

// Status describes e. It returns false if e is closed and nothing holds its memory.
//
// Idle is the time since bytes had moved when a goroutine went to sleep at this end, or when an
// earlier Status looked, whichever was last. If others have moved since, it is 0.
func (e *End) Status() (s Status, ok bool) {
	if !e.gate.enter() {
		return Status{Closed: true}, e.gate.held()
	}
	defer e.Leave()
	now := time.Since(epoch)
	e.seen(now)
	fin, reset := e.rx.Ended()
	e.noteEnd(fin, reset)
	state := e.state.Load()
	return Status{
		WriteClosed: state&writeClosed != 0,
		PeerClosed:  fin || reset || state&(peerGone|corrupted) != 0,
		Reset:       reset || state&(bytesLost|corrupted|severed) != 0 || !fin && state&peerGone != 0,
		Recv:        e.flow(reading, e.rx.Passed(), e.rx.Queued(), e.rx.Size(), now),
		Send:        e.flow(writing, e.tx.Passed(), e.tx.Queued(), e.tx.Size(), now),
		Age:         max(0, now-e.made),
		Idle:        max(0, now-time.Duration(e.sighting.at.Load())),
	}, true
}

// WasReset reports whether the connection, from which all goroutines have gone, ended with a reset,
// whichever side has caused it.
func (e *End) WasReset() bool {
	fin, reset := e.rx.Ended()
	state := e.state.Load()
	return reset || e.tx.WasReset() || state&(bytesLost|corrupted|severed) != 0 || !fin && state&peerGone != 0
}

// corrupt ends a connection whose peer broke the protocol. The caller has a lock.
func (e *End) corrupt() error {
	e.state.Or(corrupted)
	e.note(EventPeerBroke)
	e.rx.Close()
	e.endStream()
	e.Wake()
	e.peer.CutOff()
	return errCorrupt
}

var errCorrupt = syserr.New(syscall.ECONNRESET, ring.ErrCorrupt.Error())

// Read reads up to len(b) bytes. It waits until there is at least one, the deadline passes,
// or the stream ends: with io.EOF if the peer closed its end or its writing side, with
// ECONNRESET if the peer reset the connection or died. The bytes that the peer wrote before
// are read first.
func (e *End) Read(b []byte) (n int, err error) {
	if err := e.lockRead(); err != nil {
		return 0, err
	}
	n, err = e.read(b)
	e.unlock(reading)
	return n, err
}

// lockRead locks reading, and so ends the view from the last Peek.
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
		seen := e.state.Load()&captured != 0
		if seen {
			e.captureArrived()
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
			if n > 0 {
				e.rd.tally.pieces++
			}
			n += m
			if e.rx.SpaceWanted() {
				e.notify(&e.rd)
			}
		}
		if n > 0 {
			e.did(&e.rd)
			ring.RaceAcquire(e.raceKey)
			if seen {
				e.captureRead(b[:n])
			}
			return n, nil
		}
		if end.err != nil {
			e.stopReading()
			return 0, end.err
		}
		if n := e.awaitInto(b); n > 0 {
			e.did(&e.rd)
			e.rd.tally.direct += uint64(n)
			ring.RaceAcquire(e.raceKey)
			if e.state.Load()&captured != 0 {
				e.captureRead(b[:n])
			}
			return n, nil
		}
	}
}

// A readEnd says how reading ends. It does not end if err is nil.
type readEnd struct {
	err  error
	once bool // reading ends at once, and otherwise when the fifo is empty
}

// readEnd returns how reading ends. Call it before looking for bytes: then all bytes that came
// before the end are visible. The call that returns the end to the user stops the consumer,
// so that no call returns bytes afterwards. An honest peer publishes nothing after fin or
// reset, but it may still publish after CloseRead or after the end of the control channel.
func (e *End) readEnd() readEnd {
	// The state before the fifo: a peer that is gone stores nothing any more.
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
	if state&severed != 0 {
		return readEnd{syscall.ECONNRESET, true}
	}
	return readEnd{err: e.streamEnd(state)}
}

// streamEnd returns the error with which reading ends when the fifo is empty, or nil. The state was
// loaded just before.
func (e *End) streamEnd(state uint32) error {
	fin, reset := e.rx.Ended()
	switch {
	case reset || state&bytesLost != 0:
		return syscall.ECONNRESET
	case fin || state&readClosed != 0:
		return io.EOF
	case state&peerGone != 0 || e.rx.Stopped():
		return syscall.ECONNRESET
	}
	return nil
}

// stopReading stops the consumer. It is called by a goroutine that returns the end of the stream to the
// user. Most connections end so, and many are short: an end at which nobody has slept is spared the clock.
// It has the time from the first one who looks.
func (e *End) stopReading() {
	e.rx.Stop()
	if e.state.Load()&captured != 0 {
		e.captureStop()
	}
	if e.recording() != nil {
		e.noteEnd(e.rx.Ended())
	}
}

// awaitReadable waits until n bytes can be read, and returns how many can be read. If there
// are fewer it returns an error, which is bufio.ErrBufferFull if the fifo is smaller than n.
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
			e.stopReading()
			return have, end.err
		case n > e.rx.Size():
			return have, bufio.ErrBufferFull
		}
		e.awaitData(have, nil)
	}
}

// awaitData waits until more than have bytes can be read, or until there is another reason to
// look again: an end, the deadline, or that a writer has used in.
func (e *End) awaitData(have int, in *handoff) {
	ready := func() bool {
		if e.rx.HasData(have) || e.rd.Passed() || e.state.Load()&^(writeClosed|lingerZero|captured) != 0 {
			return true
		}
		fin, reset := e.rx.Ended()
		return fin || reset || in != nil && in.used()
	}
	e.sleepForData(have, ready)
}

// sleepForData waits until ready returns true, or until the peer has published more than have bytes,
// or has ended the stream.
func (e *End) sleepForData(have int, ready func() bool) {
	if e.look(&e.rd, ready) {
		return
	}
	e.rd.Prepare()
	e.rx.RequestData()
	// The producer may wait for more space than is free, and would then never publish the
	// bytes for which this consumer waits. Pairs with End.awaitSpace, which raises the
	// producer's request and then loads this one.
	if have > 0 && e.rx.AnySpaceWanted() {
		e.notify(&e.rd)
	}
	if ready() {
		e.rd.Cancel()
	} else {
		n := e.rd.sleep(e)
		joint := e.joint()
		e.stalled(reading, n, e.rx.HasData(have) || joint != nil && joint.in.used())
	}
	e.rx.DropRequest()
}

// Write writes all of b, and waits while the fifo is full. If the deadline passes or either end
// is closed, it returns the number of bytes that it wrote and an error. If the peer has closed,
// the error is EPIPE if the peer had read everything, and ECONNRESET otherwise.
//
// If Write returns nil, the peer has read the bytes or can read them, or this end will get
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
		m := e.handOff(b[n:])
		if n += m; m == 0 {
			if e.state.Load()&captured != 0 {
				m, err = e.writeCaptured(b[n:])
			} else {
				m, err = e.tx.Write(b[n:])
			}
			if err != nil {
				return n, e.corrupt()
			}
			if n += m; m == 0 {
				e.awaitSpace(min(len(b)-n, e.tx.Ring()/4), true)
			} else if e.tx.DataWanted() {
				e.notify(&e.wr)
			}
			e.maybeYield(m)
			if e.joint() != nil && e.tx.Queued() >= nearAhead {
				runtime.Gosched()
			}
		}
		if n == len(b) {
			e.did(&e.wr)
			return n, e.afterWrite()
		}
		if m > 0 {
			e.wr.tally.pieces++
		}
		if err := e.beforeWrite(); err != nil {
			return n, err
		}
	}
}

// maybeYield counts n written bytes, and yields the P after each yieldEvery.
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

// afterWrite returns an error if the bytes that were just published must not count as written.
// They count if this end is closed meanwhile, as the stream ends after them: see ending.go.
// They also count if the peer has closed, as with TCP: either the peer has read them, or Read
// at this end will return ECONNRESET. Programs rely on that: net/http repeats a request on a
// connection that the server was just closing if reading fails, but not if writing fails.
func (e *End) afterWrite() error {
	switch state := e.state.Load(); {
	case state&corrupted != 0:
		return errCorrupt
	case state&severed != 0:
		return syscall.ECONNRESET
	}
	if e.peerEnd() != nil && !e.tx.Empty() {
		e.lose()
	}
	return nil
}

// lose makes Read return ECONNRESET, because bytes that were written got lost.
func (e *End) lose() {
	e.state.Or(bytesLost)
	e.rd.Wake()
}

// lost returns an error if bytes that are published now would never be read.
func (e *End) lost() error {
	switch state := e.state.Load(); {
	case state&isClosed != 0:
		return net.ErrClosed
	case state&corrupted != 0:
		return errCorrupt
	case state&severed != 0:
		return syscall.ECONNRESET
	case state&writeClosed != 0:
		return syscall.EPIPE
	}
	return e.peerEnd()
}

// peerEnd returns an error if the peer doesn't read any more. A closing reader stores the closed
// mark before it looks for unread bytes (End.shutdown). So if this end publishes and then does
// not see the mark, the reader finds these bytes, or has read them.
func (e *End) peerEnd() error {
	state := e.state.Load()
	if e.tx.ConsumerClosed() {
		// The reader stores the mark before fin or reset. If bytes are unread it is
		// going to reset. A fin alone proves nothing: it may come from an earlier
		// CloseWrite, or be older than the bytes that were just published.
		fin, reset := e.rx.Ended()
		e.noteEnd(fin, reset)
		if reset || !e.tx.Empty() || state&bytesLost != 0 && !e.tcp {
			return syscall.ECONNRESET
		}
		return syscall.EPIPE
	}
	if state&peerGone != 0 {
		return syscall.ECONNRESET
	}
	return nil
}

// unnoticed reports whether err means that the peer has read everything and closed, and a TCP
// socket would not know that yet. On a socket the first write after that succeeds, and the
// peer's kernel answers it with a reset. TLS sends its close_notify in such a write. The bytes
// are lost, so the caller must call lose.
func (e *End) unnoticed(err error) bool {
	return err == syscall.EPIPE && e.tcp && e.state.Load()&(writeClosed|bytesLost) == 0
}

// awaitSpace waits until n bytes are free, or until there is another reason to look again, such
// as that the fifo is to become larger for a peer that waits for more bytes than it holds. If
// fewer is true, one such reason is that a byte is free and the peer waits for more bytes than
// it has. A caller that needs all n bytes must not set fewer: both sides would wake each other
// for ever.
func (e *End) awaitSpace(n int, fewer bool) {
	ready := func() bool {
		return e.tx.HasSpace(n) || e.wr.Passed() || e.tx.ConsumerClosed() ||
			e.state.Load()&^(readClosed|lingerZero|captured) != 0 || e.tx.Starves() ||
			fewer && e.tx.ConsumerWaits() && e.tx.HasSpace(1)
	}
	e.sleepForSpace(ready)
}

// sleepForSpace waits until ready returns true, or until the peer has released bytes or has closed
// its end.
func (e *End) sleepForSpace(ready func() bool) {
	if e.look(&e.wr, ready) {
		return
	}
	e.wr.Prepare()
	e.tx.RequestSpace()
	if ready() {
		e.wr.Cancel()
	} else {
		n := e.wr.sleep(e)
		e.stalled(writing, n, e.tx.HasSpace(1))
	}
	e.tx.DropRequest()
}

// SetLinger with now makes [End.Close] reset the connection, so that the peer gets ECONNRESET
// after the bytes that were written.
func (e *End) SetLinger(now bool) error {
	return e.control(func() {
		if now {
			e.state.Or(lingerZero)
		} else {
			e.state.And(^uint32(lingerZero))
		}
	})
}

// SetReadDeadline sets the time after which reading fails with os.ErrDeadlineExceeded, also in
// calls that are blocked. The zero time means never.
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
