package stream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What happened last at an end: the flight recorder. It is always on, so that a connection that hangs
// can be asked how it came to that.
//
// Writing it down must cost a Read or Write that does not sleep nothing at all, and an end that nothing
// has happened to a pointer. So there are events only where a goroutine has slept, for which the clock
// was read anyway, and where the stream ends, which is rare. What happened in between is in the next
// stall, as the difference of two counts of the tally: how many notifications, how many waits that
// ended without a sleep.
//
// A lock guards the list, and not the gate's locks as for the tally: events come from both halves, and
// from goroutines that have neither lock, such as Close or a worker that finds the peer dead, and are
// kept in the order in which they came. It is held for as long as it takes to copy the list, and next
// to a sleep it costs nothing. It is innermost: its holder takes no other lock, and calls nothing.

// maxEvents is how many events an end keeps.
const maxEvents = 32

// An EventKind says what has happened.
type EventKind uint8

// The kinds of events.
const (
	EventMade       EventKind = iota // the end was made
	EventStallData                   // a goroutine slept for data
	EventStallSpace                  // a goroutine slept for space
	EventReadClosed                  // by CloseRead
	EventWriteClosed
	EventClosed
	EventFinSent
	EventResetSent
	EventFinSeen // when this end has first found it
	EventResetSeen
	EventSevered
	EventPeerBroke // the protocol
	EventPeerGone
	EventKinds // how many there are
)

// A StallEnd says how a stall ended.
type StallEnd uint8

// How stalls end.
const (
	StallGoesOn   StallEnd = iota // it has not ended
	StallCame                     // there were data, or space
	StallDeadline                 // the deadline passed
	StallClosed                   // this end was closed, or its half
	StallEnded                    // the peer has ended the stream, is gone, or the connection was reset
	StallNothing                  // there was nothing: it was woken for another reason, or another goroutine
	StallEnds                     // how many there are
)

// An Event is something that has happened at an end.
type Event struct {
	Kind  EventKind
	Ended StallEnd      // of a stall
	Ago   time.Duration // since it happened; of a stall, since it began
	For   time.Duration // of a stall: how long it lasted, or has lasted so far

	// Since the last stall of the same half, or the beginning: notifications of the peer, and waits
	// that ended before the goroutine slept. No more than 65,535.
	Wakes, Polls uint16
}

// An event is an Event as it is kept: in 16 bytes.
type event struct {
	// When, since epoch, in steps of 1<<eventBits ns. In the bits below are the kind, 4 bits, and the StallEnd.
	stamp        int64
	took         float32 // seconds
	wakes, polls uint16
}

const eventBits = 7

func stamp(at time.Duration) int64 { return int64(at) &^ (1<<eventBits - 1) }

// A recorder has the last events of an end.
type recorder struct {
	mu     sync.Mutex
	events []event   // which grows to maxEvents, and is a ring then
	oldest int       // where that is in the ring
	counts [2]counts // of each half, when its last stall had ended

	noted atomic.Uint32 // a bit for each kind of those that are kept once

	first [2]event // where events begins: short connections have no more
}

// counts are those of a tally that tell what is new at the next stall.
type counts struct{ sleeps, wakes, polls uint64 }

func (t *tally) counts() counts { return counts{t.sleeps, t.wakes, t.polls} }

// add keeps an event, in place of the oldest one if there are too many. The caller has mu.
func (r *recorder) add(v event) {
	if len(r.events) < maxEvents {
		r.events = append(r.events, v)
		return
	}
	r.events[r.oldest] = v
	r.oldest = (r.oldest + 1) % maxEvents
}

// recording returns the end's recorder, or nil.
func (e *End) recording() *recorder {
	if r := e.rare.Load(); r != nil {
		return r.events.Load()
	}
	return nil
}

// recorder returns the end's recorder, and makes it if there is none.
func (e *End) recorder() *recorder {
	events := &e.makeRare().events
	if r := events.Load(); r != nil {
		return r
	}
	r := new(recorder)
	r.events = r.first[:0]
	events.CompareAndSwap(nil, r) // another goroutine may have made one meanwhile
	return events.Load()
}

