package ring

import (
	"math/bits"
	"sync/atomic"
)

// A Consumer is the reading end of a fifo. One goroutine at a time may call its
// methods, except for [Consumer.Close], [Consumer.Unread], [Consumer.Ended],
// [Consumer.ProducerWaits], [Consumer.Queued], [Consumer.Passed] and [Consumer.Size]: any
// goroutine may call these at any time, as they use only atomics and what never changes.
type Consumer struct {
	h    *Header
	data []byte
	mask uint64 // of the ring

	head uint64 // the position up to which bytes were released
	tail uint64 // the producer's, as it was when last loaded and accepted
	base uint64 // the producer's, modulo the ring's size

	high    uint32 // the highest offset that was read
	stopped bool   // the tail is not loaded any more; see Stop
	held    bool   // the ring may not grow as it is

	wait request // wantData
	want answer  // wantSpace

	most uint32 // the most bytes that were found in the fifo

	charged atomic.Uint32 // to owner
	owner   Owner

	lent atomic.Uint64 // the position up to which bytes count as read; see Lend
}

// Init makes c the reading end of the fifo with header h over data, whose length is a
// power of two. The fifo is new: its positions are 0. o was charged for a ring of [MinSize]
// already. A nil owner allows the producer everything, and is charged nothing.
func (c *Consumer) Init(h *Header, data []byte, o Owner) {
	size := min(len(data), MinSize)
	*c = Consumer{h: h, data: data, mask: uint64(size - 1), owner: o}
	if o != nil {
		c.charged.Store(uint32(size))
	}
	h.seen.Store(uint32(bits.Len64(c.mask)))
	c.allow()
}

// allow says how large the producer may make its ring: as it likes while there is plenty of
// memory, and otherwise [EasySize], or one step more than the ring has, so that all fifos together
// do not grow much further than their owner wants. A producer that has to make the ring larger,
// because a single call needs it, does not ask; nor does one that has loaded the word before. So
// a ring that is larger than allowed is nothing to complain of, and is charged to the owner like
// any other.
func (c *Consumer) allow() {
	size := int(c.mask + 1)
	most := size
	switch {
	case c.owner == nil || c.owner.Plenty(len(c.data)-size):
		most = len(c.data)
	case size < EasySize && c.owner.MayGrow(EasySize-size):
		most = EasySize
	case c.owner.MayGrow(size):
		most = 2 * size
	}
	most = min(most, len(c.data))
	c.held = most == size && size < len(c.data)
	if log := uint32(bits.Len(uint(most - 1))); c.h.allow.Load() != log {
		c.h.allow.Store(log)
	}
}

// look loads the producer's tail, and the place if there are more bytes. The load of the
// tail pairs with the store in Producer.publish.
func (c *Consumer) look() error {
	if tail := c.h.tail.Load(); tail != c.tail {
		return c.advance(tail)
	}
	return nil
}

// advance loads the place, and goes on to a tail that was loaded before.
func (c *Consumer) advance(tail uint64) error {
	if c.stopped {
		return nil
	}
	// After the load of the tail, as the producer stores the place before the tail that
	// follows it. So this is the place of the last bytes, or a later one. That is right
	// for them too: with a larger ring the producer has left each byte at its offset, or
	// copied it, before it stored the place; and with any other it had seen a head that
	// all these bytes lie before, so there are none.
	place := place(c.h.place.Load())
	log := place.log()
	if log > 63 || 1<<log > uint64(len(c.data)) || 1<<log < MinSize {
		return ErrCorrupt
	}
	// An honest tail only moves forward, and never more than the ring's size past
	// the head.
	if n := tail - c.head; n > 1<<log || n < c.tail-c.head {
		return ErrCorrupt
	}
	// A base that lies is harmless, as offsets are masked.
	c.base = place.base()
	c.tail = tail
	c.most = max(c.most, uint32(tail-c.head))
	// Settle may have told the owner of a smaller ring in between.
	if mask := uint64(1)<<log - 1; mask != c.mask || c.owner != nil && uint64(c.charged.Load()) != mask+1 {
		c.adopt(mask)
	}
	if c.held && c.tail-c.head > c.mask/2 {
		c.allow()
	}
	return nil
}

