package wait

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Deadline is the time after which one kind of operation fails. Its zero value is none.
//
// Its timer is moved only when the new time is earlier than the timer's: one
// that fires too early finds that out and is set again. So to extend a deadline
// before each operation, as many programs do, costs no timer operation.
type Deadline struct {
	passed atomic.Bool

	mu    sync.Mutex
	at    time.Time // zero: none
	timer *time.Timer
	fires time.Time // when the timer will fire; zero if it won't
	ended bool      // no timer is set any more
}

// An Expirer is told each time that its deadline passes.
type Expirer interface{ Expired() }

// Set sets the deadline. It tells e, which is always the same, when it passes.
func (d *Deadline) Set(t time.Time, e Expirer) {
	d.mu.Lock()
	d.at = t
	var left time.Duration
	passed := false
	if !t.IsZero() {
		left = time.Until(t)
		passed = left <= 0
	}
	d.passed.Store(passed)
	if left > 0 && !d.ended && (d.fires.IsZero() || t.Before(d.fires)) {
		d.fires = t
		if d.timer == nil {
			d.timer = time.AfterFunc(left, func() { d.fire(e) })
		} else {
			d.timer.Reset(left)
		}
	}
	d.mu.Unlock()
	if passed {
		e.Expired()
	}
}

// Passed reports whether the deadline has passed.
func (d *Deadline) Passed() bool { return d.passed.Load() }

// fire is called by the timer, possibly one that was set again meanwhile: what
// counts is the deadline as it is now.
func (d *Deadline) fire(e Expirer) {
	d.mu.Lock()
	d.fires = time.Time{}
	if d.at.IsZero() || d.passed.Load() {
		d.mu.Unlock()
		return
	}
	if left := time.Until(d.at); left > 0 {
		d.fires = d.at
		d.timer.Reset(left)
		d.mu.Unlock()
		return
	}
	d.passed.Store(true)
	d.mu.Unlock()
	e.Expired()
}

// Stop lets go of the timer. The deadline doesn't pass any more.
func (d *Deadline) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.ended = time.Time{}, true
	if d.timer != nil {
		d.timer.Stop()
	}
}
