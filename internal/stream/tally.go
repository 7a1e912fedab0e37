package stream

import (
	"context"
	"runtime"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"

	"cutthrough.example/internal/sched"
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

// did counts a call that has moved bytes.
func (e *End) did(h *half) {
	if h.tally.ops++; h.tally.ops%sched.ProgressOps == 0 && e.peer.Poller() != nil {
		sched.Progress()
	}
}

// sleep waits as Wait does, and counts it as a stall of e. The caller has [End.stalled] keep it.
func (h *half) sleep(e *End) nap {
	n := nap{began: time.Since(epoch)}
	h.tally.since = n.began
	e.seen(n.began)
	h.rest()
	if trace.IsEnabled() {
		h.waitTraced(e)
	} else {
		h.Wait()
	}
	h.resume()
	h.tally.sleeps++
	n.took = time.Since(epoch) - n.began
	h.tally.slept += n.took
	h.tally.since = 0
	return n
}

// waitTraced waits as Wait does, in a region of the execution trace.
func (h *half) waitTraced(e *End) {
	name := "ctnet.Read.stall"
	if h == &e.wr {
		name = "ctnet.Write.stall"
	}
	defer trace.StartRegion(context.Background(), name).End()
	h.Wait()
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
	Sleep   time.Duration // how long it has
	Polls   uint64        // waits that ended before the goroutine slept
	Wakes   uint64        // notifications that were sent
	Elided  uint64        // publishes or releases that needed none
}

// A recorded is what was found in a half.
type recorded struct {
	tally  tally
	passed uint64 // bytes, by the end's own position in the fifo, which the peer can't write to
	high   int
	at     time.Duration // when, or just before, since epoch
}

// sum returns what the half has done up to then. None of the fields ever goes back.
func (r *recorded) sum() Sum { return r.tally.sum(r.passed, r.at) }

func (t *tally) sum(passed uint64, at time.Duration) Sum {
	s := Sum{
		Bytes: passed + t.direct, Ops: t.ops, Transfers: t.ops + t.pieces, Wakes: t.wakes, Polls: t.polls,
		Stalls: t.sleeps, Stalled: t.slept,
	}
	if t.since != 0 {
		s.Stalls++
		s.Stalled += max(0, at-t.since)
	}
	return s
}

// Totals are what the ends of an application have done together, with those that are gone. Whenever
// the counts of an end are read, what is new since the last time is added: by each Status, and
// by letGo, when nobody changes them any more. So nothing is counted twice or lost, whatever is
// going on at the same time, and the Totals never go back.
type Totals struct {
	mu  sync.Mutex // so that counts are added in the order in which they were read; guards End.recorded too
	sum [2]Sum
}

// A Sum is what ends have done in one direction, as a [Flow] says.
type Sum struct {
	Bytes, Ops, Transfers, Wakes, Polls, Stalls uint64
	Stalled                                     time.Duration
}

// Sums returns what the ends have received and sent.
func (t *Totals) Sums() (recv, send Sum) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum[reading], t.sum[writing]
}

// add adds what is new. The caller has mu.
func (s *Sum) add(now *Sum, before Sum) {
	s.Bytes += now.Bytes - before.Bytes
	s.Ops += now.Ops - before.Ops
	s.Transfers += now.Transfers - before.Transfers
	s.Wakes += now.Wakes - before.Wakes
	s.Polls += now.Polls - before.Polls
	s.Stalls += now.Stalls - before.Stalls
	s.Stalled += max(0, now.Stalled-before.Stalled) // a synctest bubble has another clock than a Status outside
}

// finish adds what is new at e, whose memory nobody uses any more.
func (t *Totals) finish(e *End) {
	recv, send := e.rd.tally.sum(e.rx.Released(), 0), e.wr.tally.sum(e.tx.Published(), 0) // nobody sleeps
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum[reading].add(&recv, e.last(reading))
	t.sum[writing].add(&send, e.last(writing))
}

// last returns the sum of a half when it was last read. The caller has the Totals' mu.
func (e *End) last(kind int) Sum {
	if e.recorded == nil {
		return Sum{}
	}
	return e.recorded[kind].sum()
}

// counts returns the half's tally, see above.
func (e *End) counts(kind int) recorded {
	const looks = 100
	for range looks {
		if r, ok := e.tryCounts(kind); ok {
			return r
		}
		runtime.Gosched()
	}
	e.totals.mu.Lock()
	defer e.totals.mu.Unlock()
	return e.recorded[kind] // which tryCounts has made
}

// tryCounts returns the half's tally if nobody can change it, and adds what is new to the Totals. In
// a testing/synctest bubble it does not take the lock: a goroutine of the bubble that waited for
// it could not be woken.
func (e *End) tryCounts(kind int) (r recorded, ok bool) {
	t, h := e.totals, e.half(kind)
	t.mu.Lock()
	if e.recorded == nil {
		e.recorded = new([2]recorded) // before the half is locked: its user is not to wait for that
	}
	at := time.Since(epoch) // before the tally is read: the sleep under way is not over then
	locked := false
	if h.resting.CompareAndSwap(restHolder, restReading) {
		r = e.record(kind)
		h.resting.Store(restHolder)
	} else if locked = !e.bubble && e.gate.tryLock(kind); locked {
		r = e.record(kind)
	} else {
		t.mu.Unlock()
		return r, false
	}
	r.at = at
	sum := r.sum()
	t.sum[kind].add(&sum, e.last(kind))
	e.recorded[kind] = r
	t.mu.Unlock()
	if locked {
		e.unlock(kind) // which may have an ending to do
	}
	return r, true
}

// record returns what is in a half that nobody changes.
func (e *End) record(kind int) recorded {
	if kind == writing {
		return recorded{tally: e.wr.tally, passed: e.tx.Published(), high: e.tx.High()}
	}
	return recorded{tally: e.rd.tally, passed: e.rx.Released(), high: e.rx.High()}
}

func (e *End) half(kind int) *half {
	if kind == writing {
		return &e.wr
	}
	return &e.rd
}

// flow describes a direction, given the bytes that have passed the fifo.
func (e *End) flow(kind int, passed uint64, queue, size int, now time.Duration) Flow {
	r := e.counts(kind)
	r.at = max(r.at, now)
	t, s := &r.tally, r.sum()
	f := Flow{
		Bytes: passed + t.direct, Ops: s.Ops, Queue: queue, High: max(r.high, queue), Buffer: size,
		Stalls: s.Stalls, Stalled: s.Stalled, Polls: s.Polls, Wakes: s.Wakes,
	}
	if s.Transfers > s.Wakes {
		f.Elided = s.Transfers - s.Wakes
	}
	if t.since != 0 {
		f.Asleep = true
		f.Sleep = max(0, r.at-t.since)
	}
	return f
}
