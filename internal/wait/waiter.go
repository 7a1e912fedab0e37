// Package wait lets goroutines wait: a [Waiter] is for one goroutine, a [Bell] for any number,
// and a [Deadline] ends their waits.
//
// All of them wait on channels, so that a goroutine of a testing/synctest bubble blocks
// durably.
package wait

import "sync/atomic"

// A Waiter lets one goroutine wait to be woken. The goroutine calls Prepare, checks whether it
// still has to wait, and then calls either Wait or Cancel. Another goroutine calls Wake after a
// change that may end the wait. Both store before they load, so the waiting goroutine sees the
// change or gets a wake-up. Each successful Wake leaves exactly one token, which Wait or Cancel
// receives, so no token is left for a later wait.
type Waiter struct {
	waiting atomic.Bool
	token   chan struct{}
}

// Init must be called before anything else.
func (w *Waiter) Init() { w.token = make(chan struct{}, 1) }

// Prepare says that the goroutine is about to wait. Its check must follow. The store pairs with
// the load in Wake.
func (w *Waiter) Prepare() { w.waiting.Store(true) }

// Wait waits for Wake.
func (w *Waiter) Wait() { <-w.token }

// Cancel undoes Prepare.
func (w *Waiter) Cancel() {
	if !w.waiting.CompareAndSwap(true, false) {
		<-w.token // a Wake came between
	}
}

// Wake wakes the goroutine if it waits or has called Prepare. It never blocks.
func (w *Waiter) Wake() {
	// In the common case the load alone is enough, and the cache line is not written.
	if w.waiting.Load() && w.waiting.CompareAndSwap(true, false) {
		w.token <- struct{}{}
	}
}
