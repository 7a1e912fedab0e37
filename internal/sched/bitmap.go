package sched

import (
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// Slots is the number of bits in a Bitmap.
const Slots = 64 << 10

// BitmapSize is the shared memory of a [Bitmap] in bytes: the leaves, and two levels above them
// that say which words below are not zero.
const BitmapSize = (leafWords + midWords + 64/8) * 8

const (
	leafWords = Slots / 64
	midWords  = leafWords / 64
)

// A Bitmap holds the notifications of one direction between two applications, a bit
// for each slot. A bit that is set twice is set once, so notifications coalesce. There
// is no queue that could overflow, and no lock that a dying process could leave held;
// and a peer that sets bits at random causes only spurious wake-ups.
//
// Any number of goroutines in the peer's application set bits, from the leaf upward. In
// the other application one goroutine at a time takes them, from the top downward. It
// clears each word before it looks at the words below. So it either finds a bit in that
// pass, or all words above the bit are set again after they were cleared. Model:
// bitmap.pml.
type Bitmap struct {
	top  *atomic.Uint64
	mid  *[midWords]atomic.Uint64
	leaf *[leafWords]atomic.Uint64
}

// NewBitmap returns the bitmap in the first [BitmapSize] bytes of mem, which must
// be aligned to 8 bytes.
func NewBitmap(mem []byte) Bitmap {
	_ = mem[BitmapSize-1]
	base := unsafe.Pointer(unsafe.SliceData(mem))
	return Bitmap{
		top:  (*atomic.Uint64)(base),
		mid:  (*[midWords]atomic.Uint64)(unsafe.Add(base, 64)),
		leaf: (*[leafWords]atomic.Uint64)(unsafe.Add(base, 64+midWords*8)),
	}
}

// Set sets the bit of slot, which must be less than [Slots].
func (b Bitmap) Set(slot uint32) {
	leaf, mid := slot/64, slot/64/64
	setBit(&b.leaf[leaf], slot%64)
	setBit(&b.mid[mid], leaf%64)
	setBit(b.top, mid)
}

// setBit sets a bit of w. If it is set already, setBit only loads it, so that the cache line can
// stay with the worker. That is enough, because take clears the word before it looks at what the
// bit stands for. Both operations pair with the Swap in Bitmap.take.
func setBit(w *atomic.Uint64, bit uint32) {
	if w.Load()&(1<<bit) == 0 {
		w.Or(1 << bit)
	}
}

// Pending reports whether any bit may be set. The load pairs with the last store of
// [Bitmap.Set], to the top.
func (b Bitmap) Pending() bool { return b.top.Load() != 0 }

// Take clears bits and calls f for each, until no bit is left or about max bits were
// taken; the others stay set. It begins at slot from, and returns how many bits it took
// and where the next call should begin, so that no slot waits for ever behind busy ones.
func (b Bitmap) Take(from uint32, max int, f func(slot uint32)) (n int, next uint32) {
	n, next = b.take(from, Slots, max, f)
	if from > 0 && n < max {
		var m int
		m, next = b.take(0, from, max-n, f)
		n += m
	}
	return n, next
}

// take is [Bitmap.Take] for the slots from lo up to but not including hi, both multiples
// of 64. If it took all bits it returns 0 as next.
//
// Each Swap pairs with setBit: a bit that is set below after the Swap has this word set
// again. By Or it puts back the bits of a word that it has cleared but not followed.
func (b Bitmap) take(lo, hi uint32, max int, f func(slot uint32)) (n int, next uint32) {
	if b.top.Load() == 0 {
		return 0, 0
	}
	all := b.top.Swap(0) & (1<<midWords - 1)
	top := all & between(int(lo/64/64), int((hi+64*64-1)/64/64))
	if rest := all &^ top; rest != 0 {
		b.top.Or(rest)
	}
	for ; top != 0; top &= top - 1 {
		m := uint32(bits.TrailingZeros64(top))
		if n >= max {
			b.top.Or(top)
			return n, m * 64 * 64
		}
		all := b.mid[m].Swap(0)
		mid := all & between(int(lo/64)-int(m*64), int(hi/64)-int(m*64))
		if rest := all &^ mid; rest != 0 {
			b.mid[m].Or(rest)
			b.top.Or(1 << m)
		}
		for ; mid != 0; mid &= mid - 1 {
			l := m*64 + uint32(bits.TrailingZeros64(mid))
			if n >= max {
				b.mid[m].Or(mid)
				b.top.Or(top)
				return n, l * 64
			}
			for leaf := b.leaf[l].Swap(0); leaf != 0; leaf &= leaf - 1 {
				f(l*64 + uint32(bits.TrailingZeros64(leaf)))
				n++
			}
		}
	}
	return n, 0
}

// between returns a word with the bits from lo up to but not including hi set.
func between(lo, hi int) uint64 {
	return ^uint64(0) << max(lo, 0) &^ (^uint64(0) << max(hi, 0))
}