// note keeps an event that is no stall, the first time that it happens.
func (e *End) note(kind EventKind) {
	r := e.recorder()
	if bit := uint32(1) << kind; r.noted.Or(bit)&bit != 0 {
		return
	}
	v := event{stamp: stamp(time.Since(epoch)) | int64(kind)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(v)
}

// noteLast keeps an event of an end that may be closed. If only this goroutine is inside, then nobody can
// ask for the events any more, as no other one can enter; so closing a connection mostly costs
// nothing.
func (e *End) noteLast(kind EventKind) {
	if e.gate.shared() {
		e.note(kind)
	}
}

// noteEnd keeps what the peer has said of the end of its stream, as [ring.Consumer.Ended] returns it.
func (e *End) noteEnd(fin, reset bool) {
	switch {
	case reset:
		e.note(EventResetSeen)
	case fin:
		e.note(EventFinSeen)
	}
}

// A nap is a sleep that is over.
type nap struct{ began, took time.Duration }

// stalled keeps the stall of a half, after which there was what the goroutine had waited for, or not. The
// caller has the half's lock.
func (e *End) stalled(kind int, n nap, came bool) {
	h, what := e.half(kind), EventStallData+EventKind(kind)
	v := event{
		stamp: stamp(n.began) | int64(what) | int64(e.stallEnd(kind, came))<<4,
		took:  float32(n.took.Seconds()),
	}
	r := e.recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	last, now := r.counts[kind], h.tally.counts()
	v.wakes, v.polls = grown(now.wakes, last.wakes), grown(now.polls, last.polls)
	r.counts[kind] = now
	r.add(v)
}

// grown returns by how much a count has grown, as far as 16 bits can say that.
func grown(now, before uint64) uint16 { return uint16(min(now-before, 1<<16-1)) }

// stallEnd says how a stall of a half has ended.
func (e *End) stallEnd(kind int, came bool) StallEnd {
	closed, ended := uint32(isClosed|readClosed), false
	if kind == writing {
		closed, ended = isClosed|writeClosed, e.tx.ConsumerClosed()
	} else {
		fin, reset := e.rx.Ended()
		ended = fin || reset
	}
	state := e.state.Load()
	switch {
	case came:
		return StallCame
	case state&closed != 0:
		return StallClosed
	case ended || state&(peerGone|corrupted|bytesLost|severed) != 0:
		return StallEnded
	case e.half(kind).Passed():
		return StallDeadline
	}
	return StallNothing
}

// Events returns the last events of e in the order of time: when the end was made, up to 32 that were
// kept, and the stalls that are under way.
func (e *End) Events() []Event {
	// The tallies first: a stall that ends in between, or that a tally of an earlier Status has, is then in
	// the list too, or was, and its half has counted more sleeps. In the other order it might be in neither.
	var under [2]tally
	if e.gate.enter() {
		e.noteEnd(e.rx.Ended())
		under[reading], under[writing] = e.counts(reading).tally, e.counts(writing).tally
		e.Leave()
	}
	kept, last := e.kept()
	now := time.Since(epoch)
	all := []Event{{Kind: EventMade, Ago: max(0, now-time.Duration(stamp(e.made)))}}
	for _, v := range kept {
		all = append(all, v.event(now))
	}
	for kind, t := range under {
		if t.since == 0 || t.sleeps < last[kind].sleeps {
			continue
		}
		ago := max(0, now-t.since)
		all = append(all, Event{
			Kind: EventStallData + EventKind(kind), Ago: ago, For: ago,
			Wakes: grown(t.wakes, last[kind].wakes), Polls: grown(t.polls, last[kind].polls),
		})
	}
	// Stalls were kept when they ended.
	slices.SortStableFunc(all, func(a, b Event) int { return cmp.Compare(b.Ago, a.Ago) })
	return all
}

// kept returns what the recorder has, the oldest event first.
func (e *End) kept() (all []event, last [2]counts) {
	r := e.recording()
	if r == nil {
		return nil, last
	}
	all = make([]event, 0, maxEvents)
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append(all, r.events[r.oldest:]...), r.events[:r.oldest]...), r.counts
}

func (v event) kind() EventKind { return EventKind(v.stamp & 0xf) }

func (v event) at() int64 { return v.stamp &^ (1<<eventBits - 1) }

func (v event) event(now time.Duration) Event {
	return Event{
		Kind: v.kind(), Ended: StallEnd(v.stamp >> 4 & 7), Ago: max(0, now-time.Duration(v.at())),
		For: time.Duration(float64(v.took) * float64(time.Second)), Wakes: v.wakes, Polls: v.polls,
	}
}
