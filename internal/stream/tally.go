package stream

import (
	"runtime"
	"sync/atomic"
	"time"
)

// What an end has done. Counting must cost a Read or Write nothing that can be measured: on amd64
// each atomic store is a locked instruction. So the counts are plain words of the lock's holder,
// and a Status reads them while nobody changes them:
//
//   - It takes the lock, if that is free, for as long as it takes to copy some words.
//   - The holder that goes to sleep, or is in code of others in CopyFrom or CopyTo, says so in
//     rest. Then a Status reads the counts, and the holder waits for it before it goes on.
//   - Otherwise the holder is about to do one of these. After a few looks a Status returns what the
//     last one found.
//
// The clock is read only when an end is made, and before and after a sleep. The numbers of bytes are
// not counted: they are the fifos' positions, which begin at 0.

// A tally is what the holders of a half's lock have done.
type tally struct {
	ops    uint64 // calls, and pieces of CopyFrom and CopyTo, that have moved bytes
	pieces uint64 // after the first one of a call
	wakes  uint64 // notifications of the peer
	polls  uint64 // waits that ended while the goroutine looked, before it slept
	direct uint64 // bytes that went past the fifo, see handoff
	sleeps uint64
	slept  time.Duration
	since  time.Duration // when the sleep under way began, since epoch; 0 if there is none
}

// The values of half.rest.
const (
	restNone    = iota // the holder of the lock, if there is one, may change the tally
	restHolder         // the holder rests: it does not change the tally
	restReading        // so it does, and a Status reads the tally
)

// epoch is when time begins for sleeps and ages.
var epoch = time.Now().Add(-1)

// rest says that the lock's holder does not change the tally until resume.
func (h *half) rest() { h.resting.Store(restHolder) }

// resume undoes rest, if that was called. The swap pairs with the one in tryCounts: the tally is not changed while it is
// read. To read it takes some nanoseconds, unless the reader's thread loses its CPU.
func (h *half) resume() {
	for h.resting.Load() != restNone && !h.resting.CompareAndSwap(restHolder, restNone) {
		runtime.Gosched()
	}
}

// sleep waits as Wait does, and counts it as a stall of e.
func (h *half) sleep(e *End) {
	h.tally.since = time.Since(epoch)
	e.seen(h.tally.since)
	h.rest()
	h.Wait()
	h.resume()
	h.tally.sleeps++
	h.tally.slept += time.Since(epoch) - h.tally.since
	h.tally.since = 0
}

// A sighting is when bytes were last known to move.
type sighting struct {
	moved atomic.Uint64 // as [End.moved] says
	at    atomic.Int64  // since epoch
}

// seen is called now and then, with the time: if bytes have moved since the last call, then they
// may have moved just now.
func (e *End) seen(now time.Duration) {
	if moved := e.moved(); moved != e.sighting.moved.Load() {
		e.sighting.moved.Store(moved)
		e.sighting.at.Store(int64(now))
	}
}

// A Flow describes one direction of an end.
type Flow struct {
	Bytes  uint64 // that have passed this end
	Ops    uint64 // calls that have moved them, and pieces of CopyFrom and CopyTo
	Queue  int    // bytes in the fifo
	High   int    // the most bytes that this end has found in the fifo
	Buffer int    // the size that the fifo can come to

	Stalls  uint64        // times that a goroutine slept, for data or for space
	Stalled time.Duration // how long, with the sleep under way
	Asleep  bool          // a goroutine sleeps
	Polls   uint64        // waits that ended before the goroutine slept
	Wakes   uint64        // notifications that were sent
	Elided  uint64        // publishes or releases that needed none
}

// A recorded is what a Status has found in a half.
type recorded struct {
	tally tally
	high  int
}

// counts returns the half's tally, see above.
func (e *End) counts(kind int) recorded {
	h := &e.rd
	if kind == writing {
		h = &e.wr
	}
	var last [2]recorded
	if p := e.recorded.Load(); p != nil {
		last = *p
	}
	const looks = 100
	for range looks {
		if r, ok := e.tryCounts(kind, h); ok {
			last[kind] = r
			e.recorded.Store(&last)
			break
		}
		runtime.Gosched()
	}
	return last[kind]
}

// tryCounts returns the half's tally if nobody can change it. In a testing/synctest bubble it does
// not take the lock: a goroutine of the bubble that waited for it could not be woken.
func (e *End) tryCounts(kind int, h *half) (r recorded, ok bool) {
	read := func() recorded {
		if kind == writing {
			return recorded{h.tally, e.tx.High()}
		}
		return recorded{h.tally, e.rx.High()}
	}
	if h.resting.CompareAndSwap(restHolder, restReading) {
		r = read()
		h.resting.Store(restHolder)
		return r, true
	}
	if e.bubble || !e.gate.tryLock(kind) {
		return r, false
	}
	r = read()
	e.unlock(kind)
	return r, true
}

// flow describes a direction, given the bytes that have passed the fifo.
func (e *End) flow(kind int, passed uint64, queue, size int, now time.Duration) Flow {
	r := e.counts(kind)
	t := r.tally
	f := Flow{
		Bytes: passed + t.direct, Ops: t.ops, Queue: queue, High: max(r.high, queue), Buffer: size,
		Stalls: t.sleeps, Stalled: t.slept, Polls: t.polls, Wakes: t.wakes,
	}
	if n := t.ops + t.pieces; n > t.wakes {
		f.Elided = n - t.wakes
	}
	if t.since != 0 {
		f.Asleep = true
		f.Stalls++
		f.Stalled += max(0, now-t.since)
	}
	return f
}
