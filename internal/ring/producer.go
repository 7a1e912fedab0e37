package ring

import (
	"math/bits"
	"time"
)

// A Producer is the writing end of a fifo. One goroutine at a time may call its methods,
// except for [Producer.Fin], [Producer.Reset], [Producer.ConsumerClosed],
// [Producer.ConsumerWaits], [Producer.Queued], [Producer.Passed], [Producer.WasReset] and
// [Producer.Size]: any goroutine may call these at any time, as they use only atomics and what
// never changes.
type Producer struct {
	h    *Header
	data []byte
	mask uint64 // of the ring

	tail uint64 // the position up to which bytes were published
	base uint64 // the position at offset 0
	head uint64 // the consumer's, as it was when last loaded and accepted
	room uint64 // how many bytes after head may be in the fifo

	plain uint32 // up to which offset a publish needs no more; 0 if the place is not published yet
	want  answer // wantData

	// Less often used: the lines of a CPU's cache are 64 bytes.
	space  request // wantSpace
	high   uint32  // the highest offset that was written to, since the last Shrink
	most   uint32  // the most bytes that were in the fifo, see High
	wall   uint64  // the position up to which bytes may be read where they lay in a smaller ring
	owner  Owner
	lap    *lap    // made when a ring of EasySize or more is first found full
	copier *copier // made at the first copy of leastAround bytes or more
}

// A lap is where and when the producer has found the fifo full.
type lap struct {
	tail  uint64
	at    time.Duration // since epoch
	given uint32        // the consumer's request that was answered last
}

// quick is how long a reader that keeps up takes at most for a byte: 2 MB/s. A reader also
// keeps up if it has had to wait for bytes since the fifo was full, however long it took: it
// may be one of many that share a CPU, and if some of their rings were made larger and some
// were not, those would leave nothing to these.
const quick = 500 * time.Nanosecond

// epoch is when time begins for laps.
var epoch = time.Now().Add(-1)

// Init makes p the writing end of the fifo with header h over data, whose length is a
// power of two. The fifo is new: its positions are 0. o was charged for a ring of [MinSize]
// already.
func (p *Producer) Init(h *Header, data []byte, o Owner) {
	size := min(len(data), MinSize)
	*p = Producer{h: h, data: data, mask: uint64(size - 1), room: uint64(size), owner: o}
}

// look loads the consumer's head. The load pairs with the store in Consumer.release.
func (p *Producer) look() error {
	head := p.h.head.Load()
	// An honest head only moves forward, and never past what was published.
	if p.tail-head > p.tail-p.head {
		return ErrCorrupt
	}
	p.head = head
	p.measure()
	return nil
}

// measure finds how many bytes may be in the fifo. Once the wall has fallen it does not rise
// again, whatever the consumer says: there may be bytes beyond it.
func (p *Producer) measure() {
	p.room = p.roomAfter(p.head)
	if p.room > p.mask {
		p.wall = p.head
	}
}

// roomAfter returns how many bytes after head may be in the fifo: to the ring's end only, as
// long as the consumer may read bytes at the start of a smaller ring.
func (p *Producer) roomAfter(head uint64) uint64 {
	size := p.mask + 1
	// The load pairs with the store in Consumer.adopt: from then on the consumer reads
	// nothing where it lay in a smaller ring. If it has seen a ring of this size in an
	// earlier life, then it has to look before it takes the first byte of this one.
	if int64(p.wall-head) > 0 && p.h.seen.Load() != uint32(bits.Len64(p.mask)) {
		return size - (head - p.base)
	}
	return size
}

// prepare returns the offset to write at and how many bytes are free. It restarts the ring
// if that is possible, and makes it larger if it should be. It loads the consumer's head
// only if, by the last one, less than want bytes are free, or if it is time to try to
// restart.
func (p *Producer) prepare(want int) (off uint64, free int, err error) {
	off = (p.tail - p.base) & p.mask
	free = int(p.room - (p.tail - p.head))
	if free >= want && off < restartAfter {
		return off, free, nil
	}
	return p.makeRoom(want)
}

