package ctnet

import "sync/atomic"

// A waiter is where one goroutine waits to be woken. The one that waits calls
// prepare, looks whether it still has to wait, and then calls either wait or
// cancel. Whoever has changed something it may be looking for calls wake
// afterwards. Both sides store before they load, so a change is either seen or
// followed by a wake-up; and each successful wake leaves exactly one token,
// which the waiter takes, so no token is left for a later wait.
//
// Waiting on a channel lets the connections of a testing/synctest bubble block
// durably.
type waiter struct {
	waiting atomic.Bool
	token   chan struct{}
}

func (w *waiter) init() { w.token = make(chan struct{}, 1) }

func (w *waiter) prepare() { w.waiting.Store(true) }

func (w *waiter) wait() { <-w.token }

func (w *waiter) cancel() {
	if !w.waiting.CompareAndSwap(true, false) {
		<-w.token
	}
}

func (w *waiter) wake() {
	// The load spares the common case a write.
	if w.waiting.Load() && w.waiting.CompareAndSwap(true, false) {
		w.token <- struct{}{}
	}
}

// A bell lets any number of goroutines wait for something that one of them will
// take. Who rings does so after the change; who was woken and leaves something
// for the others rings again. A ring that nobody waits for is remembered, so
// those who wait look again after each.
type bell chan struct{}

func makeBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}
