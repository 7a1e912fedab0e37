package stream

import (
	"sync"
	"time"

	"cutthrough.example/internal/wait"
)

// A Janitor looks after the memory of all rings of an application. It makes rings small again
// that have grown or spread over more than a page, and gives their pages back, when nothing has
// happened on the connection for a while. It has a timer while there are ends to look at, and
// nothing otherwise: an idle process does not run for it.
//
// What happens on a connection costs it nothing: an end comes to the janitor once, and again
// only after its ring was made small.
type Janitor struct {
	Memory Memory

	mu      sync.Mutex
	watched map[*End]*watch
	timer   *time.Timer
	next    time.Time // when the timer fires, or zero
	closed  bool
}

// A Memory counts the bytes of all rings of an application.
type Memory interface {
	// MayGrow reports whether there are n bytes more for a fifo to go faster.
	MayGrow(n int) bool
	// Plenty reports whether there is so much that n bytes more need no reason.
	Plenty(n int) bool
	// Charge counts n bytes more, which may be negative.
	Charge(n int)
}

// A watch is what the janitor knows of an end.
type watch struct {
	moved uint64 // as it was found by the last look
	wait  time.Duration
	at    time.Time // of the next look
}

// Quiet is for how long nothing must have happened. An end that is quiet, and whose bytes
// nobody takes, is looked at again after twice this time, and so on up to maxQuiet.
const (
	Quiet    = time.Second
	maxQuiet = 64 * time.Second
)

// watch has e looked at. In a testing/synctest bubble it does nothing: the timer would belong
// to the bubble, and be of no use to ends outside.
func (j *Janitor) watch(e *End) {
	if j == nil || wait.InBubble() {
		return
	}
	e.watched.Store(true)
	j.add(e, &watch{moved: e.moved(), wait: Quiet})
}

// add has e looked at when w says so, unless it is to be looked at already.
func (j *Janitor) add(e *End, w *watch) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.watched[e] != nil {
		return
	}
	if j.watched == nil {
		j.watched = make(map[*End]*watch)
	}
	j.watched[e] = w
	w.at = time.Now().Add(w.wait)
	j.schedule(w.at)
}

// schedule has the timer fire at t, or earlier. The caller has mu.
func (j *Janitor) schedule(t time.Time) {
	if !j.next.IsZero() && !t.Before(j.next) {
		return
	}
	j.next = t
	if j.timer == nil {
		j.timer = time.AfterFunc(time.Until(t), j.look)
	} else {
		j.timer.Reset(time.Until(t))
	}
}

// look looks at the ends whose time has come. It never waits for one of them.
func (j *Janitor) look() {
	for e, w := range j.due() {
		if e.tidy(w) {
			j.add(e, w)
		}
	}
}

// due takes out the ends whose time has come: an end that spreads after it was made small
// comes again.
func (j *Janitor) due() map[*End]*watch {
	j.mu.Lock()
	defer j.mu.Unlock()
	due := make(map[*End]*watch)
	j.next = time.Time{}
	now := time.Now()
	for e, w := range j.watched {
		if w.at.After(now) {
			j.schedule(w.at)
		} else {
			due[e] = w
			delete(j.watched, e)
		}
	}
	return due
}

// forget is called when the end has let go of its fifos.
func (j *Janitor) forget(e *End) {
	if !e.watched.Load() {
		return // most connections are too short, or have too few bytes
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.watched, e)
	if len(j.watched) == 0 && !j.next.IsZero() {
		j.next = time.Time{}
		j.timer.Stop()
	}
}

// Close ends the janitor's work.
func (j *Janitor) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.watched = nil
	if j.timer != nil {
		j.timer.Stop()
	}
}

// moved returns a number that changes when something happens on the connection.
func (e *End) moved() uint64 { return e.tx.Moved() + e.rx.Moved() }

// tidy makes what the end can of its fifos small if nothing has happened since the last look.
// It reports whether there is something left to be done.
func (e *End) tidy(w *watch) (again bool) {
	if !e.gate.enter() {
		return false
	}
	defer e.Leave()
	moved := e.moved()
	quiet := moved == w.moved
	w.moved = moved
	if !quiet {
		w.wait = Quiet
		return true
	}
	w.wait = min(2*w.wait, maxQuiet)
	large := e.rx.Settle()
	// Without waiting: a holder of the lock has something to write, or a view of the ring,
	// from Reserve or in ReadFrom.
	if !e.tx.Idle() || !e.gate.tryLock(writing) {
		return true
	}
	// Here nobody uses a byte beyond the first page. A reader may be in the fifo, but finds
	// nothing; see ring.Producer.Shrink.
	if unused, ok := e.tx.Shrink(); !ok {
		large = true
	} else if len(unused) > 0 {
		e.peer.Trim(unused)
	}
	e.unlock(writing)
	return large
}
