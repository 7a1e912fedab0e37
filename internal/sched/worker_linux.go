package sched

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// What a worker does in one pass before it lets others run.
const (
	eventsPerPass   = 1024 // of one source
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
	Handle func(slot uint32) // called by the worker for each; must not block
	Bell   *Doorbell         // rung by the peer

	from uint32 // where the worker goes on; its own
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
		g.workers = append(g.workers, &Worker{group: g, sleep: g.word(len(g.workers))})
	}
	return g.workers[i], i
}

// Wait waits until the workers have ended, which they do when they have no
// sources any more. Then nobody looks at the sleep words.
func (g *Group) Wait() { g.running.Wait() }

// A Worker delivers the events of its sources: a goroutine that runs while any
// bit is set, sleeps otherwise, and ends when its last source is removed.
type Worker struct {
	group *Group
	sleep *atomic.Uint32 // odd: asleep. Written by the worker only

	sources atomic.Pointer[[]*Source] // replaced as a whole, under mu

	spin    Spin
	looking bool // there were connects since it last slept

	mu       sync.Mutex
	running  bool
	poller   *poller
	connects []func()
	cleanups []func() (more bool)
	queued   atomic.Int32 // len(connects) + len(cleanups)
}

// Add begins to serve s.
func (w *Worker) Add(s *Source) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		p, err := newPoller()
		if err != nil {
			return err
		}
		w.poller = p
	}
	if err := w.poller.add(s.Bell.fd); err != nil {
		if !w.running {
			w.poller.close()
		}
		return err
	}
	list := append(w.list(), s)
	w.sources.Store(&list)
	if w.running {
		// It may have announced a sleep without having looked at s.
		w.poller.kick()
		return nil
	}
	w.running = true
	w.group.running.Add(1)
	go w.run(w.poller)
	return nil
}

// Remove ends the service of s. Its handler may be running and may run once
// more for each bit that was set; it isn't called for bits set afterwards.
func (w *Worker) Remove(s *Source) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*Source
	for _, o := range w.list() {
		if o != s {
			list = append(list, o)
		}
	}
	w.sources.Store(&list)
	w.poller.remove(s.Bell.fd)
	if len(list) == 0 {
		w.poller.kick() // to end
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
	// The worker announces its sleep before it looks at queued. Ringing it
	// once too often does no harm, and who calls from the worker finds it awake.
	if w.running && w.sleep.Load()&1 != 0 {
		w.poller.kick()
	}
	w.mu.Unlock()
}

func (w *Worker) run(p *poller) {
	defer w.group.running.Done()
	defer p.close()
	for {
		// After connects it looks for more, and no longer than that: it would be in
		// the way of those who look for themselves, as a Dial's other end can't.
		events, calls := w.pass()
		if events+calls == 0 && w.looking && w.spin.Until(w.pending) {
			events, calls = w.pass()
		}
		w.looking = w.looking && events+calls > 0
		// Those who were woken run now, on this P. Where there are several, more
		// may have come when they have had their turn. A single one looks for more
		// itself before it waits, and the worker would only be queued before what
		// that one sets going, and bring the next bytes in before the answers to
		// the last have left: then the two processes take turns at working.
		if w.looking || calls > 0 || events > 1 {
			runtime.Gosched()
			continue
		}
		// Announce, then look again: whoever sets a bit looks at the word
		// afterwards, so one of the two sees the other.
		w.sleep.Add(1)
		if !w.pending() {
			p.wait(w.pending)
		}
		w.sleep.Add(1)
		if w.ended() {
			return
		}
	}
}

// ended reports whether the worker has nothing to serve, and if so marks it as
// not running. Calls that are still queued stay for the next time.
func (w *Worker) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*w.sources.Load()) > 0 || w.queued.Load() > 0 {
		return false
	}
	w.running = false
	return true
}

// pending reports whether the worker has anything to do.
func (w *Worker) pending() bool {
	if w.queued.Load() > 0 {
		return true
	}
	list := *w.sources.Load()
	for _, s := range list {
		if s.Events.Pending() {
			return true
		}
	}
	return len(list) == 0
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
		connects = take(&w.connects, connectsPerPass)
		cleanups = take(&w.cleanups, cleanupsPerPass)
		w.mu.Unlock()
	}
	calls = len(connects) + len(cleanups)
	budget := cleanupsPerPass
	for _, s := range *w.sources.Load() {
		n, next := s.Events.Take(s.from, eventsPerPass, s.Handle)
		s.from = next
		events += n
		if n >= eventsPerPass {
			budget = 0 // there may be more
		}
	}
	for _, f := range connects {
		f()
		w.looking = true
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

// take removes up to n elements from the front of q.
func take[F any](q *[]F, n int) []F {
	n = min(n, len(*q))
	head := (*q)[:n:n]
	if *q = (*q)[n:]; len(*q) == 0 {
		*q = nil
	}
	return head
}
