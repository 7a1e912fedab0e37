package sched

import (
	"context"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The most that a worker does for a source in one pass, before it goes on to the next one. So
// no source has the others wait for long.
const (
	eventsPerPass = 256
	eventsAtEnd   = 4096 // of a source that was ended, so that this does not take long
	eventsPerLook = 64   // by a goroutine that polls on the worker's behalf
)

// endPasses is how many passes it takes until every event of a source was met that was there
// when they began: [Bitmap.Take] goes round the slots.
const endPasses = Slots/eventsAtEnd + 1

// goneEvery is the number of passes after which a worker that always finds events looks
// whether a peer's process has ended.
const goneEvery = 256

// MaxWorkers is the most workers that a [Group] has.
const MaxWorkers = 64

// WordSize is the memory for a sleep word, in bytes: a cache line of its own.
const WordSize = 64

// A Source is one direction between two applications, from the peer to this one. A
// [Worker] serves it: it delivers the events, and does what was scheduled.
type Source struct {
	Events Bitmap            // the peer sets the bits
	Handle func(slot uint32) // called for each bit; must not block
	Bell   *Doorbell         // the peer rings it

	// Work is called by the worker's goroutine after [Worker.Schedule]. It does a bounded
	// part of what there is to do, must not block, and reports whether there is more.
	Work func() (more bool)
	// Cut is called in place of Work after [Worker.End], until there is no more to do. The
	// last call removes the source.
	Cut func() (more bool)

	// Process is a descriptor that becomes readable when the peer's process ends, or -1. Gone
	// is called then. It must not block.
	Process int
	Gone    func()

	from   uint32 // where the next Take begins; guarded by Worker.delivery
	left   bool   // the last take may have left events; guarded by Worker.delivery
	last   bool   // it was ended; guarded by Worker.delivery
	passes int    // since the source was ended; the worker's own

	// Guarded by Worker.mu
	scheduled, ending, removed bool
	sleeps                     uint64 // that had been announced when the source was added
}

// workerLabels are the labels of workers' goroutines in profiles.
var workerLabels = pprof.WithLabels(context.Background(), pprof.Labels("ctnet", "worker"))

// A Group is the workers of an application, one for each P. [Group.Next] adds the missing ones. A
// worker runs while it has sources.
type Group struct {
	word func(i int) *atomic.Uint32

	mu      sync.Mutex
	workers []*Worker
	next    int
	running sync.WaitGroup
}

// NewGroup returns a group whose worker i announces its sleep in word(i).
func NewGroup(word func(i int) *atomic.Uint32) *Group {
	return &Group{word: word}
}

// Next returns the worker for the next source, and its number. It goes round the workers,
// so sources are spread evenly. All slots of a source belong to one worker: a worker only
// turns bits into wake-ups, and two workers that share a pair's bits would sleep, and have
// to be woken, twice as often as one.
func (g *Group) Next() (*Worker, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(runtime.GOMAXPROCS(0), MaxWorkers)
	i := g.next % n
	g.next++
	for len(g.workers) <= i {
		g.workers = append(g.workers, &Worker{group: g, polling: polling{word: g.word(len(g.workers))}})
	}
	return g.workers[i], i
}

// Wait waits until all workers are stopped, which they are once they have no sources, and
// no goroutine polls on their behalf. After that this application does not use the sleep
// words.
func (g *Group) Wait() { g.running.Wait() }

// A Worker delivers the events of its sources: a goroutine that runs while any bit is
// set, sleeps otherwise, and ends after its last source was removed. In any of these
// states except the last one a spinning goroutine may poll on its behalf: a Worker is a
// [Poller].
type Worker struct {
	group *Group

	sources atomic.Pointer[[]*Source] // replaced as a whole, under mu

	// Only the worker's own goroutine uses these.
	spin    Spin
	hadWork bool   // it has called Work since it last slept
	passes  int    // since it last called findGone
	taken   []turn // by the last call of turns

	// delivery is the delivery lock. A goroutine holds it while it takes events from
	// the bitmaps and handles them, and while it looks whether there are any. So there
	// is one such goroutine at a time; and Remove, which locks it too, waits for it.
	//
	// A goroutine may lock mu while it holds delivery, as handlers do, but never the
	// other way round.
	delivery sync.Mutex

	mu      sync.Mutex // guards what follows
	polling polling
	epoll   *epoll       // valid unless the worker is stopped
	due     []*Source    // scheduled, in the order in which they are served; each once
	queued  atomic.Int32 // len(due); may be loaded without mu
}

// Add adds s to the worker's sources, and starts the worker if it is stopped.
func (w *Worker) Add(s *Source) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	stopped := w.polling.worker == workerStopped
	if stopped {
		e, err := newEpoll()
		if err != nil {
			return err
		}
		w.epoll = e
	}
	err := w.epoll.add(s.Bell.fd, kindBell)
	if err == nil && s.Process >= 0 {
		if err = w.epoll.add(s.Process, kindProcess); err != nil {
			w.epoll.remove(s.Bell.fd)
		}
	}
	if err != nil {
		if stopped {
			w.epoll.close()
		}
		return err
	}
	s.sleeps = w.polling.sleeps
	list := append(w.list(), s)
	w.sources.Store(&list)
	if !stopped {
		// The worker may have announced a sleep without having looked at s.
		w.epoll.kick()
		return nil
	}
	w.polling.setWorker(workerAwake)
	w.group.running.Add(1)
	go w.run(w.epoll)
	return nil
}

