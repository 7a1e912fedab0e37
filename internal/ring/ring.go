// Package ring is the fifo: a byte queue with one [Producer] and one [Consumer],
// over memory that they share. Neither trusts the other one.
//
// # Positions
//
// The producer counts the bytes that it has published (tail), and the consumer
// counts the bytes that it has released (head). Both counters run freely through
// 64 bits and are never reduced, so tail-head is always the number of bytes in the
// fifo, also when they wrap. The bytes lie in a ring at the start of the data area. The
// byte at position p lies at offset (p-base)&(size-1) of the ring.
//
// A producer that finds the fifo empty may choose a new base, so that it writes at
// offset 0 again. Request-response traffic then stays in the same few cache lines,
// and in one page of memory, whatever the fifo's size.
//
// The producer also chooses the ring's size, up to that of the data area: a small one to
// begin with, a larger one where that helps the stream (see [Producer.Write]), a small one
// again when the fifo is empty ([Producer.Shrink]). Base and size are in one word, the place.
//
// When the ring becomes larger the queued bytes keep their offsets, and those that lie at
// the ring's start, beyond its old end, are copied to where they belong in the larger one.
// A consumer that does not know of it yet reads them where they were: so if there are any, the
// producer goes no further than to the new ring's end, until the consumer has said that it
// knows (seen), or has released them.
//
// # Who writes what
//
// Every shared word has one writer. Words of different writers don't share a cache
// line. The words that are written at each transfer (tail, place and head) don't share
// a line with the words that are written seldom (flags and requests), so that loading
// a flag or a request is a cache hit while a stream flows.
//
//	word       written by  read by    ordering
//	place      producer    consumer   stored before the tail that follows it
//	tail       producer    consumer   stored after the bytes it covers
//	head       consumer    producer   stored after the bytes were copied out
//	fin,reset  producer    consumer   stored after the last tail; read before tail
//	closed     consumer    producer   stored before the closer looks for unread bytes
//	wantData   consumer    producer   stored before the consumer looks again
//	wantSpace  producer    consumer   stored before the producer looks again
//	seen       consumer    producer   stored after the load of the place that it names
//	allow      consumer    producer   a wish
//
// Package sync/atomic is sequentially consistent, which is what the pairs of
// the form "store mine, then load yours" need: if both sides do so at the same
// time, at least one of them sees the other's store. In these pairs the store is
// [Store32] or [Store64], because the race detector makes other stores too weak.
//
// # An untrusted peer
//
// Each side keeps its own position, and the last position of the peer that it has
// accepted, in private memory. It loads a position of the peer once, and accepts it
// if it lies between the last one and what is possible; otherwise the call returns
// [ErrCorrupt]. So it does with the size in a place. Offsets are masked. So a peer that
// lies can spoil the bytes that it was going to send and nothing else: no index leaves the
// fifo, and no length comes from shared memory unchecked.
//
// # Waiting
//
// A side that is about to wait raises its request (wantData, wantSpace), looks
// once more, and waits. The other side loads the request after each publish
// or release. If the request is raised and was not answered yet, the caller has to
// notify the waiting side. The request is a sequence number whose lowest bit says
// "raised". The number that was answered last is private to the side that answers, so
// neither side has to clear a word of the other one.
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

// EasySize is the size up to which a ring grows when a single write needs it: what stays in a
// CPU's cache. Beyond that there must be plenty of memory, or the reader has to keep up.
const EasySize = 64 << 10

// HeaderSize is the number of bytes of shared memory that a fifo needs in addition
// to its data.
const HeaderSize = int(unsafe.Sizeof(Header{}))

// PageSize is the size of the part of a fifo that it never gives back: a page.
const PageSize = 4 << 10

// PieceSize is the most that is copied between two publishes or releases, in bytes. A
// larger transfer goes in pieces, so that the other side copies at the same time.
const PieceSize = 32 << 10

// restartAfter is the offset from which a producer looks whether the fifo is
// empty, to start again at offset 0. To look costs a cache miss on the consumer's
// head, so a producer of short messages does it only once in this many bytes. Half a
// page keeps all bytes of a request-response connection in one page.
const restartAfter = 2 << 10

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

