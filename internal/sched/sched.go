// Package sched delivers events between applications: it knows which slot's
// fifo has something new, wakes a worker to say so, and lets those who wait spin
// for a moment first, if that pays.
//
// # A wake-up's way
//
// A side that has done something its peer waits for sets the slot's bit in the
// peer's Bitmap, then looks at the peer's sleep word, and rings the peer's
// doorbell if the word says that the worker sleeps. The worker stores the sleep
// word first and looks at its bitmaps afterwards. All of these are atomics,
// which sync/atomic keeps in one order, so either the worker finds the bit or
// the other side finds the worker asleep.
//
// The sleep word counts: odd is asleep, and each sleep has a number of its own.
// Whoever rings remembers the number, so a worker is rung once a sleep by each
// peer however much is sent before it is awake. A worker that was woken, for
// whatever reason, starts a new sleep with a new number; therefore a ring that
// came too early, or for nothing, can't make a later one be left out.
//
// # Polling on the worker's behalf
//
// A goroutine that spins for more than a few microseconds also polls on the worker's
// behalf: the sleep word says that somebody is awake, and the goroutine delivers what
// comes for others. Otherwise these events would wait for the worker, which waits for a
// thread, which waits for a CPU; and all CPUs may be taken by spinning goroutines, each
// waiting for an answer whose request still lies in a bitmap of the other process. Only
// one goroutine at a time takes events from the bitmaps: it holds the delivery lock. A
// goroutine that stops polling announces it and then looks once more, as a worker does
// that goes to sleep; and if it did not look for too long at a time, nobody polls on this
// worker's behalf for a while.
//
// # Doorbells
//
// A doorbell is an eventfd whose counter is 1 from the start and is never read:
// to ring is to write 0. The write adds nothing, so it can't overflow and doesn't
// block, whatever the peer that holds the same eventfd writes to it or does to its
// flags, and it still makes an edge for edge-triggered epoll, which is all
// the worker waits for. There is one for each pair of applications and
// direction: a peer that reads the counter away loses its own wake-ups only.
//
// A worker's doorbells are gathered in an epoll instance of its own, which waits
// in the runtime's network poller. A parked worker holds no thread.
package sched