// makeRoom is the part of prepare that is seldom needed.
func (p *Producer) makeRoom(want int) (off uint64, free int, err error) {
	if err := p.look(); err != nil {
		return 0, 0, err
	}
	if p.head == p.tail {
		p.restart()
	}
	for int(p.room-(p.tail-p.head)) < want && p.canGrow() && p.shouldGrow() {
		p.grow()
	}
	p.most = max(p.most, uint32(min(p.tail-p.head+uint64(want), p.room)))
	return (p.tail - p.base) & p.mask, int(p.room - (p.tail - p.head)), nil
}

// resize sets the ring's size, and tells the owner of it.
func (p *Producer) resize(n int) {
	if more := n - p.Ring(); more != 0 && p.owner != nil {
		p.owner.Charge(more)
	}
	p.mask = uint64(n - 1)
}

// restart makes the next byte lie at offset 0. The consumer has released all that was
// published, so no byte in the fifo has an offset that the new base would change. Nor does
// it matter whether the consumer loads this place or the one before with the last tail.
func (p *Producer) restart() {
	p.base = p.tail
	p.wall = p.tail
	p.room = p.mask + 1
	p.plain = 0
}

// publishPlace lets the consumer see the ring. It comes before the tail of the first bytes
// in it: a consumer that sees the tail sees the place too. It pairs with the load in
// Consumer.look. After a restart it comes just before that tail: a consumer that spins takes
// the cache line back in between if it can.
func (p *Producer) publishPlace() {
	p.h.place.Store(uint64(makePlace(p.mask, p.base)))
}

// canGrow reports whether the ring is smaller than the data area.
func (p *Producer) canGrow() bool { return p.mask+1 < uint64(len(p.data)) }

// Starves reports whether the consumer waits for more bytes than the ring holds, as the
// producer has found it: then a Write or Space of more than is free makes the ring larger.
// The load pairs with the store in Consumer.RequestData. The request was made after the
// last publish, or it would have been answered, so the consumer waits although it has seen
// all bytes. If it had released them, which comes before the request, then the load of the head
// would show that. It might also be just about to see them: then the ring is larger than need be.
func (p *Producer) Starves() bool {
	if !p.canGrow() || p.tail == p.head {
		return false
	}
	v := p.h.wantData.Load()
	return v&raised != 0 && v != p.want.given && p.h.head.Load() != p.tail
}

// shouldGrow reports whether the ring is too small, and whether both sides have the memory
// for one of twice the size. The fifo is full.
func (p *Producer) shouldGrow() bool {
	if p.Starves() {
		return true // no byte would ever pass
	}
	if bits.Len64(p.mask) >= int(p.h.allow.Load()) || p.owner != nil && !p.owner.MayGrow(int(p.mask+1)) {
		return false
	}
	if p.mask+1 < EasySize || p.owner == nil || p.owner.Plenty(int(p.mask+1)) {
		return true
	}
	now := time.Since(epoch)
	if p.lap == nil {
		p.lap = &lap{p.tail, now, p.want.given}
	}
	waited := p.want.given != p.lap.given
	if !waited && now-p.lap.at > time.Duration(p.mask)*quick {
		*p.lap = lap{p.tail, now, p.want.given}
		return false
	}
	return p.tail-p.lap.tail > p.mask
}

// grow makes the ring twice as large.
func (p *Producer) grow() {
	size := p.mask + 1
	off := (p.head - p.base) & p.mask
	// The oldest byte keeps its offset. The bytes beyond the ring's old end lie at its
	// start, and are copied to where they belong now. The consumer finds either copy,
	// whichever place it loads. If there are none, it reads nothing at the ring's start.
	if end := off + (p.tail - p.head); end > size {
		copy(p.data[size:], p.data[:end-size])
		p.wall = p.tail
	}
	p.resize(int(2 * size))
	p.base = p.head - off
	p.measure()
	p.publishPlace()
	if p.lap != nil {
		*p.lap = lap{p.tail, time.Since(epoch), p.want.given}
	}
}

// Shrink makes the ring of an empty fifo as small as can be, and returns the
// part of the data area that nobody uses then, but for a page, if there is one: its pages can
// be given back. It returns false if the fifo is not empty.
//
// The consumer has released every byte, so it reads none, and no view of it is out. It
// reads again what comes with the next tail, and no producer writes meanwhile.
func (p *Producer) Shrink() (unused []byte, ok bool) {
	if p.look() != nil || p.head != p.tail {
		return nil, false
	}
	unused = p.data[min(PageSize, p.high):p.high]
	p.high, p.lap = 0, nil
	p.resize(min(len(p.data), MinSize))
	p.restart()
	p.publishPlace() // for Consumer.Settle
	return unused, true
}

