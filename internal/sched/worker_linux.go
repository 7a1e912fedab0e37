package sched

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// What a worker does in one pass before it lets others run.
const (
	eventsPerPass   = 1024 // of one source
	eventsPerLook   = 64   // the same, by a spinning goroutine on its behalf
	connectsPerPass = 32
	cleanupsPerPass = 100
)

// MaxWorkers is the most workers a Group has.
const MaxWorkers = 64

// WordSize is the memory that a sleep word takes: a cache line of its own.
const WordSize = 64

// A Source is one direction between two applications: what a worker serves.
type Source struct {
	Events Bitmap            // set by the peer
	Handle func(slot uint32) // called for each; must not block
	Bell   *Doorbell         // rung by the peer

	from uint32 // where to go on; guarded by the worker's delivery lock
}

// A Group is the workers of an application: one for each P, as many as there
// are when a source is added. A worker runs while it has something to serve.
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

// Next returns the worker whose turn it is and its number. Sources are spread
// round-robin: all the slots of a source belong to one worker, because the worker
// only turns bits into wake-ups, and two that take turns at one pair's bits
// sleep, and have to be woken, twice as often as one.
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

// Wait waits until the workers have ended, which they do when they have no
// sources any more. Then nobody looks at the sleep words.
func (g *Group) Wait() { g.running.Wait() }

// A Worker delivers the events of its sources: a goroutine that runs while any
// bit is set, sleeps otherwise, and ends when its last source is removed. Meanwhile a
// spinning goroutine may poll on its behalf: it is a [Poller].
type Worker struct {
	group *Group

	sources atomic.Pointer[[]*Source] // replaced as a whole, under mu

	spin        Spin
	hadConnects bool // since it last slept

	// delivery is held while events are taken from the bitmaps and handled, and while
	// anybody looks whether there are any. So one goroutine at a time does that, and
	// Remove, which takes it too, returns after the last of it.
	delivery sync.Mutex

	mu       sync.Mutex // handlers take it, with delivery held; never the other way round
	polling  polling
	epoll    *epoll // while the worker is not stopped
	connects []func()
	cleanups []func() (more bool)
	queued   atomic.Int32 // len(connects) + len(cleanups)
}

// Add begins to serve s.
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
		// It may have announced a sleep without having looked at s.
		w.epoll.kick()
		return nil
	}
	w.polling.setWorker(workerAwake)
	w.group.running.Add(1)
	go w.run(w.epoll)
	return nil
}

// Remove ends the service of s. Nobody touches its bitmap or calls its handler once
// Remove has returned. It must not be called by a handler.
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
		w.epoll.kick() // to end
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

// Connect has the worker call f, one of at most 32 such calls a pass, so that a
// storm of connects doesn't starve the events of connections.
func (w *Worker) Connect(f func()) {
	w.mu.Lock()
	w.connects = append(w.connects, f)
	w.queue()
}

// Cleanup has the worker call f again and again while it returns true, at most
// 100 such calls a pass. The events that were set before are delivered first.
func (w *Worker) Cleanup(f func() (more bool)) {
	w.mu.Lock()
	w.cleanups = append(w.cleanups, f)
	w.queue()
}

// queue counts a queued call, releases mu and wakes the worker.
func (w *Worker) queue() {
	w.queued.Add(1)
	// The worker announces its sleep before it looks at queued, under mu too.
	w.wake()
	w.mu.Unlock()
}

// wake wakes the worker if it sleeps. Ringing it once too often does no harm. The
// caller holds mu, so epoll is there as long as the worker is not stopped.
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

// takeOver has the caller deliver events, until giveBack, whether the worker sleeps or
// not. Peers don't ring meanwhile: if the worker sleeps, that sleep ends for them here,
// and they ring anew for the one that begins with giveBack.
func (w *Worker) takeOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.polling.takeOver() {
		return false
	}
	w.group.running.Add(1) // so that the sleep word stays
	return true
}

// deliver delivers events, if nobody else is at it.
func (w *Worker) deliver() {
	if w.delivery.TryLock() {
		w.take(eventsPerLook)
		w.delivery.Unlock()
	}
}

// giveBack ends what takeOver began. Like a worker that sleeps it announces that nobody
// polls and then looks once more; what is there by then is the worker's.
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

func (w *Worker) run(e *epoll) {
	defer w.group.running.Done()
	defer e.close()
	for {
		// After connects it looks for more, and no longer than that: it would be in
		// the way of those who look for themselves, as a Dial's other end can't.
		events, calls := w.pass()
		if events+calls == 0 && w.hadConnects && w.spin.Until(nil, w.pending) {
			events, calls = w.pass()
		}
		w.hadConnects = w.hadConnects && events+calls > 0
		// Those who were woken run now, on this P. Where there are several, more
		// may have come when they have had their turn. A single one looks for more
		// itself before it waits, and the worker would only be queued before what
		// that one sets going, and bring the next bytes in before the answers to
		// the last have left: then the two processes take turns at working.
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

// park sleeps until there may be something to do. It announces that, then looks again:
// whoever sets a bit looks at the word afterwards, so one of the two sees the other.
func (w *Worker) park(e *epoll) {
	e.wait(func() bool {
		w.setState(workerAsleep)
		return !w.pending()
	})
	w.setState(workerAwake)
}

// stop marks the worker as stopped if it has nothing to serve, and reports whether it
// did. Calls that are still queued stay for the next time.
func (w *Worker) stop() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*w.sources.Load()) > 0 || w.queued.Load() > 0 {
		return false
	}
	w.polling.setWorker(workerStopped)
	return true
}

// pending reports whether the worker has anything to do.
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

// take delivers at most max events of each source. It returns how many there were,
// and whether there may be more. The caller holds delivery.
func (w *Worker) take(max int) (events int, more bool) {
	for _, s := range *w.sources.Load() {
		n, next := s.Events.Take(s.from, max, s.Handle)
		s.from = next
		events += n
		more = more || n >= max
	}
	return events, more
}

// pass delivers events and does a bounded number of the queued calls. It returns how
// many there were of either.
func (w *Worker) pass() (events, calls int) {
	var connects []func()
	var cleanups []func() bool
	if w.queued.Load() > 0 {
		// Taken before the events are looked at: what was set before a
		// cleanup was queued is delivered before it is called.
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