// Remove removes s from the worker's sources. Once it has returned, this worker does not touch the
// bitmap of s and does not call its handler any more, and what was scheduled is forgotten. A
// handler must not call it.
func (w *Worker) Remove(s *Source) {
	w.delivery.Lock()
	defer w.delivery.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*Source
	for _, o := range w.list() {
		if o != s {
			list = append(list, o)
		}
	}
	w.sources.Store(&list)
	s.removed = true
	w.due = slices.DeleteFunc(w.due, func(o *Source) bool { return o == s })
	w.queued.Store(int32(len(w.due)))
	w.epoll.remove(s.Bell.fd)
	if s.Process >= 0 {
		w.epoll.remove(s.Process)
	}
	if len(list) == 0 {
		w.epoll.kick() // so that it stops
	}
}

// list returns a copy of the sources.
func (w *Worker) list() []*Source {
	p := w.sources.Load()
	if p == nil {
		return nil
	}
	return append([]*Source(nil), *p...)
}

// Schedule has the worker call s.Work. Sources that are scheduled are served in turns: each
// pass calls Work once for each of them.
func (w *Worker) Schedule(s *Source) { w.schedule(s, false) }

// End has the worker call s.Cut. Events whose bits were set before are delivered first; but
// however many bits the peer sets, that ends after some passes.
func (w *Worker) End(s *Source) { w.schedule(s, true) }

func (w *Worker) schedule(s *Source, end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.removed {
		return
	}
	s.ending = s.ending || end
	if s.scheduled {
		return
	}
	s.scheduled = true
	w.due = append(w.due, s)
	w.queued.Store(int32(len(w.due)))
	// The worker announces its sleep, under mu too, before it looks at queued. So
	// either it sees the source or this goroutine sees it asleep.
	w.wake()
}

// Empty empties the doorbell of s, whose queue is full, and wakes the worker for the ring that
// found no room. It reports whether the peer has kept to the rule that it rings once for each
// sleep; messages is how many times the peer has said that the queue is full. Like
// [Doorbell.Empty] it can block.
func (w *Worker) Empty(s *Source, messages uint64) (ok bool) {
	rings := s.Bell.Empty() + messages
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.removed {
		w.epoll.kick()
	}
	// The peer may have rung for the sleep during which the source was added, too.
	return rings <= w.polling.sleeps-s.sleeps+1
}

// wake wakes the worker if it sleeps. One ring too many does no harm. The caller holds mu,
// so the worker does not stop and close epoll meanwhile.
func (w *Worker) wake() {
	if w.polling.worker == workerAsleep {
		w.epoll.kick()
	}
}

// setState says what the worker does from now on.
func (w *Worker) setState(s workerState) {
	w.mu.Lock()
	w.polling.setWorker(s)
	w.mu.Unlock()
}

// takeOver says that the caller polls on the worker's behalf until giveBack, whether the worker
// sleeps or not. Peers don't ring meanwhile. If the worker sleeps, then for its peers that
// sleep ends here, and a new one, for which they ring again, begins with giveBack. It
// implements [Poller].
func (w *Worker) takeOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.polling.takeOver() {
		return false
	}
	w.group.running.Add(1) // until giveBack has stored to the sleep word
	return true
}

// deliver delivers some events, unless another goroutine is doing so. It implements
// [Poller].
func (w *Worker) deliver() {
	if w.delivery.TryLock() {
		w.take(eventsPerLook)
		w.delivery.Unlock()
	}
}

// giveBack undoes takeOver. As a worker does before it sleeps, it announces that this goroutine
// does not poll any more, and then looks once more. Peers have not rung for events that they
// posted before, so it wakes the worker for these. It implements [Poller].
func (w *Worker) giveBack(maxGap time.Duration) {
	w.mu.Lock()
	w.polling.giveBack(maxGap)
	w.mu.Unlock()
	if w.pending() {
		w.mu.Lock()
		w.wake()
		w.mu.Unlock()
	}
	w.group.running.Done()
}

