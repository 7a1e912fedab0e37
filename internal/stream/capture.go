package stream

import (
	"syscall"
	"time"

	"cutthrough.example/internal/syserr"
	"cutthrough.example/internal/tap"
)

// A capture copies what passes an end to a [tap.Tap]. Without one that costs a look at a bit of the end's
// state.
//
// Bytes that are sent are recorded in one step with their publishing, under the Tap's lock. Bytes that are
// received are recorded before the user gets to see them: by a call that finds that they have come. So a record
// of what was caused by others comes after theirs, whichever goroutines do that. The ends of both streams are
// recorded where they are published, and where they are returned to the user.

// Capture has t record what passes the end, until [End.EndCapture], or until the end has let go of its
// memory, which closes t. It returns the positions at which that begins. One of them is too low if a goroutine
// was in the middle of a call for all of the time that Capture has waited for it.
//
// The error is ESRCH if the end is closed, and EBUSY if another Tap records it.
func (e *End) Capture(t *tap.Tap) (sent, received uint64, err error) {
	if e.bubble {
		return 0, 0, errBubble
	}
	if !e.gate.enter() {
		return 0, 0, syscall.ESRCH
	}
	defer e.Leave()
	if !e.makeRare().tap.CompareAndSwap(nil, t) {
		return 0, 0, syscall.EBUSY
	}
	e.state.Or(captured)
	// The counts are read when nobody is in the middle of a call. Whoever begins one afterwards loads
	// the state after this bit was set.
	w, r := e.settledCounts(writing), e.settledCounts(reading)
	sent, received = t.Begin(w.sum().Bytes, max(r.passed, e.rx.Lent())+r.tally.direct)
	return sent, received, nil
}

// settledCounts is counts that waits for longer: a goroutine that spins in Read or Write is in the middle of a
// call for nearly all of the time.
func (e *End) settledCounts(kind int) recorded {
	const looks, pause = 1000, 20 * time.Microsecond
	for range looks {
		if r, ok := e.tryCounts(kind); ok {
			return r
		}
		time.Sleep(pause)
	}
	return e.counts(kind)
}

// A goroutine of a bubble that waited for the Tap's lock could not be woken, and its clock is another one.
var errBubble = syserr.New(syscall.EOPNOTSUPP, "the connection is in a testing/synctest bubble")

// EndCapture undoes [End.Capture].
func (e *End) EndCapture(t *tap.Tap) {
	// In this order: a Capture that finds no Tap is not undone by this.
	e.state.And(^uint32(captured))
	e.makeRare().tap.CompareAndSwap(t, nil)
}

// tap returns the Tap, or nil.
func (e *End) tap() *tap.Tap {
	if r := e.rare.Load(); r != nil {
		return r.tap.Load()
	}
	return nil
}

// sent returns how many bytes were sent. The caller has the lock for writing, or nobody writes any more.
func (e *End) sent() uint64 { return e.tx.Published() + e.wr.tally.direct }

// received returns how many bytes were read. The caller has the lock for reading.
func (e *End) received() uint64 { return e.rx.Released() + e.rd.tally.direct }

// writeCaptured is tx.Write.
func (e *End) writeCaptured(b []byte) (n int, err error) {
	t := e.tap()
	if t == nil {
		return e.tx.Write(b)
	}
	t.Lock()
	defer t.Unlock()
	pos := e.sent()
	n, err = e.tx.Write(b)
	t.Sent(pos, b[:n])
	return n, err
}

// commitCaptured is tx.Commit.
func (e *End) commitCaptured(n int) {
	t := e.tap()
	if t == nil {
		e.tx.Commit(n)
		return
	}
	b := e.tx.View()[:n]
	t.Lock()
	defer t.Unlock()
	pos := e.sent()
	e.tx.Commit(n)
	t.Sent(pos, b) // nobody but this goroutine overwrites them
}

// captureArrived records bytes that have come, up to as many as make one packet. A Read may take them by pieces
// that say nothing of how they were written.
func (e *End) captureArrived() {
	have, _ := e.rx.Buffered(tap.MaxData) // the call that reads reports the error
	e.captureSeen(min(have, tap.MaxData))
}

// captureRead records bytes that were just read.
func (e *End) captureRead(b []byte) {
	if t := e.tap(); t != nil {
		t.Received(e.received()-uint64(len(b)), b)
	}
}

// captureSeen records the first n bytes of the fifo, which the user is about to see or to skip.
func (e *End) captureSeen(n int) {
	if t := e.tap(); t != nil && n > 0 {
		t.Received(e.received(), e.first(n))
	}
}

// captureStop records that the call which is about to return has found the end of the peer's stream. It
// may return bytes too.
func (e *End) captureStop() {
	t := e.tap()
	if t == nil {
		return
	}
	have, _ := e.rx.Buffered(0)
	e.captureSeen(have)
	e.markPeerEnd(t, e.received()+uint64(have))
}

// markPeerEnd records how the peer's stream has ended, if it has: all of it comes before pos.
func (e *End) markPeerEnd(t *tap.Tap, pos uint64) {
	fin, reset := e.rx.Ended()
	t.Lock()
	defer t.Unlock()
	switch {
	case reset, !fin && e.state.Load()&peerGone != 0:
		t.Mark(tap.ReceivedReset, pos)
	case fin:
		t.Mark(tap.ReceivedFin, pos)
	}
}

// publishFin is tx.Fin.
func (e *End) publishFin() {
	if t := e.tap(); t != nil {
		t.Lock()
		defer t.Unlock()
		t.Mark(tap.SentFin, e.sent())
	}
	e.tx.Fin()
}

// publishReset is tx.Reset.
func (e *End) publishReset() {
	if t := e.tap(); t != nil {
		t.Lock()
		defer t.Unlock()
		t.Mark(tap.SentReset, e.sent())
	}
	e.tx.Reset()
}

// captureOver ends the capture of an end from which the last goroutine has gone.
func (e *End) captureOver() {
	t := e.tap()
	if t == nil {
		return
	}
	if e.rx.Queued() == 0 {
		e.markPeerEnd(t, e.received())
	}
	t.Close()
}
