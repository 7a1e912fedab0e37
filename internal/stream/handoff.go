package stream

import (
	"runtime"
	"sync/atomic"
)

// A handoff is a Read's buffer that the other end's Write, in the same application,
// copies into when the fifo is empty: one copy in place of two.
//
// The reader offers its buffer before it waits, and does not return before it has
// withdrawn it. It offered after it had found the fifo empty, so a writer that finds
// it empty too, and takes the offer, passes nothing by: only the writer adds to it.
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

// handoffLeast is the least size of buffers on both sides for which it is tried.
const handoffLeast = 8 << 10

// awaitInto waits as awaitData does. A Write of the same application may copy into b
// meanwhile: then awaitInto returns how much.
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

// give copies what it can of b into the buffer of a Read that waits in the same
// application, and lets that one run, while the bytes are in this CPU's cache.
func (e *End) give(b []byte) (n int) {
	joint := e.joint()
	if joint == nil || len(b) < handoffLeast || !e.tx.Taken() {
		return 0
	}
	if n = joint.out.take(b); n > 0 {
		e.peer.Notify()
		runtime.Gosched()
	}
	return n
}

// offer offers b, until withdraw.
func (h *handoff) offer(b []byte) {
	h.buf = b
	h.state.Store(offerMade)
}

// withdraw returns how much has been copied.
func (h *handoff) withdraw() (n int) {
	if !h.state.CompareAndSwap(offerMade, offerNone) {
		for h.state.Load() == offerTaken {
			runtime.Gosched() // for as long as it takes to copy
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