// adopt goes on with a ring of another size.
func (c *Consumer) adopt(mask uint64) {
	c.mask = mask
	// No copy is under way, and no view is out: from here on nothing is read where it lay
	// in the old ring. It pairs with the load in Producer.roomAfter. A producer that waits
	// for that is told of space as for a release: it raises its request, then loads this.
	Store32(&c.h.seen, uint32(bits.Len64(mask)))
	c.charge(mask)
	c.allow()
}

// charge tells the owner of the ring's size. More goroutines than one may call it.
func (c *Consumer) charge(mask uint64) {
	if c.owner == nil {
		return
	}
	size := uint32(mask + 1)
	n := int(size) - int(c.charged.Swap(size))
	if n == 0 {
		return
	}
	c.owner.Charge(n)
	if n > 0 {
		c.owner.Spread() // to hear of it when the ring is smaller
	}
}

// Settle tells the owner of the size of a ring that the producer has made smaller, as far as
// the fifo is empty. Any goroutine may call it. It reports whether the ring is larger than it
// was to begin with.
func (c *Consumer) Settle() (large bool) {
	log := place(c.h.place.Load()).log()
	if size := uint32(1) << min(log, 31); size >= MinSize && size < c.charged.Load() && c.h.Empty() {
		c.charge(uint64(size - 1))
	}
	return c.charged.Load() > MinSize
}

// Moved returns a number that changes with each publish and each release. Any goroutine may
// call it.
func (c *Consumer) Moved() uint64 { return c.h.tail.Load() + c.h.head.Load() }

// Charged returns for how many bytes the owner is charged.
func (c *Consumer) Charged() int { return int(c.charged.Load()) }

// release lets the producer overwrite n bytes, which begin at offset off.
func (c *Consumer) release(off uint64, n int) {
	c.high = max(c.high, uint32(min(off+uint64(n), c.mask+1)))
	c.head += uint64(n)
	// After the copy: no earlier read overtakes an atomic store. It pairs with the
	// loads of the head in Producer.look, which allows these bytes to be overwritten,
	// and in Producer.HasSpace.
	Store64(&c.h.head, c.head)
}

// Read copies up to len(b) bytes, [PieceSize] at most, and releases them. It
// returns 0 if the fifo is empty.
func (c *Consumer) Read(b []byte) (int, error) {
	if c.tail == c.head {
		if err := c.look(); err != nil {
			return 0, err
		}
	}
	n := min(len(b), int(c.tail-c.head), PieceSize)
	if n == 0 {
		return 0, nil
	}
	off := (c.head - c.base) & c.mask
	if m := copy(b[:n], c.data[off:c.mask+1]); m < n {
		copy(b[m:n], c.data)
	}
	c.release(off, n)
	return n, nil
}

// Buffered returns the number of bytes that can be read now. It loads the producer's
// tail only if the consumer knows of fewer than n bytes.
func (c *Consumer) Buffered(n int) (int, error) {
	if int(c.tail-c.head) < n {
		if err := c.look(); err != nil {
			return 0, err
		}
	}
	return int(c.tail - c.head), nil
}

// View returns the first n bytes, or fewer if they are not contiguous: the fifo's memory
// itself, which does not change until [Consumer.Discard] unless the producer breaks the
// rules. n must not exceed what [Consumer.Buffered] last returned.
func (c *Consumer) View(n int) []byte {
	off := (c.head - c.base) & c.mask
	end := min(off+uint64(min(n, int(c.tail-c.head))), c.mask+1)
	return c.data[off:end:end]
}

// Copy copies the first len(b) bytes and does not release them. len(b) must not exceed
// what [Consumer.Buffered] last returned.
func (c *Consumer) Copy(b []byte) {
	off := (c.head - c.base) & c.mask
	if m := copy(b, c.data[off:c.mask+1]); m < len(b) {
		copy(b[m:], c.data)
	}
}

// Discard releases the first n bytes. n must not exceed what [Consumer.Buffered] last
// returned.
func (c *Consumer) Discard(n int) {
	if n = min(n, int(c.tail-c.head)); n > 0 {
		c.release((c.head-c.base)&c.mask, n)
	}
}

