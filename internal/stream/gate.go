package stream

import (
	"net"
	"os"
	"sync/atomic"

	"cutthrough.example/internal/wait"
)

// A gate guards a connection's fifos. It lets one goroutine read and one write at
// a time, says when the last goroutine has left after Close, so that the memory is
// let go of exactly then, and says when the stream may be ended, which must not
// happen while a writer is about to publish.
//
// The idea of one word for all of it is internal/poll's fdMutex. Here goroutines
// wait for a lock on a channel, which a testing/synctest bubble understands, and
// they heed the deadline.
//
// The word is private to this end, and changed with compare-and-swap only. Models:
// gate.pml (locks, references, Peek, release), end.pml (the end of the stream).
type gate struct {
	word atomic.Uint64
	// Goroutines that wait for a lock. A ring says that the lock may be free.
	waiters [2]wait.Bell
}

// The word's bits. A bit that exists for each kind of lock is given for reading; shift it by
// the kind.
const (
	gateClosed  = 1 << 0
	gateLocked  = 1 << 1 // and 1 << 2
	gateWaiters = 1 << 3 // and 1 << 4: a goroutine waits for the lock
	gateLent    = 1 << 5 // and 1 << 6: the lock's holder is in code that is not ours
	gatePeeked  = 1 << 7 // a view from Peek is out, which holds the memory

	// An ending that somebody else could not do, because a holder was busy. The
	// holder does it when it unlocks or lends.
	gateFin  = 1 << 8 // tell the peer that the stream has ended, for CloseWrite and corrupt
	gateShut = 1 << 9 // the shutdown of Close

	gateRef = 1 << 16 // from here on: the number of goroutines inside
)

// The kinds of locks.
const (
	reading = iota
	writing
)

func (g *gate) init() {
	g.waiters[reading] = wait.NewBell()
	g.waiters[writing] = wait.NewBell()
}

// lock enters with a lock. It fails with net.ErrClosed, or with
// os.ErrDeadlineExceeded if it had to wait longer than d.
func (g *gate) lock(kind int, d *wait.Deadline) error {
	old := g.word.Load()
	if old&(gateClosed|gateLocked<<kind) == 0 &&
		g.word.CompareAndSwap(old, old|gateLocked<<kind+gateRef) {
		return nil
	}
	return g.lockSlow(kind, d)
}

// tryLock enters with a lock if it is free.
func (g *gate) tryLock(kind int) bool {
	for {
		old := g.word.Load()
		if old&(gateClosed|gateLocked<<kind) != 0 {
			return false
		}
		if g.word.CompareAndSwap(old, old|gateLocked<<kind+gateRef) {
			return true
		}
	}
}

func (g *gate) lockSlow(kind int, d *wait.Deadline) error {
	locked, waiters := uint64(gateLocked<<kind), uint64(gateWaiters<<kind)
	// Once it has waited it doesn't know whether it was the only one, so it
	// takes the lock with the waiters' bit.
	var waited uint64
	for {
		old := g.word.Load()
		switch {
		case old&gateClosed != 0:
			g.waiters[kind].Ring() // to other goroutines that wait
			return net.ErrClosed
		case old&locked == 0:
			if g.word.CompareAndSwap(old, old|locked|waited+gateRef) {
				return nil
			}
		case waited != 0 && d.Passed():
			g.waiters[kind].Ring()
			return os.ErrDeadlineExceeded
		case old&waiters != 0 || g.word.CompareAndSwap(old, old|waiters):
			<-g.waiters[kind]
			waited = waiters
		}
	}
}

// unlock leaves. It returns the endings that are due now: then it has not left, and
// the caller leaves when it has done them. Otherwise it reports whether the memory is
// to be let go of.
func (g *gate) unlock(kind int) (due uint64, last bool) { return g.unlockWith(kind, 0) }

// unlockPeeked is unlock of the lock for reading for a goroutine that has handed out
// a view. In one step: in two, a Read in between would clear a bit that is not set yet, and
// a Close would release memory that is still in view.
func (g *gate) unlockPeeked() (due uint64, last bool) { return g.unlockWith(reading, gatePeeked) }

func (g *gate) unlockWith(kind int, set uint64) (due uint64, last bool) {
	for {
		old := g.word.Load()
		due = old & dueFor(kind)
		v := old&^(gateLocked<<kind|gateWaiters<<kind|gateLent<<kind|due) | set
		if due == 0 {
			v -= gateRef
		}
		if g.word.CompareAndSwap(old, v) {
			if old&(gateWaiters<<kind) != 0 {
				g.waiters[kind].Ring()
			}
			return due, unused(v)
		}
	}
}

// dueFor returns the endings that the holder of a lock may have kept others from.
func dueFor(kind int) uint64 {
	if kind == writing {
		return gateFin | gateShut
	}
	return gateShut
}

// unused reports whether nobody uses the memory any more, nor ever will.
func unused(word uint64) bool {
	return word&(gateClosed|gatePeeked) == gateClosed && word < gateRef
}

// lend says that the lock's holder goes into code that is not ours, for which no
// ending should have to wait. It returns the endings that are due now.
func (g *gate) lend(kind int) (due uint64) {
	for {
		old := g.word.Load()
		due = old & dueFor(kind)
		if g.word.CompareAndSwap(old, old&^due|gateLent<<kind) {
			return due
		}
	}
}

// resume ends what lend began. If it reports that the gate is closed then the stream
// may have ended meanwhile, so the holder must not publish any more. If it does not, a
// later Close finds the holder busy.
func (g *gate) resume(kind int) (closed bool) {
	return g.word.And(^uint64(gateLent<<kind))&gateClosed != 0
}

// postpone leaves an ending to the holder of a lock, if the lock is held and not lent. It
// reports whether it did.
func (g *gate) postpone(kind int, due uint64) bool {
	for {
		old := g.word.Load()
		if old&(gateLocked<<kind|gateLent<<kind) != gateLocked<<kind {
			return false
		}
		if g.word.CompareAndSwap(old, old|due) {
			return true
		}
	}
}

// enter enters without a lock, unless the gate is closed.
func (g *gate) enter() bool {
	for {
		old := g.word.Load()
		if old&gateClosed != 0 {
			return false
		}
		if g.word.CompareAndSwap(old, old+gateRef) {
			return true
		}
	}
}

// leave undoes enter. It reports whether the memory is to be let go of.
func (g *gate) leave() (last bool) { return unused(g.word.Add(^uint64(gateRef - 1))) }

// close closes the gate and enters it in one step: the caller leaves when it has done what
// closing needs. It returns false if the gate was closed before.
func (g *gate) close() bool {
	for {
		old := g.word.Load()
		if old&gateClosed != 0 {
			return false
		}
		if g.word.CompareAndSwap(old, old|gateClosed+gateRef) {
			return true
		}
	}
}

// endPeek says that the view from the last Peek is not used any more. It reports
// whether the memory is to be let go of, which is never so for a goroutine that holds a reference.
func (g *gate) endPeek() (last bool) {
	for {
		old := g.word.Load()
		if old&gatePeeked == 0 {
			return false
		}
		if v := old &^ gatePeeked; g.word.CompareAndSwap(old, v) {
			return unused(v)
		}
	}
}

// held reports whether anybody is inside, or has a view.
func (g *gate) held() bool {
	word := g.word.Load()
	return word >= gateRef || word&gatePeeked != 0
}