// publish lets the consumer see the n bytes after the tail, which begin at offset off.
func (p *Producer) publish(off uint64, n int) {
	if end := off + uint64(n); end > uint64(p.plain) {
		p.announce(end)
	}
	p.tail += uint64(n)
	// After the bytes: no earlier write overtakes an atomic store. It pairs with the
	// loads of the tail in Consumer.look, Consumer.HasData and Consumer.Unread.
	Store64(&p.h.tail, p.tail)
}

// announce is called before bytes up to offset end are published, if they are the first after a
// restart or lie beyond those so far.
func (p *Producer) announce(end uint64) {
	if p.plain == 0 {
		p.publishPlace()
	}
	end = min(end, p.mask+1) // they wrap
	if p.owner != nil && p.high <= PageSize && end > PageSize {
		p.owner.Spread()
	}
	p.high = max(p.high, uint32(end))
	p.plain = p.high
}

// Write copies as much of b as there is space for, [PieceSize] at most, and publishes it.
// It returns 0 if the fifo is full.
//
// A Write that finds too little space makes the ring larger, if neither side's owner nor the
// data area forbids it: up to [EasySize] and while there is plenty of memory, and further if a
// whole ring of bytes has passed quickly, or the consumer has waited meanwhile. It also does so
// if the consumer waits for more than the ring holds, which nobody forbids.
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
	n := min(len(b), int(p.mask+1)-int(off))
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
// if the producer knows of fewer than n free bytes. It makes a ring of less than n bytes
// larger, whoever forbids it.
func (p *Producer) Space(n int) (int, error) {
	_, free, err := p.prepare(n)
	for err == nil && n > int(p.mask+1) && p.canGrow() {
		p.grow()
		free = int(p.room - (p.tail - p.head))
	}
	return free, err
}

// View returns the contiguous free bytes that follow the tail: the fifo's memory itself.
// [Producer.Commit] publishes what the caller has written there. [Producer.Space], called
// before, says how many bytes are free in all.
func (p *Producer) View() []byte {
	off := (p.tail - p.base) & p.mask
	end := min(off+p.room-(p.tail-p.head), p.mask+1)
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

// Size returns the size in bytes that the fifo can come to.
func (p *Producer) Size() int { return len(p.data) }

// Ring returns the size in bytes that the fifo has now, for which the owner is charged.
func (p *Producer) Ring() int { return int(p.mask + 1) }

// Moved returns a number that changes with each publish and each release. Any goroutine may
// call it, and Idle.
func (p *Producer) Moved() uint64 { return p.h.tail.Load() + p.h.head.Load() }

// Idle reports whether the consumer has released all that was published.
func (p *Producer) Idle() bool { return p.h.Empty() }

// Queued returns about how many bytes the consumer has not released. It is a value for
// display.
func (p *Producer) Queued() int { return p.h.queued(len(p.data)) }

// Passed returns how many bytes have been published. It is a value for display: the peer can
// overwrite it.
func (p *Producer) Passed() uint64 { return p.h.tail.Load() }

// Published returns how many bytes have been published, by what the producer itself knows.
func (p *Producer) Published() uint64 { return p.tail }

// High returns about the most bytes that were in the fifo: it is found only when the producer
// looks for space, which it does for each write beyond the first 2 KiB, or where the fifo is full.
func (p *Producer) High() int { return int(p.most) }

// WasReset reports whether [Producer.Reset] was called, or the peer has made it look so.
func (p *Producer) WasReset() bool { return p.h.ended.Load()&flagReset != 0 }

// HasSpace reports whether at least n bytes are free now. A head that lies outside the
// fifo counts as space: the call that writes there reports the error.
func (p *Producer) HasSpace(n int) bool {
	head := p.h.head.Load()
	if p.tail-head > p.tail-p.head {
		return true
	}
	room := p.roomAfter(head)
	if head == p.tail {
		room = p.mask + 1 // where prepare restarts
	}
	return room-(p.tail-head) >= uint64(n)
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

// Used returns how many bytes of the data area have been written to since Init, or since
// the last Shrink.
func (p *Producer) Used() int { return int(p.high) }
