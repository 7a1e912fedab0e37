package wait

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Deadline is the time after which one kind of operation fails. The zero value is no deadline.
//
// Set moves the timer only to an earlier time. A timer that fires before the deadline is set
// again. So a program that extends its deadline before each operation, as many do, causes no
// timer operation.
type Deadline struct {
	passed atomic.Bool
	ended  bool // Stop was called: the timer is not set any more

	mu     sync.Mutex
	*alarm // made when there is a time: many connections have no deadlines
}

// An alarm is the time of a Deadline, and its timer.
type alarm struct {
	at     time.Time // zero: none
	timer  *time.Timer
	fires  time.Time // when the timer will fire; zero if it won't
	bubble bool      // the timer was made in a testing/synctest bubble
}

// An Expirer is told each time that its deadline passes.
type Expirer interface{ Expired() }

// Set sets the deadline. When it passes, e.Expired is called. e must be the same in each call.
func (d *Deadline) Set(t time.Time, e Expirer) {
	d.mu.Lock()
	if d.alarm == nil && !t.IsZero() {
		d.alarm = new(alarm)
	}
	if d.alarm != nil {
		d.at = t
	}
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
			d.bubble = InBubble()
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

// fire is called by the timer. Set may have changed the deadline since the timer fired, so fire
// looks at the current one.
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

// Stop stops the timer. The deadline doesn't pass any more.
func (d *Deadline) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.alarm == nil {
		return
	}
	d.at = time.Time{}
	if d.timer != nil && (!d.bubble || InBubble()) { // a bubble's timer must not be stopped from outside
		d.timer.Stop()
	}
}
