// Package ring is the fifo: a byte queue with one producer and one consumer
// over memory that the two share and neither trusts.
//
// # Positions
//
// The producer counts the bytes it has published (tail), the consumer those it
// has taken (head). Both counters run freely through 64 bits and are never
// reduced, so tail-head is always the number of bytes in the fifo, also when
// they wrap. The byte at position p lies at offset (p-base)&(size-1).
//
// A producer that finds the fifo empty may choose a new base, which moves the
// place it writes at back to offset 0. Request-response traffic then stays in
// the same few cache lines, and in one page of memory, whatever the size.
//
// # Who writes what
//
// Every shared word has one writer. The words of one writer share cache lines
// with nobody else's, and the words written at each transfer (tail, base and
// head) do not share a line with those written seldom (flags and requests),
// so that looking at the latter is a cache hit while a stream flows.
//
//	word       written by  read by    ordering
//	base       producer    consumer   stored before the tail that follows it
//	tail       producer    consumer   stored after the bytes it covers
//	head       consumer    producer   stored after the bytes were copied out
//	fin,reset  producer    consumer   stored after the last tail; read before tail
//	closed     consumer    producer   stored before the closer looks for unread bytes
//	wantData   consumer    producer   stored before the consumer looks again
//	wantSpace  producer    consumer   stored before the producer looks again
//
// Package sync/atomic is sequentially consistent, which is what the pairs of
// the form "store mine, then load yours" need: of two sides that do so at the
// same time at least one sees the other. Where that counts the store is Store32 or
// Store64, because the race detector makes less of others.
//
// # An untrusted peer
//
// Each side keeps its own position, and what it last believed of the other's,
// in private memory. A position that the peer shows is loaded once and must lie
// between what was believed before and what is possible; otherwise ErrCorrupt.
// Offsets are masked. So a peer that lies can spoil the bytes it was going to
// send and nothing else: no index leaves the fifo, and no length comes from it.
//
// # Waiting
//
// A side that is about to wait raises its request (wantData, wantSpace), looks
// once more, and waits. The other side looks at the request after each publish
// or release, and tells its owner's scheduler if it is raised and was not yet
// answered. The request is a sequence number whose lowest bit says "raised"; the
// number that was answered is the answerer's private knowledge, so nobody has
// to clear a word of the other side's.
package ring

import (
	"errors"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// Limits of a fifo's size in bytes. Sizes are powers of two.
const (
	MinSize = 4 << 10
	MaxSize = 64 << 20
)

// HeaderSize is the number of bytes of shared memory that a fifo needs besides
// its data.
const HeaderSize = int(unsafe.Sizeof(Header{}))

// PieceSize is the most that is copied between two publishes or releases. A
// larger transfer goes in pieces, so that the other side's copy overlaps it.
const PieceSize = 32 << 10

// rewindAfter is the offset from which a producer looks whether the fifo is
// empty, to start again at offset 0. Looking costs a cache miss on the
// consumer's head, so short messages do it only every so many bytes; half a
// page keeps all of a request-response connection's bytes in one page.
const rewindAfter = 2 << 10

// ErrCorrupt means that the shared words hold positions that no sequence of
// writes and reads could have produced: the peer is broken or hostile.
var ErrCorrupt = errors.New("shared memory corrupted by the peer")

// RoundSize returns the size of the fifo that holds at least n bytes.
func RoundSize(n int) int {
	if n <= MinSize {
		return MinSize
	}
	return 1 << bits.Len(uint(n-1))
}

// Flags that a producer raises for good. They describe the stream's end.
const (
	flagFIN   = 1 << iota // all bytes before it were published
	flagReset             // the stream was cut off
)

// raised is the bit of a request word that says that its owner is waiting.
const raised = 1

// A Header is a fifo's shared words. It must start at a multiple of 64 bytes,
// and be zero before the first Producer and Consumer are made on it.
type Header struct {
	tail atomic.Uint64 // producer's, at each publish
	base atomic.Uint64
	_    [48]byte

	head atomic.Uint64 // consumer's, at each release
	_    [56]byte

	ended     atomic.Uint32 // producer's, seldom
	wantSpace atomic.Uint32
	_         [56]byte

	closed   atomic.Uint32 // consumer's, seldom
	wantData atomic.Uint32
	_        [56]byte
}

// At returns the header that lies at the start of mem.
func At(mem []byte) *Header {
	_ = mem[HeaderSize-1]
	return (*Header)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// A Fifo is the memory of one: its shared words, and its data, whose length is a power of
// two.
type Fifo struct {
	Header *Header
	Data   []byte
}

// queued returns how many bytes a fifo of this size holds, as far as the words
// can be believed.
func (h *Header) queued(size int) int {
	head := h.head.Load() // first: the tail is never behind an earlier head
	return int(min(h.tail.Load()-head, uint64(size)))
}

// Empty reports whether the consumer has released all that was published, in a fifo
// that neither side uses any more.
func (h *Header) Empty() bool { return h.tail.Load() == h.head.Load() }

// ResetProducer and ResetConsumer bring one side's words to their first state.
// Each is called by its own side, before the other side looks at the fifo.
func (h *Header) ResetProducer() {
	h.base.Store(0)
	h.ended.Store(0)
	h.wantSpace.Store(0)
	h.tail.Store(0)
}

// ResetConsumer is ResetProducer for the consumer's words.
func (h *Header) ResetConsumer() {
	h.closed.Store(0)
	h.wantData.Store(0)
	h.head.Store(0)
}

// A request is a side's own end of a want word.
type request struct {
	seq uint32
}

func (r *request) raise(w *atomic.Uint32) {
	r.seq += 2
	Store32(w, r.seq|raised)
}

func (r *request) drop(w *atomic.Uint32) {
	w.Store(r.seq &^ raised)
}

// An answer is what the other side knows of a want word.
type answer struct {
	given uint32
}

// due reports whether the request is raised and was not answered, and counts it
// as answered.
func (a *answer) due(w *atomic.Uint32) bool {
	v := w.Load()
	if v&raised == 0 || v == a.given {
		return false
	}
	a.given = v
	return true
}
