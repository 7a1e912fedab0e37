package ring

// A Producer is the writing end of a fifo. Its methods may be called by one
// goroutine at a time, but for Fin, Reset, ConsumerClosed, ConsumerWaits, Queued
// and Size, which touch only shared words.
type Producer struct {
	h    *Header
	data []byte
	mask uint64

	tail uint64 // published
	base uint64 // position at offset 0, published or about to be
	head uint64 // consumer's, as last believed
	high uint64 // highest offset written to

	space request
	want  answer

	copier *copier // once there was anything that it is for
}

// Init makes p the producing end of the fifo with header h over data, whose
// length is a power of two. The positions are those of a new fifo.
func (p *Producer) Init(h *Header, data []byte) {
	*p = Producer{h: h, data: data, mask: uint64(len(data) - 1)}
}

// look loads the consumer's head.
func (p *Producer) look() error {
	head := p.h.head.Load()
	// It only moves forward, and never past what was published.
	if p.tail-head > p.tail-p.head {
		return ErrCorrupt
	}
	p.head = head
	return nil
}

// prepare finds out how much can be written, rewinding if that is possible. It
// looks at the consumer's head only if what is known of it leaves less than
// want bytes, or if it is time to try to rewind.
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
		// All that was published has been taken, so no byte in the fifo has
		// an offset that the new base would change.
		p.base = p.tail
		off = 0
	}
	return off, len(p.data) - int(p.tail-p.head), nil
}

// publish lets the consumer see the n bytes that lie after the tail.
func (p *Producer) publish(off uint64, n int) {
	p.high = max(p.high, min(off+uint64(n), uint64(len(p.data))))
	p.tail += uint64(n)
	if off == 0 {
		// Before the tail: a consumer that sees the tail sees the base too.
		p.h.base.Store(p.base)
	}
	// After the bytes: atomic stores are not overtaken by earlier writes.
	Store64(&p.h.tail, p.tail)
}

// Write copies as much of b as there is room for, PieceSize at most, and
// publishes it. It returns 0 if the fifo is full.
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

// copy copies src to dst, which is a part of the fifo.
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

// Space returns the number of bytes that can be written now, having looked at
// the consumer's head if fewer than n were known to be free.
func (p *Producer) Space(n int) (int, error) {
	_, free, err := p.prepare(n)
	return free, err
}

// View returns the free bytes that follow the tail, as far as they lie
// contiguously: the fifo's memory itself. Commit publishes what was written
// there. Space, called before, says how many bytes are free in all.
func (p *Producer) View() []byte {
	off := (p.tail - p.base) & p.mask
	end := min(off+uint64(len(p.data))-(p.tail-p.head), uint64(len(p.data)))
	return p.data[off:end:end]
}

// Commit publishes the first n bytes of the last View. The producer must not
// have written anything else since.
func (p *Producer) Commit(n int) {
	if n > 0 {
		p.publish((p.tail-p.base)&p.mask, n)
	}
}

// Taken reports whether the consumer has taken all that was published.
func (p *Producer) Taken() bool { return p.h.head.Load() == p.tail }

// Size returns the fifo's size in bytes.
func (p *Producer) Size() int { return len(p.data) }

// Queued returns about how many bytes the consumer has not taken, for those who
// only want to show it.
func (p *Producer) Queued() int { return p.h.queued(len(p.data)) }

// HasSpace reports whether at least n bytes are free now. A position that can't
// be counts as space: the call that uses it reports the error.
func (p *Producer) HasSpace(n int) bool {
	return uint64(len(p.data))-(p.tail-p.h.head.Load()) >= uint64(n)
}

// RequestSpace announces that the producer is about to wait for space. It must
// look for space once more before it does: a consumer that released some after
// that look sees the request, since both store before they load.
func (p *Producer) RequestSpace() { p.space.raise(&p.h.wantSpace) }

// DropRequest takes the request back.
func (p *Producer) DropRequest() { p.space.drop(&p.h.wantSpace) }

// DataWanted reports whether the consumer waits for data and was not yet told.
// The caller must tell it; the next call returns false until it waits again.
func (p *Producer) DataWanted() bool { return p.want.due(&p.h.wantData) }

// Fin ends the stream: the consumer gets what was published, then EOF.
func (p *Producer) Fin() { p.h.ended.Or(flagFIN) }

// Reset cuts the stream off: the consumer gets what was published, then an error.
func (p *Producer) Reset() { p.h.ended.Or(flagReset) }

// ConsumerClosed reports whether the consumer will take no more bytes. A
// producer that publishes and then gets false here knows that the consumer,
// when it closes, will find the bytes unread.
func (p *Producer) ConsumerClosed() bool { return p.h.closed.Load() != 0 }

// ConsumerWaits reports whether the consumer's request is raised, answered or not.
func (p *Producer) ConsumerWaits() bool { return p.h.wantData.Load()&raised != 0 }

// Used returns how many bytes of the data area have been written to since Init.
func (p *Producer) Used() int { return int(p.high) }