// The flags of Header.ended. A producer sets them and never clears them.
const (
	flagFIN   = 1 << iota // the stream has ended, and all its bytes were published
	flagReset             // the stream was cut off
)

// raised is the bit of a request word which says that the side that writes it waits.
const raised = 1

// A Header is a fifo's shared words. It must start at a multiple of 64 bytes,
// and be zero before the first [Producer] and [Consumer] are made on it.
type Header struct {
	tail  atomic.Uint64 // the producer writes this line at each publish
	place atomic.Uint64
	_     [48]byte

	head atomic.Uint64 // the consumer writes this line at each release
	_    [56]byte

	ended     atomic.Uint32 // the producer writes this line seldom
	wantSpace atomic.Uint32
	_         [56]byte

	closed   atomic.Uint32 // the consumer writes this line seldom
	wantData atomic.Uint32
	seen     atomic.Uint32
	allow    atomic.Uint32
	_        [48]byte
}

// A place is where a ring's bytes lie: the logarithm of its size in the upper half, and the
// base modulo the size in the lower half.
type place uint64

func makePlace(mask, base uint64) place {
	return place(bits.Len64(mask))<<32 | place(base&mask)
}

// log returns the logarithm of the ring's size. It may be anything.
func (p place) log() uint32 { return uint32(p >> 32) }

// base returns the position at offset 0, modulo the ring's size if that is not a lie.
func (p place) base() uint64 { return uint64(uint32(p)) }

// At returns the header that lies at the start of mem.
func At(mem []byte) *Header {
	_ = mem[HeaderSize-1]
	return (*Header)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// An Owner is told of the memory that a ring takes. A nil Owner has any amount.
type Owner interface {
	// MayGrow reports whether there are n bytes more for a fifo to go faster.
	MayGrow(n int) bool
	// Plenty reports whether there is so much that n bytes more need no reason.
	Plenty(n int) bool
	// Charge counts n bytes more, which may be negative, whether they are there or not.
	Charge(n int)
	// Spread is called when the fifo may take memory that it does not need when it is
	// empty.
	Spread()
}

// A Fifo is the memory of a fifo: its shared words, and its data, whose length is a power of two.
type Fifo struct {
	Header *Header
	Data   []byte
}

// queued returns how many bytes a fifo of this size holds. It is a value for display: the
// words are not checked, but the result is never more than size.
func (h *Header) queued(size int) int {
	// The head first: a tail that is loaded later is never behind it.
	head := h.head.Load()
	return int(min(h.tail.Load()-head, uint64(size)))
}

// Empty reports whether the consumer has released all bytes that were published, in a
// fifo that neither side uses any more.
func (h *Header) Empty() bool { return h.tail.Load() == h.head.Load() }

// ResetProducer brings the producer's words to their first state. The producer's side
// calls it before the consumer's side looks at the fifo.
func (h *Header) ResetProducer() {
	h.place.Store(0)
	h.ended.Store(0)
	h.wantSpace.Store(0)
	h.tail.Store(0)
}

// ResetConsumer brings the consumer's words to their first state, except for those that
// [Consumer.Init] stores. The consumer's side calls both before the producer's side looks at
// the fifo.
func (h *Header) ResetConsumer() {
	h.closed.Store(0)
	h.wantData.Store(0)
	h.head.Store(0)
}

// A request is a want word, on the side that waits.
type request struct {
	seq uint32 // a multiple of 2
}

// raise says that this side is about to wait. It must look once more before it does: the
// store pairs with the load in answer.due.
func (r *request) raise(w *atomic.Uint32) {
	r.seq += 2
	Store32(w, r.seq|raised)
}

// drop says that this side does not wait any more.
func (r *request) drop(w *atomic.Uint32) {
	w.Store(r.seq &^ raised)
}

// An answer is a want word, on the side that answers.
type answer struct {
	given uint32 // the value that was answered last
}

// due reports whether the request is raised and was not answered, and counts it
// as answered. The load comes after the publish or release of this side, and pairs with
// the store in request.raise: the waiting side sees the bytes or the space, or this side
// sees the request.
func (a *answer) due(w *atomic.Uint32) bool {
	v := w.Load()
	if v&raised == 0 || v == a.given {
		return false
	}
	a.given = v
	return true
}
