package stream

import (
	"net"
	"os"
	"runtime"
	"sync/atomic"

	"cutthrough.example/internal/wait"
)

// A gate guards an end's fifos. It has a lock for reading and one for writing. It reports
// when the last goroutine has left after Close, so that the end lets go of its memory exactly
// then. And it says whether a holder of a lock is busy: the stream must not be ended while a
// writer may be about to publish.
//
// One word holds all of that, as in internal/poll's fdMutex. But here goroutines wait for a
// lock on a channel, so that a testing/synctest bubble sees them wait, and they heed the
// deadline.
//
// The word is private to this end, and is changed by atomic read-modify-writes only. Models:
// gate.pml (locks, references, Peek, letting go), end.pml (the end of the stream).
type gate struct {
	word atomic.Uint64
	// Goroutines wait here for a lock. A ring says that the lock may be free.
	waiters [2]waiters
}

// The waiters for a lock have a bell from the first one on: mostly nobody waits. In a bubble it
// is made with the gate, see bell.
type waiters struct{ p atomic.Pointer[wait.Bell] }

// bell returns the bell, and makes it if there is none. It returns nil to a goroutine in a bubble
// if the gate was made outside: nobody outside may ring a bell that is made in there.
func (w *waiters) bell() wait.Bell {
	if b := w.p.Load(); b != nil {
		return *b
	}
	if wait.InBubble() {
		return nil
	}
	w.make()
	return *w.p.Load()
}

func (w *waiters) make() {
	b := wait.NewBell()
	w.p.CompareAndSwap(nil, &b)
}

// ring rings the bell. Without one nobody waits, and who makes one looks again before it waits.
func (w *waiters) ring() {
	if b := w.p.Load(); b != nil {
		b.Ring()
	}
}

// The word's bits. Where there is a bit for each kind of lock, the constant is the bit for
// reading; shift it by the kind.
const (
	gateClosed  = 1 << 0
	gateLocked  = 1 << 1 // and 1 << 2
	gateWaiters = 1 << 3 // and 1 << 4: a goroutine waits for the lock
	gateLent    = 1 << 5 // and 1 << 6: the lock's holder is in code of others
	gatePeeked  = 1 << 7 // the user has a view from Peek, which holds the memory

	// An ending that another goroutine has left to the holder of a lock, because the holder
	// was busy. The holder does it when it unlocks or lends.
	gateFin  = 1 << 8 // tell the peer that the stream has ended, for CloseWrite and corrupt
	gateShut = 1 << 9 // the shutdown of Close

	gateRef = 1 << 16 // from here on: the number of goroutines inside
)

// The kinds of locks.
const (
	reading = iota
	writing
)

// init makes the bells if the gate is made in a bubble.
func (g *gate) init(bubble bool) {
	if bubble {
		g.waiters[reading].make()
		g.waiters[writing].make()
	}
}

// lock enters with a lock. It fails with net.ErrClosed if the gate is closed, and with
// os.ErrDeadlineExceeded if d passes while it waits.
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
	// Once woken, it doesn't know whether other goroutines still wait, so it sets the
	// waiters' bit together with the lock's.
	var waited uint64
	var bell wait.Bell
	for {
		old := g.word.Load()
		switch {
		case old&gateClosed != 0:
			g.waiters[kind].ring() // to other goroutines that wait
			return net.ErrClosed
		case old&locked == 0:
			if g.word.CompareAndSwap(old, old|locked|waited+gateRef) {
				return nil
			}
		case d.Passed():
			g.waiters[kind].ring()
			return os.ErrDeadlineExceeded
		case bell == nil:
			// Then look again: the deadline may have passed, or the gate have been closed,
			// before there was a bell.
			if bell = g.waiters[kind].bell(); bell == nil {
				runtime.Gosched()
			}
		case old&waiters != 0 || g.word.CompareAndSwap(old, old|waiters):
			<-bell
			waited = waiters
		}
	}
}

// unlock unlocks, and leaves if no ending is due. Otherwise it returns the endings, and the
// caller does them and then leaves. last reports whether the caller must let go of the
// memory.
func (g *gate) unlock(kind int) (due uint64, last bool) { return g.unlockWith(kind, 0) }

// unlockPeeked is unlock of the lock for reading by a goroutine that returns a view to the
// user. It sets gatePeeked in the same step: in between, a Read would find the bit not set yet,
// and a Close would let go of memory that the user sees.
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
				g.waiters[kind].ring()
			}
			return due, unused(v)
		}
	}
}

// dueFor returns the endings that can be left to the holder of a lock.
func dueFor(kind int) uint64 {
	if kind == writing {
		return gateFin | gateShut
	}
	return gateShut
}

// unused reports whether the gate is closed and nothing holds the memory any more.
func unused(word uint64) bool {
	return word&(gateClosed|gatePeeked) == gateClosed && word < gateRef
}

// lend says that the lock's holder is about to call code of others, and is not busy until
// resume. It returns the endings that are due now.
func (g *gate) lend(kind int) (due uint64) {
	for {
		old := g.word.Load()
		due = old & dueFor(kind)
		if g.word.CompareAndSwap(old, old&^due|gateLent<<kind) {
			return due
		}
	}
}

// resume undoes lend. If it reports that the gate is closed, the stream may have ended
// meanwhile, and the holder must not publish any more. Otherwise a later Close finds the holder
// busy.
func (g *gate) resume(kind int) (closed bool) {
	return g.word.And(^uint64(gateLent<<kind))&gateClosed != 0
}

// postpone leaves an ending to the holder of a lock, if the holder is busy: the lock is held
// and not lent. It reports whether it did.
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

// leave undoes enter. last reports whether the caller must let go of the memory.
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

// endPeek says that the user does not use the view from the last Peek any more. last reports
// whether the caller must let go of the memory; it is false if the caller has a reference.
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

// shared reports whether anybody but the caller, who is inside, is inside too or has a view. If the gate
// is closed, it does not change from false to true.
func (g *gate) shared() bool {
	word := g.word.Load()
	return word >= 2*gateRef || word&(gateClosed|gatePeeked) != gateClosed
}

// held reports whether a goroutine is inside, or the user has a view.
func (g *gate) held() bool {
	word := g.word.Load()
	return word >= gateRef || word&gatePeeked != 0
}
