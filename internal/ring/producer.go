package ring

// A Producer is the writing end of a fifo. One goroutine at a time may call its methods,
// except for [Producer.Fin], [Producer.Reset], [Producer.ConsumerClosed],
// [Producer.ConsumerWaits], [Producer.Queued] and [Producer.Size]: any goroutine may call
// these at any time, as they use only atomics and what never changes.
type Producer struct {
	h    *Header
	data []byte
	mask uint64

	tail uint64 // the position up to which bytes were published
	base uint64 // the position at offset 0, published or about to be
	head uint64 // the consumer's, as it was when last loaded and accepted
	high uint64 // the highest offset that was written to

	space request // wantSpace
	want  answer  // wantData

	copier *copier // made at the first copy of leastAround bytes or more
}

// Init makes p the writing end of the fifo with header h over data, whose length is a
// power of two. The fifo is new: its positions are 0.
func (p *Producer) Init(h *Header, data []byte) {
	*p = Producer{h: h, data: data, mask: uint64(len(data) - 1)}
}

// look loads the consumer's head. The load pairs with the store in Consumer.release.
func (p *Producer) look() error {
	head := p.h.head.Load()
	// An honest head only moves forward, and never past what was published.
	if p.tail-head > p.tail-p.head {
		return ErrCorrupt
	}
	p.head = head
	return nil
}

// prepare returns the offset to write at and how many bytes are free. It rewinds if that
// is possible. It loads the consumer's head only if, by the last one, less than want bytes
// are free, or if it is time to try to rewind.
func (p *Producer) prepare(want int) (off uint64, free int, err error) {
	off = (p.tail - p.base) & p.mask
	free = len(p.data) - int(p.tail-p.head)
	if free >= want && off < rewindAfter {
		return off, free, nil
	}
	if err := p.look(); err != nil {
		return 0, 0, err
	}
	if p.head == p.tail {
		// The consumer has released all that was published, so no byte in the
		// fifo has an offset that the new base would change.
		p.base = p.tail
		off = 0
	}
	return off, len(p.data) - int(p.tail-p.head), nil
}

// publish lets the consumer see the n bytes after the tail, which begin at offset off.
func (p *Producer) publish(off uint64, n int) {
	p.high = max(p.high, min(off+uint64(n), uint64(len(p.data))))
	p.tail += uint64(n)
	if off == 0 {
		// Before the tail: a consumer that sees the tail sees the base too. It
		// pairs with the load in Consumer.look.
		p.h.base.Store(p.base)
	}
	// After the bytes: no earlier write overtakes an atomic store. It pairs with the
	// loads of the tail in Consumer.look, Consumer.HasData and Consumer.Unread.
	Store64(&p.h.tail, p.tail)
}

// Write copies as much of b as there is space for, [PieceSize] at most, and publishes it.
// It returns 0 if the fifo is full.
func (p *Producer) Write(b []byte) (int, error) {
	if len(b) > PieceSize {
		b = b[:PieceSize]
	}
	off, free, err := p.prepare(len(b))
	if err != nil || free == 0 {
		return 0, err
	}
	if len(b) > free {
		b = b[:free]
	}
	n := min(len(b), len(p.data)-int(off))
	p.copy(p.data[off:], b[:n])
	p.copy(p.data, b[n:])
	p.publish(off, len(b))
	return len(b), nil
}

// copy copies src to dst, which is a part of the fifo and no shorter.
func (p *Producer) copy(dst, src []byte) {
	if !canGoAround || len(src) < leastAround {
		copy(dst, src)
		return
	}
	if p.copier == nil {
		p.copier = newCopier()
	}
	p.copier.copy(dst, src)
}

// Space returns the number of bytes that can be written now. It loads the consumer's head
// if the producer knows of fewer than n free bytes.
func (p *Producer) Space(n int) (int, error) {
	_, free, err := p.prepare(n)
	return free, err
}

// View returns the contiguous free bytes that follow the tail: the fifo's memory itself.
// [Producer.Commit] publishes what the caller has written there. [Producer.Space], called
// before, says how many bytes are free in all.
func (p *Producer) View() []byte {
	off := (p.tail - p.base) & p.mask
	end := min(off+uint64(len(p.data))-(p.tail-p.head), uint64(len(p.data)))
	return p.data[off:end:end]
}

// Commit publishes the first n bytes of the last [Producer.View]. The producer must not
// have published anything else since.
func (p *Producer) Commit(n int) {
	if n > 0 {
		p.publish((p.tail-p.base)&p.mask, n)
	}
}

// Empty reports whether the consumer has released all bytes that were published.
func (p *Producer) Empty() bool { return p.h.head.Load() == p.tail }

// Size returns the fifo's size in bytes.
func (p *Producer) Size() int { return len(p.data) }

// Queued returns about how many bytes the consumer has not released. It is a value for
// display.
func (p *Producer) Queued() int { return p.h.queued(len(p.data)) }

// HasSpace reports whether at least n bytes are free now. A head that lies outside the
// fifo counts as space: the call that writes there reports the error.
func (p *Producer) HasSpace(n int) bool {
	return uint64(len(p.data))-(p.tail-p.h.head.Load()) >= uint64(n)
}

// RequestSpace announces that the producer is about to wait for space. The producer must
// look for space once more before it waits ([Producer.HasSpace]). A consumer that releases
// bytes after that look sees the request in [Consumer.SpaceWanted], as both sides store
// before they load.
func (p *Producer) RequestSpace() { p.space.raise(&p.h.wantSpace) }

// DropRequest drops the request of [Producer.RequestSpace].
func (p *Producer) DropRequest() { p.space.drop(&p.h.wantSpace) }

// DataWanted reports whether the consumer waits for data and was not notified yet. Call it
// after a publish. If it returns true the caller must notify the consumer; the next call
// returns false until the consumer waits again.
func (p *Producer) DataWanted() bool { return p.want.due(&p.h.wantData) }

// Fin ends the stream: the consumer gets what was published, then EOF. The store comes
// after the last tail, and pairs with the load in [Consumer.Ended].
func (p *Producer) Fin() { p.h.ended.Or(flagFIN) }

// Reset cuts the stream off: the consumer gets what was published, then an error. It is
// ordered as [Producer.Fin] is.
func (p *Producer) Reset() { p.h.ended.Or(flagReset) }

// ConsumerClosed reports whether the consumer will read no more bytes. The load pairs with
// the store in [Consumer.Close]: if the producer publishes and then gets false here, the
// consumer will find the bytes in [Consumer.Unread] when it closes.
func (p *Producer) ConsumerClosed() bool { return p.h.closed.Load() != 0 }

// ConsumerWaits reports whether the consumer's request is raised, whether or not it was
// answered.
func (p *Producer) ConsumerWaits() bool { return p.h.wantData.Load()&raised != 0 }

// Used returns how many bytes of the data area have been written to since Init.
func (p *Producer) Used() int { return int(p.high) }
