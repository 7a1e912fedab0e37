package ctnet

import (
	"net"
	"os"
	"sync/atomic"
)

// A gate guards a connection's fifos: it lets one goroutine read and one write
// at a time, and says when the last one has left after Close, so that memory is
// let go of exactly then. The idea of one word for all of it is internal/poll's
// fdMutex; here those who wait for a lock do so on a channel, which a
// testing/synctest bubble understands, and they heed the deadline.
type gate struct {
	word atomic.Uint64
	// Those who wait for a lock. A ring says that the lock may be free.
	waiters [2]bell
}

// The word's bits. The locks and their waiters' bits are those for reading,
// shifted by the kind.
const (
	gateClosed  = 1 << 0
	gateLocked  = 1 << 1
	gateWaiters = 1 << 3
	gateRef     = 1 << 8 // from here on: the number of goroutines inside
)

// The kinds of locks.
const (
	reading = iota
	writing
)

func (g *gate) init() {
	g.waiters[reading] = makeBell()
	g.waiters[writing] = makeBell()
}

// lock enters with a lock. It fails with net.ErrClosed, or with
// os.ErrDeadlineExceeded if it had to wait longer than d.
func (g *gate) lock(kind int, d *deadline) error {
	old := g.word.Load()
	if old&(gateClosed|gateLocked<<kind) == 0 &&
		g.word.CompareAndSwap(old, old|gateLocked<<kind+gateRef) {
		return nil
	}
	return g.lockSlow(kind, d)
}

func (g *gate) lockSlow(kind int, d *deadline) error {
	locked, waiters := uint64(gateLocked<<kind), uint64(gateWaiters<<kind)
	// Once it has waited it doesn't know whether it was the only one, so it
	// takes the lock with the waiters' bit.
	var waited uint64
	for {
		old := g.word.Load()
		switch {
		case old&gateClosed != 0:
			g.waiters[kind].ring() // to those who wait too
			return net.ErrClosed
		case old&locked == 0:
			if g.word.CompareAndSwap(old, old|locked|waited+gateRef) {
				return nil
			}
		case waited != 0 && d.passed.Load():
			g.waiters[kind].ring()
			return os.ErrDeadlineExceeded
		case old&waiters != 0 || g.word.CompareAndSwap(old, old|waiters):
			<-g.waiters[kind]
			waited = waiters
		}
	}
}

// unlock leaves. It reports whether the gate is closed and this was the last
// one inside.
func (g *gate) unlock(kind int) (last bool) {
	for {
		old := g.word.Load()
		v := old&^(gateLocked<<kind|gateWaiters<<kind) - gateRef
		if g.word.CompareAndSwap(old, v) {
			if old&(gateWaiters<<kind) != 0 {
				g.waiters[kind].ring()
			}
			return v&gateClosed != 0 && v < gateRef
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

// leave undoes enter, and reports as unlock does.
func (g *gate) leave() (last bool) {
	v := g.word.Add(^uint64(gateRef - 1))
	return v&gateClosed != 0 && v < gateRef
}

// close closes the gate and enters it at once, for whoever closes to leave when
// that is done. It returns false if the gate was closed before.
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

// held reports whether anybody is inside.
func (g *gate) held() bool { return g.word.Load() >= gateRef }
