// Package wait has what a goroutine waits with: a [Waiter] for one goroutine, a [Bell] for
// any number of them, and a [Deadline] that ends their waits.
//
// All of them wait on channels, so that a goroutine of a testing/synctest bubble blocks
// durably.
package wait

import "sync/atomic"

// A Waiter is where one goroutine waits to be woken. The goroutine calls Prepare, looks
// whether it still has to wait, and then calls either Wait or Cancel. Another goroutine that
// has changed something it may be looking for calls Wake afterwards. Both store before they
// load, so a change is either seen or followed by a wake-up; and each successful Wake leaves
// exactly one token, which Wait or Cancel takes, so no token is left for a later wait.
type Waiter struct {
	waiting atomic.Bool
	token   chan struct{}
}

// Init must be called before anything else.
func (w *Waiter) Init() { w.token = make(chan struct{}, 1) }

// Prepare says that the goroutine is about to wait. Its look at what it waits for must
// follow; pairs with the load in Wake.
func (w *Waiter) Prepare() { w.waiting.Store(true) }

// Wait waits for Wake.
func (w *Waiter) Wait() { <-w.token }

// Cancel undoes Prepare.
func (w *Waiter) Cancel() {
	if !w.waiting.CompareAndSwap(true, false) {
		<-w.token // a Wake came between
	}
}

// Wake wakes the goroutine if it waits or is about to. It never blocks.
func (w *Waiter) Wake() {
	// The load spares the common case a write.
	if w.waiting.Load() && w.waiting.CompareAndSwap(true, false) {
		w.token <- struct{}{}
	}
}