// Queued returns about how many bytes can be read. It is a value for display.
func (c *Consumer) Queued() int { return c.h.queued(len(c.data)) }

// Passed returns how many bytes have been released. It is a value for display: the peer can
// overwrite it.
func (c *Consumer) Passed() uint64 { return c.h.head.Load() }

// Released returns how many bytes have been released, by what the consumer itself knows.
func (c *Consumer) Released() uint64 { return c.head }

// High returns the most bytes that the consumer has found in the fifo.
func (c *Consumer) High() int { return int(c.most) }

// Size returns the size in bytes that the fifo can come to.
func (c *Consumer) Size() int { return len(c.data) }

// HasData reports whether more than n bytes can be read now. A tail that lies
// outside the fifo counts as data: the call that reads it reports the error.
func (c *Consumer) HasData(n int) bool { return c.h.tail.Load()-c.head > uint64(n) }

// RequestData announces that the consumer is about to wait for data. The consumer must
// look for data once more before it waits ([Consumer.HasData]). A producer that publishes
// after that look sees the request in [Producer.DataWanted], as both sides store before
// they load.
func (c *Consumer) RequestData() {
	c.wait.raise(&c.h.wantData)
}

// DropRequest drops the request of [Consumer.RequestData].
func (c *Consumer) DropRequest() { c.wait.drop(&c.h.wantData) }

// SpaceWanted reports whether the producer waits for space and should be notified now,
// which is so if a useful part of the fifo is free by the last tail that the consumer has
// loaded: a quarter of the ring. Call it after a release. If it returns true the caller must
// notify the producer; the next call returns false until the producer waits again.
func (c *Consumer) SpaceWanted() bool {
	if size := c.mask + 1; c.tail-c.head > size-size/4 {
		return false
	}
	return c.AnySpaceWanted()
}

// AnySpaceWanted is like [Consumer.SpaceWanted], but for any amount of free space: a consumer
// that is about to wait for more bytes than the fifo holds must not leave the producer asleep.
func (c *Consumer) AnySpaceWanted() bool { return c.want.due(&c.h.wantSpace) }

// Ended reports whether and how the stream has ended. Call it before looking for bytes:
// the producer stores the flag after its last tail ([Producer.Fin], [Producer.Reset]), so
// a consumer that has loaded the flag sees all bytes that came before the end.
func (c *Consumer) Ended() (fin, reset bool) {
	v := c.h.ended.Load()
	return v&flagFIN != 0, v&flagReset != 0
}

// Stop ends the stream for this side: only the bytes that [Consumer.Buffered] last
// returned can still be read, whatever the producer does.
func (c *Consumer) Stop() { c.stopped = true }

// Stopped reports whether [Consumer.Stop] was called.
func (c *Consumer) Stopped() bool { return c.stopped }

// Close says that the consumer will read no more bytes. Call [Consumer.Unread] afterwards.
// The store pairs with the load in [Producer.ConsumerClosed]: of a producer that publishes
// at the same time, either this side sees the bytes or the producer sees the mark.
func (c *Consumer) Close() { Store32(&c.h.closed, 1) }

// Lend says that the first n bytes of the last [Consumer.View] count as read, though they
// are released later. A second Lend replaces the first. The store pairs with the load in
// [Consumer.Unread].
func (c *Consumer) Lend(n int) { c.lent.Store(c.head + uint64(n)) }

// Lent returns the position up to which bytes were lent last.
func (c *Consumer) Lent() uint64 { return c.lent.Load() }

// Unread reports whether any published bytes were not read. If it returns true, another goroutine
// may have read them meanwhile. If it returns false, all bytes up to the loaded tail were read
// or lent: the positions only grow, except by a second Lend, and Unread loads the tail last.
func (c *Consumer) Unread() bool {
	head, lent := c.h.head.Load(), c.lent.Load()
	tail := c.h.tail.Load()
	return min(tail-head, tail-lent) != 0
}

// ProducerWaits reports whether the producer's request is raised, whether or not it was
// answered.
func (c *Consumer) ProducerWaits() bool { return c.h.wantSpace.Load()&raised != 0 }

// Used returns how many bytes of the data area have been read since Init.
func (c *Consumer) Used() int { return int(c.high) }
