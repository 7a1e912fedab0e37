// Package sched delivers events between applications: it marks the slots that have something
// new, wakes the peer's worker, and lets a goroutine that is about to wait spin for a moment
// first, if that pays.
//
// # How a wake-up travels
//
// A side that has done something for which its peer waits sets the slot's bit in the
// peer's [Bitmap], then loads the peer's sleep word, and rings the peer's [Doorbell] if
// the word says that the worker sleeps ([Remote.Notify]). The worker stores the sleep
// word first and looks at its bitmaps afterwards. All of these are atomics, which
// sync/atomic keeps in one order, so either the worker finds the bit or the other side
// finds the worker asleep.
//
// The sleep word counts: an odd number says that the worker sleeps, and each sleep has a
// number of its own. A peer that rings remembers the number, so each peer rings once for
// each sleep, however much it sends before the worker is awake. A worker that was woken,
// for whatever reason, starts a new sleep with a new number. So a ring that came too
// early, or for nothing, never makes a peer leave out a later one.
//
// # Polling on the worker's behalf
//
// A goroutine that spins for more than a few microseconds also polls on the worker's
// behalf ([Poller]): the sleep word says that the worker is awake, and the goroutine
// delivers other connections' events. Otherwise these events would wait for the worker,
// which waits for a thread, which waits for a CPU; and all CPUs may be occupied by spinning
// goroutines, each waiting for an answer whose request still lies in a bitmap of the
// other process. Only one goroutine at a time takes events from the bitmaps: it holds the
// delivery lock. A goroutine that stops polling announces that and then looks once more,
// as a worker does before it sleeps. After too long a gap between two of its looks, no
// goroutine polls on this worker's behalf for a while.
//
// # Doorbells
//
// A doorbell is a pair of unix sockets ([Doorbell], [Ringer]); to ring is to send a byte, which
// never blocks. The byte makes an edge for edge-triggered epoll, and the worker waits for
// nothing else. Each pair has a doorbell for each direction: what a peer does to its end harms
// only this pair.
//
// # Turns
//
// A worker serves many peers, of which one may be hostile. It delivers a bounded number of events
// of each in a pass, and then calls Work once for each source that was scheduled ([Source]).
//
// A worker's doorbells are in an epoll instance of its own, which waits in the runtime's
// network poller. A parked worker holds no thread.
package sched
