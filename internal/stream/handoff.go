package stream

import (
	"runtime"
	"sync/atomic"
)

// A handoff is the buffer of a Read that waits, offered to a Write of the other end in the
// same application. If the fifo is empty the Write copies into this buffer: one copy in place
// of two.
//
// The reader offers its buffer after it has found the fifo empty, and withdraws it before it
// returns. A writer takes the offer only if it finds the fifo empty too. No bytes can be
// overtaken, as only this writer adds bytes to the fifo. Model: handoff.pml.
type handoff struct {
	state atomic.Uint32
	buf   []byte // the reader's, but the writer's from offerTaken to offerUsed
	n     int    // bytes copied, if the state is offerUsed
}

const (
	offerNone  = iota
	offerMade  // by the reader
	offerTaken // by the writer, which is copying
	offerUsed
)

// handoffLeast is the least size of both buffers for which a handoff is tried.
const handoffLeast = 8 << 10

// awaitInto waits as awaitData does. A Write in the same application may copy into b
// meanwhile; awaitInto returns how many bytes.
func (e *End) awaitInto(b []byte) int {
	joint := e.joint()
	if joint == nil || len(b) < handoffLeast {
		e.awaitData(0, nil)
		return 0
	}
	joint.in.offer(b)
	e.awaitData(0, joint.in)
	return joint.in.withdraw()
}

// handOff copies as much of b as fits into the buffer of a Read that waits in the same
// application. It then yields, so that the reader runs while the bytes are in this CPU's
// cache. A captured end does not hand off: its bytes are recorded in one step with their publishing.
func (e *End) handOff(b []byte) (n int) {
	joint := e.joint()
	if joint == nil || len(b) < handoffLeast || !e.tx.Empty() || e.state.Load()&captured != 0 {
		return 0
	}
	if n = joint.out.take(b); n > 0 {
		e.wr.tally.direct += uint64(n)
		e.notify(&e.wr)
		runtime.Gosched()
	}
	return n
}

// offer offers b, until withdraw. The store pairs with take's compare-and-swap.
func (h *handoff) offer(b []byte) {
	h.buf = b
	h.state.Store(offerMade)
}

// withdraw ends the offer, and returns how many bytes were copied.
func (h *handoff) withdraw() (n int) {
	if !h.state.CompareAndSwap(offerMade, offerNone) {
		for h.state.Load() == offerTaken {
			runtime.Gosched() // until the writer has copied
		}
		n = h.n
		h.state.Store(offerNone)
	}
	h.buf = nil
	return n
}

// take takes an offer, if there is one, and copies b.
func (h *handoff) take(b []byte) (n int) {
	if h.state.CompareAndSwap(offerMade, offerTaken) {
		n = copy(h.buf, b)
		h.n = n
		h.state.Store(offerUsed)
	}
	return n
}

// used reports whether the offer was taken and the bytes are there.
func (h *handoff) used() bool { return h.state.Load() == offerUsed }