// run is the worker's goroutine.
func (w *Worker) run(e *epoll) {
	pprof.SetGoroutineLabels(workerLabels) // otherwise it has those of the goroutine that dialed
	defer w.group.running.Done()
	defer e.close()
	for {
		// After connects the worker spins to find more of them: goroutines in Accept
		// can't spin for these themselves. At other times it would take the place of
		// goroutines that spin for their own events.
		events, calls := w.pass()
		if events+calls == 0 && w.hadWork && w.spin.Until(nil, w.pending) {
			events, calls = w.pass()
		}
		w.hadWork = w.hadWork && events+calls > 0
		if w.passes++; events == 0 || w.passes >= goneEvery {
			w.passes = 0
			w.findGone(e)
		}
		// The goroutines that the pass has woken run next, on this P. If there are
		// several, more events may be there after they have run. A single goroutine
		// spins for more events itself before it waits. The worker would be queued
		// before any goroutine that this one starts, and would deliver the next
		// bytes before the answers to the last ones have left: then the two
		// processes take turns at working.
		if w.hadWork || calls > 0 || events > 1 {
			runtime.Gosched()
			continue
		}
		w.park(e)
		if w.stop() {
			return
		}
	}
}

// park sleeps until there may be something to do. It announces that, then looks again: a
// peer sets the bit and then loads the word, so the worker finds the bit or the peer finds
// the worker asleep.
func (w *Worker) park(e *epoll) {
	e.wait(func() bool {
		w.setState(workerAsleep)
		return !w.pending()
	})
	w.setState(workerAwake)
}

// findGone calls Gone of the sources whose peers' processes have ended. A worker that was woken
// and found no event was woken for that, or in vain.
func (w *Worker) findGone(e *epoll) {
	for _, fd := range e.ended() {
		for _, s := range *w.sources.Load() {
			if s.Process == fd {
				s.Gone()
			}
		}
	}
}

// stop marks the worker as stopped, unless it has sources, and reports whether it did. A source
// that is scheduled was not removed.
func (w *Worker) stop() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*w.sources.Load()) > 0 {
		return false
	}
	w.polling.setWorker(workerStopped)
	return true
}

// pending reports whether the worker has work or events, or must stop.
func (w *Worker) pending() bool {
	if w.queued.Load() > 0 {
		return true
	}
	w.delivery.Lock()
	defer w.delivery.Unlock()
	list := *w.sources.Load()
	for _, s := range list {
		if s.Events.Pending() {
			return true
		}
	}
	return len(list) == 0
}

// take delivers about max events of each source at most. It returns their number. The caller
// holds delivery.
func (w *Worker) take(max int) (events int) {
	for _, s := range *w.sources.Load() {
		max := max
		if s.last {
			max = eventsAtEnd
		}
		n, next := s.Events.Take(s.from, max, s.Handle)
		s.from = next
		s.left = n >= max
		events += n
	}
	return events
}

// pass delivers events, and does a bounded part of the work of each source that has some. It
// returns how many events there were, and how many sources had work.
func (w *Worker) pass() (events, calls int) {
	var due []turn
	if w.queued.Load() > 0 {
		due = w.turns()
	}
	w.delivery.Lock()
	for _, t := range due {
		t.s.last = t.cut
	}
	events = w.take(eventsPerPass)
	for i := range due {
		due[i].more = due[i].s.left
	}
	w.delivery.Unlock()
	for _, t := range due {
		if t.do() {
			w.schedule(t.s, false)
		}
		w.hadWork = w.hadWork || !t.cut
	}
	return events, len(due)
}

// A turn is a source's, in a pass.
type turn struct {
	s    *Source
	cut  bool // it was ended before the pass
	more bool // the pass may have left events
}

// turns takes all sources from due. It comes before the events are taken from the bitmaps: an
// event that was set before a source was ended is delivered before it is cut. And whether the
// source was ended is looked at now, not later. Model: source.pml.
func (w *Worker) turns() []turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken = w.taken[:0]
	for _, s := range w.due {
		w.taken = append(w.taken, turn{s: s, cut: s.ending})
		s.scheduled = false
	}
	clear(w.due)
	w.due = w.due[:0]
	w.queued.Store(0)
	return w.taken
}

// do reports whether the source needs another turn.
func (t turn) do() (again bool) {
	if !t.cut {
		return t.s.Work()
	}
	if t.s.passes++; t.more && t.s.passes < endPasses {
		return true
	}
	return t.s.Cut()
}
