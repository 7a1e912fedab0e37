package ring

import "sync/atomic"

// A Consumer is the reading end of a fifo. Its methods may be called by one
// goroutine at a time, but for Close, Unread, Ended, ProducerWaits, Queued and
// Size, which touch only shared words.
type Consumer struct {
	h    *Header
	data []byte
	mask uint64

	head uint64 // released
	tail uint64 // producer's, as last believed
	base uint64 // producer's, as of the last look at an empty fifo
	high uint64 // highest offset read

	lent atomic.Uint64 // position up to which bytes count as read, see Lend

	stopped bool // no tail is looked at any more

	wait request
	want answer
}

// Init makes c the consuming end of the fifo with header h over data, whose
// length is a power of two. The positions are those of a new fifo.
func (c *Consumer) Init(h *Header, data []byte) {
	*c = Consumer{h: h, data: data, mask: uint64(len(data) - 1)}
}

// look loads the producer's tail, and with it the base if the fifo was empty:
// only then can the producer have chosen a new one.
func (c *Consumer) look() error {
	if c.stopped {
		return nil
	}
	tail := c.h.tail.Load()
	// It only moves forward, and never more than a fifo's size past the head.
	if n := tail - c.head; n > uint64(len(c.data)) || n < c.tail-c.head {
		return ErrCorrupt
	}
	if c.tail == c.head && tail != c.tail {
		// After the tail, before which the producer stored it. A base that
		// lies is harmless, as offsets are masked.
		c.base = c.h.base.Load()
	}
	c.tail = tail
	return nil
}

// release gives n bytes back to the producer.
func (c *Consumer) release(off uint64, n int) {
	c.high = max(c.high, min(off+uint64(n), uint64(len(c.data))))
	c.head += uint64(n)
	// After the copy: an atomic store is not overtaken by earlier reads.
	Store64(&c.h.head, c.head)
}

// Read copies up to len(b) bytes, PieceSize at most, and releases them. It
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
	if m := copy(b[:n], c.data[off:]); m < n {
		copy(b[m:n], c.data)
	}
	c.release(off, n)
	return n, nil
}

// Buffered returns the number of bytes that can be read now, having looked at
// the producer's tail if fewer than n were known of.
func (c *Consumer) Buffered(n int) (int, error) {
	if int(c.tail-c.head) < n {
		if err := c.look(); err != nil {
			return 0, err
		}
	}
	return int(c.tail - c.head), nil
}

// View returns the first n bytes, or as many of them as lie contiguously: the
// fifo's memory itself, which stays as it is until Discard unless the producer
// breaks the rules. n must not exceed what Buffered last returned.
func (c *Consumer) View(n int) []byte {
	off := (c.head - c.base) & c.mask
	end := off + uint64(min(n, int(c.tail-c.head), len(c.data)-int(off)))
	return c.data[off:end:end]
}

// Copy copies the first len(b) bytes without releasing them. len(b) must not
// exceed what Buffered last returned.
func (c *Consumer) Copy(b []byte) {
	off := (c.head - c.base) & c.mask
	if m := copy(b, c.data[off:]); m < len(b) {
		copy(b[m:], c.data)
	}
}

// Discard releases n bytes, which must not exceed what Buffered last returned.
func (c *Consumer) Discard(n int) {
	if n = min(n, int(c.tail-c.head)); n > 0 {
		c.release((c.head-c.base)&c.mask, n)
	}
}

// Queued returns about how many bytes can be read, for those who only want to
// show it.
func (c *Consumer) Queued() int { return c.h.queued(len(c.data)) }

// Size returns the fifo's size in bytes.
func (c *Consumer) Size() int { return len(c.data) }

// HasData reports whether more than n bytes can be read now.
func (c *Consumer) HasData(n int) bool { return c.h.tail.Load()-c.head > uint64(n) }

// RequestData announces that the consumer is about to wait for data. It must
// look for data once more before it does: a producer that published after that
// look sees the request, since both store before they load.
func (c *Consumer) RequestData() { c.wait.raise(&c.h.wantData) }

// DropRequest takes the request back.
func (c *Consumer) DropRequest() { c.wait.drop(&c.h.wantData) }

// SpaceWanted reports whether the producer waits for space and should be told:
// once a useful part of the fifo is free, a quarter, or as soon as it is empty.
// The caller must tell the producer; the next call returns false until the producer
// waits again.
func (c *Consumer) SpaceWanted() bool {
	if int(c.tail-c.head) > len(c.data)-len(c.data)/4 {
		return false
	}
	return c.AnySpaceWanted()
}

// AnySpaceWanted is [Consumer.SpaceWanted] without the least amount of space: a consumer
// that is about to wait for more than the fifo holds must not leave the producer asleep.
func (c *Consumer) AnySpaceWanted() bool { return c.want.due(&c.h.wantSpace) }

// Ended reports how the stream ended, if it has. Look here first and for bytes
// afterwards: the flag is stored after the last tail, so whoever has seen it
// sees all the bytes that came before it.
func (c *Consumer) Ended() (fin, reset bool) {
	v := c.h.ended.Load()
	return v&flagFIN != 0, v&flagReset != 0
}

// Stop ends the stream for this side: no bytes come any more but those that Buffered last
// returned, whatever the producer does.
func (c *Consumer) Stop() { c.stopped = true }

// Stopped reports whether Stop was called.
func (c *Consumer) Stopped() bool { return c.stopped }

// Close says that the consumer will take no more bytes. Call Unread afterwards:
// a producer that publishes at the same time either sees the mark or is seen.
func (c *Consumer) Close() { Store32(&c.h.closed, 1) }

// Lend says that the first n bytes of the last View count as read, though they are
// released later. A second Lend replaces the first.
func (c *Consumer) Lend(n int) { c.lent.Store(c.head + uint64(n)) }

// Unread reports whether published bytes have not been read. What it finds unread may
// have been read meanwhile, but not the other way round: it loads the tail last.
func (c *Consumer) Unread() bool {
	head, lent := c.h.head.Load(), c.lent.Load()
	tail := c.h.tail.Load()
	return min(tail-head, tail-lent) != 0
}

// ProducerWaits reports whether the producer's request is raised, answered or not.
func (c *Consumer) ProducerWaits() bool { return c.h.wantSpace.Load()&raised != 0 }

// Used returns how many bytes of the data area have been read since Init.
func (c *Consumer) Used() int { return int(c.high) }
