package sched

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// The most that a worker does in one pass before it yields to other goroutines.
const (
	eventsPerPass   = 1024 // of each source
	eventsPerLook   = 64   // of each source, by a goroutine that polls on its behalf
	connectsPerPass = 32
	cleanupsPerPass = 100
)

// MaxWorkers is the most workers that a [Group] has.
const MaxWorkers = 64

// WordSize is the memory for a sleep word, in bytes: a cache line of its own.
const WordSize = 64

// A Source is one direction between two applications, from the peer to this one. A
// [Worker] serves it.
type Source struct {
	Events Bitmap            // the peer sets the bits
	Handle func(slot uint32) // called for each bit; must not block
	Bell   *Doorbell         // the peer rings it

	from uint32 // where the next Take begins; guarded by Worker.delivery
}

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

	// Only the worker's own goroutine uses these two.
	spin        Spin
	hadConnects bool // it has called connects since it last slept

	// delivery is the delivery lock. A goroutine holds it while it takes events from
	// the bitmaps and handles them, and while it looks whether there are any. So there
	// is one such goroutine at a time; and Remove, which locks it too, waits for it.
	//
	// A goroutine may lock mu while it holds delivery, as handlers do, but never the
	// other way round.
	delivery sync.Mutex

	mu       sync.Mutex // guards what follows
	polling  polling
	epoll    *epoll // valid unless the worker is stopped
	connects []func()
	cleanups []func() (more bool)
	queued   atomic.Int32 // len(connects) + len(cleanups); may be loaded without mu
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
	if err := w.epoll.add(s.Bell.fd); err != nil {
		if stopped {
			w.epoll.close()
		}
		return err
	}
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
// bitmap of s and does not call its handler any more. A handler must not call it.
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
	w.epoll.remove(s.Bell.fd)
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

// Connect queues f for the worker to call. The worker makes at most 32 such calls in each
// pass, so that a storm of connects doesn't starve the events of connections.
func (w *Worker) Connect(f func()) {
	w.mu.Lock()
	w.connects = append(w.connects, f)
	w.queue()
}

// Cleanup queues f for the worker to call again and again while it returns true, at most
// 100 such calls in each pass. Events whose bits were set before are delivered first.
func (w *Worker) Cleanup(f func() (more bool)) {
	w.mu.Lock()
	w.cleanups = append(w.cleanups, f)
	w.queue()
}

// queue counts a queued call, wakes the worker and unlocks mu.
func (w *Worker) queue() {
	w.queued.Add(1)
	// The worker announces its sleep, under mu too, before it looks at queued. So
	// either it sees the call or this goroutine sees it asleep.
	w.wake()
	w.mu.Unlock()
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
	defer w.group.running.Done()
	defer e.close()
	for {
		// After connects the worker spins to find more of them: goroutines in Accept
		// can't spin for these themselves. At other times it would take the place of
		// goroutines that spin for their own events.
		events, calls := w.pass()
		if events+calls == 0 && w.hadConnects && w.spin.Until(nil, w.pending) {
			events, calls = w.pass()
		}
		w.hadConnects = w.hadConnects && events+calls > 0
		// The goroutines that the pass has woken run next, on this P. If there are
		// several, more events may be there after they have run. A single goroutine
		// spins for more events itself before it waits. The worker would be queued
		// before any goroutine that this one starts, and would deliver the next
		// bytes before the answers to the last ones have left: then the two
		// processes take turns at working.
		if w.hadConnects || calls > 0 || events > 1 {
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

// stop marks the worker as stopped, unless it has sources or queued calls, and reports whether it
// did. Calls that are queued later wait until [Worker.Add] starts it again.
func (w *Worker) stop() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*w.sources.Load()) > 0 || w.queued.Load() > 0 {
		return false
	}
	w.polling.setWorker(workerStopped)
	return true
}

// pending reports whether the worker has queued calls or events, or must stop.
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

// take delivers about max events of each source at most. It returns their number, and whether
// there may be more. The caller holds delivery.
func (w *Worker) take(max int) (events int, more bool) {
	for _, s := range *w.sources.Load() {
		n, next := s.Events.Take(s.from, max, s.Handle)
		s.from = next
		events += n
		more = more || n >= max
	}
	return events, more
}

// pass delivers events and makes a bounded number of the queued calls. It returns how
// many events and how many calls there were.
func (w *Worker) pass() (events, calls int) {
	var connects []func()
	var cleanups []func() bool
	if w.queued.Load() > 0 {
		// The calls are taken from the queue before the events are taken from the
		// bitmaps: an event that was set before a cleanup was queued is delivered
		// before the cleanup is called.
		w.mu.Lock()
		connects = first(&w.connects, connectsPerPass)
		cleanups = first(&w.cleanups, cleanupsPerPass)
		w.mu.Unlock()
	}
	calls = len(connects) + len(cleanups)
	budget := cleanupsPerPass
	w.delivery.Lock()
	events, more := w.take(eventsPerPass)
	w.delivery.Unlock()
	if more {
		budget = 0
	}
	for _, f := range connects {
		f()
		w.hadConnects = true
	}
	for len(cleanups) > 0 && budget > 0 {
		budget--
		if !cleanups[0]() {
			cleanups = cleanups[1:]
		}
	}
	if calls > 0 {
		w.mu.Lock()
		w.cleanups = append(cleanups, w.cleanups...)
		w.queued.Store(int32(len(w.connects) + len(w.cleanups)))
		w.mu.Unlock()
	}
	return events, calls
}

// first removes up to n elements from the front of q.
func first[F any](q *[]F, n int) []F {
	n = min(n, len(*q))
	head := (*q)[:n:n]
	if *q = (*q)[n:]; len(*q) == 0 {
		*q = nil
	}
	return head
}
