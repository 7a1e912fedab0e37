// Package tap holds what a capture has seen of a connection until that is sent away.
//
// A [Tap] is a bounded queue of records. The goroutines that use the connection put records in, and never
// wait for the one that takes them out: if the queue is full a record is left out, and the next one says
// how many were. Records are encoded at once, so what is in the queue is what goes over the wire, in blocks
// of whole records. Package tap knows nothing of connections but that bytes have positions.
package tap

import (
	"sync"
	"time"
)

// A Tap is the queue of one capture.
type Tap struct {
	limit int

	mu       sync.Mutex
	queue    []byte // whole records; nil if there are none
	spare    []byte // memory for the next queue
	counts   Counts
	dropped  uint32 // records since the last one that is in the queue
	received uint64 // the position up to which received bytes are recorded, or are not to be
	first    [Received + 1]firstRecord
	marked   [Over]bool
	closed   bool

	wake   chan struct{} // has an element if the queue may not be empty any more
	closes chan struct{} // closed by Close

	taken []byte // the taker's: the memory of the queue that it has taken last
	out   []byte // the taker's: what is left of that
	over  bool   // the taker's: it has taken the last record
}

// A firstRecord is where the first bytes of a kind have come.
type firstRecord struct {
	pos uint64
	set bool
}

// Counts are how many bytes a Tap was given.
type Counts struct {
	Sent, Received uint64 // with those that were left out
	Dropped        uint64 // left out
}

// New returns a Tap that holds at most about limit bytes, and once more as many that are being sent.
func New(limit int) *Tap {
	return &Tap{limit: limit, wake: make(chan struct{}, 1), closes: make(chan struct{})}
}

// Begin is told up to which positions bytes were sent, and received, before the capture, and returns where it
// begins: there may be records already.
func (t *Tap) Begin(sent, received uint64) (sentFrom, receivedFrom uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.first[Sent]; f.set {
		sent = f.pos
	}
	if f := t.first[Received]; f.set {
		received = f.pos
	} else {
		t.received = received
	}
	return sent, received
}

// Lock locks the Tap. An end publishes what it sends with the lock held, so that the record of the answer,
// which another goroutine may read at once, comes after that of the question.
func (t *Tap) Lock() { t.mu.Lock() }

// Unlock undoes Lock.
func (t *Tap) Unlock() { t.mu.Unlock() }

// Sent records sent bytes, of which the first one has position pos. The caller has the lock.
func (t *Tap) Sent(pos uint64, b []byte) {
	t.counts.Sent += t.add(Sent, pos, b)
}

// Received records received bytes, except for those that are recorded already: bytes can be seen before
// they are read.
func (t *Tap) Received(pos uint64, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := pos + uint64(len(b))
	if end <= t.received {
		return
	}
	if pos < t.received {
		b = b[t.received-pos:]
		pos = t.received
	}
	t.received = end
	t.counts.Received += t.add(Received, pos, b)
}

// add adds records, and returns how many bytes they are of.
func (t *Tap) add(kind uint32, pos uint64, b []byte) (n uint64) {
	if t.closed {
		return 0
	}
	if f := &t.first[kind]; !f.set && len(b) > 0 {
		*f = firstRecord{pos, true}
	}
	n = uint64(len(b))
	for len(b) > 0 {
		part := b[:min(len(b), MaxData)]
		if len(t.queue)+headerSize+len(part) > t.limit {
			t.dropped++
			t.counts.Dropped += uint64(len(part))
		} else {
			t.put(Record{Kind: kind, Pos: pos, Data: part})
		}
		pos += uint64(len(part))
		b = b[len(part):]
	}
	return n
}

// put puts a record into the queue, and wakes the taker.
func (t *Tap) put(r Record) {
	r.Time, r.Dropped = time.Now().UnixNano(), t.dropped
	t.dropped = 0
	if t.queue == nil {
		t.queue = t.spare
	}
	t.queue = r.Append(t.queue)
	select {
	case t.wake <- struct{}{}:
	default: // it is awake, or about to be
	}
}

// Mark records an end of a stream, of which the position is pos. There is always room for it: a kind is
// recorded once. The caller has the lock.
func (t *Tap) Mark(kind uint32, pos uint64) {
	if !t.closed && !t.marked[kind] {
		t.marked[kind] = true
		t.put(Record{Kind: kind, Pos: pos})
	}
}

// Close ends the capture: nothing is recorded any more, and what is in the queue can still be taken.
// It may be called again.
func (t *Tap) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.closes)
	}
}

// Closed returns a channel that is closed by Close.
func (t *Tap) Closed() <-chan struct{} { return t.closes }

// Counts returns the counts.
func (t *Tap) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// Next waits for records, and returns a block of them, which is valid until the next call. It returns false
// when the Tap is closed and all were returned, of which the last one is Over. One goroutine may call it.
func (t *Tap) Next() (block []byte, ok bool) {
	for len(t.out) == 0 {
		if t.over {
			return nil, false
		}
		if t.take(); len(t.out) > 0 {
			break
		}
		select {
		case <-t.wake:
		case <-t.closes:
		}
	}
	n := sizeAt(t.out)
	for n < len(t.out) && n+sizeAt(t.out[n:]) <= MaxBlock {
		n += sizeAt(t.out[n:])
	}
	block, t.out = t.out[:n], t.out[n:]
	return block, true
}

// take takes the queue, and if the Tap is closed the end with it.
func (t *Tap) take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out, t.queue = t.queue, nil
	if t.closed && !t.over {
		t.over = true
		r := Record{Kind: Over, Dropped: t.dropped, Pos: t.counts.Dropped, Time: time.Now().UnixNano()}
		t.out = r.Append(t.out)
	}
	if t.out != nil {
		// What was taken before is sent, so its memory is for the next queue.
		t.spare, t.taken = t.taken[:0], t.out
	}
}
