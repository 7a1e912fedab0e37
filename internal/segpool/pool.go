package segpool

import (
	"errors"
	"math/bits"
	"sync"
	"time"
)

// warmSlots is how many slots of a pool keep the pages of their fifos' first 64 KiB when they
// are freed, so that the next connection causes no page faults. Alloc chooses the lowest free
// slot, so these are the first slots.
const warmSlots = 8

// ErrFull means that all slots are in use and the caller must add a segment.
var ErrFull = errors.New("all slots in use")

// A Pool is the client's side of a pair's segments: it allocates slots and knows when they are
// free. Connections inside one application use a Pool too, with both ends on the same side.
type Pool struct {
	geo     Geometry
	account *Account
	dropped func(k int) bool // see NewPool

	mu     sync.Mutex
	segs   []*poolSegment // by number; nil where there is none
	inUse  int            // slots that this side has not let go of
	limbo  []freed        // slots that this side has let go of, and the server has not
	next   int            // index in limbo of the slot to look at next
	closed bool
}

// A freed slot is one that this side has let go of.
type freed struct {
	Slot
	used Used
}

type poolSegment struct {
	*Segment
	free  [maxSegmentSlots / 64]uint64 // a bit for each free slot
	nfree int
	uses  []uint32 // by slot: the number of the last use
}

// NewPool returns an empty pool. When two segments are empty, dropped is called with the number
// of the higher one, with the pool locked; the pool drops the segment if dropped returns true.
func NewPool(g Geometry, a *Account, dropped func(k int) bool) *Pool {
	return &Pool{geo: g, account: a, dropped: dropped}
}

// Geometry returns the layout of the pool's segments.
func (p *Pool) Geometry() Geometry { return p.geo }

// HasFree reports whether [Pool.Alloc] would succeed.
func (p *Pool) HasFree() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reap(len(p.limbo))
	for _, ps := range p.segs {
		if ps != nil && ps.nfree > 0 {
			return true
		}
	}
	return false
}

// Next returns the number for the next segment, or an error if the pool has its maximum.
func (p *Pool) Next() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, s := range p.segs {
		if s == nil {
			return k, nil
		}
	}
	if n := p.geo.Segments(); len(p.segs) >= n {
		return 0, &LimitError{"segments to one listener", int64(n)}
	}
	return len(p.segs), nil
}

// Add adds m as segment k, which [Pool.Next] has returned. It owns m, also if it fails.
func (p *Pool) Add(k int, m *Memory) error {
	s, err := newSegment(m, p.geo, p.account)
	if err != nil {
		return err
	}
	ps := &poolSegment{Segment: s, nfree: p.geo.Slots, uses: make([]uint32, p.geo.Slots)}
	for i := range p.geo.Slots {
		ps.free[i/64] |= 1 << (i % 64)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.unref()
		return ErrFull
	}
	for len(p.segs) <= k {
		p.segs = append(p.segs, nil)
	}
	p.segs[k] = ps
	return nil
}

// Alloc allocates the lowest free slot, so that the higher segments drain and can be dropped. If
// none is free it returns ErrFull.
func (p *Pool) Alloc() (Slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reap(4)
	s, ok := p.alloc()
	if !ok {
		p.reap(len(p.limbo))
		if s, ok = p.alloc(); !ok {
			return Slot{}, ErrFull
		}
	}
	p.inUse++
	return s, nil
}

func (p *Pool) alloc() (Slot, bool) {
	for k, ps := range p.segs {
		if ps == nil || ps.nfree == 0 {
			continue
		}
		for w, free := range ps.free {
			if free == 0 {
				continue
			}
			i := w*64 + bits.TrailingZeros64(free)
			ps.free[w] &= free - 1
			ps.nfree--
			ps.uses[i]++
			ps.refs.Add(1)
			s := ps.slot(k, i)
			s.Use = ps.uses[i]
			return s, true
		}
	}
	return Slot{}, false
}

// reap looks at n of the slots in limbo, in turns, and makes a slot free if the server has let go
// of it. It unlocks the pool while it trims slots.
func (p *Pool) reap(n int) {
	var trim []freed
	if n >= len(p.limbo) {
		n, p.next = len(p.limbo), 0
	}
	for ; n > 0; n-- {
		if p.next >= len(p.limbo) {
			p.next = 0
		}
		f := p.limbo[p.next]
		if !f.serverDone() {
			p.next++
			continue
		}
		last := len(p.limbo) - 1
		p.limbo[p.next], p.limbo[last] = p.limbo[last], freed{}
		p.limbo = p.limbo[:last]
		if f.trims() {
			trim = append(trim, f)
		} else {
			p.put(f.Slot)
		}
	}
	if len(trim) == 0 {
		return
	}
	p.mu.Unlock()
	for _, f := range trim {
		f.trim(f.used)
	}
	p.mu.Lock()
	for _, f := range trim {
		p.put(f.Slot)
	}
}

func (s *Slot) serverDone() bool {
	st := s.ServerState()
	return st.Use() == s.Use && (st.Code() == Done || st.Code() == Refused)
}

// trims reports whether the slot is to be trimmed. Both sides have let go of it.
func (f *freed) trims() bool {
	if !f.ToClient.Header.Empty() {
		f.used.ToClient = len(f.ToClient.Data) // this side doesn't know where the bytes are
	}
	return f.used.ToServer > trimmed || f.used.ToClient > trimmed
}

// Free lets go of a slot: it stores say, which is Done or GivenUp, in the client's state word.
// That must be this side's last use of the slot. The slot becomes free, and is trimmed, once the
// server has let go of it too: until then the server may be reading from the fifos. Free reports
// whether the caller has to look at the pool later, because no slot is in use on this side or
// because [Pool.Reap] is needed for this slot.
func (p *Pool) Free(s Slot, say uint32, used Used) (later bool) {
	s.SayClient(say)
	f := freed{s, used}
	done := f.serverDone()
	if done && f.trims() {
		f.trim(f.used)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse--
	if done {
		p.put(s)
		return p.inUse == 0
	}
	if p.closed {
		s.seg.unref()
		return false
	}
	p.limbo = append(p.limbo, f)
	return true
}

// FreeBoth is [Pool.Free] for a connection inside one application: it lets go for both sides.
func (p *Pool) FreeBoth(s Slot, used Used) {
	s.SayServer(Done)
	p.Free(s, Done, used)
}

// put makes a slot free. If its segment is then empty, and another one is empty too, put drops
// the higher one.
func (p *Pool) put(s Slot) {
	s.seg.unref()
	if p.closed {
		return
	}
	k, i := int(s.ID)/p.geo.Slots, int(s.ID)%p.geo.Slots
	ps := p.segs[k]
	ps.free[i/64] |= 1 << (i % 64)
	ps.nfree++
	if ps.nfree < p.geo.Slots {
		return
	}
	// One empty segment stays, so that a program with one short connection after the
	// other does not map and unmap each time.
	spare := -1
	for k, ps := range p.segs {
		if ps == nil || ps.nfree < p.geo.Slots {
			continue
		}
		if spare >= 0 && p.dropped(k) {
			p.segs[k] = nil
			ps.unref()
		}
		spare = k
	}
}

// Usage describes the pool's memory. Pages are counted until the given time.
func (p *Pool) Usage(until time.Time) Usage {
	p.mu.Lock()
	var segs []*Segment
	free := 0
	for _, ps := range p.segs {
		if ps != nil {
			ps.refs.Add(1)
			segs = append(segs, ps.Segment)
			free += ps.nfree
		}
	}
	p.mu.Unlock()
	return usage(segs, free, until)
}

// Reap makes slots in limbo free if the server has let go of them, and reports whether others
// are left in limbo.
func (p *Pool) Reap() (limbo bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reap(len(p.limbo))
	return len(p.limbo) > 0
}

// Idle reports whether no slot is in use on this side.
func (p *Pool) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse == 0
}

// Close drops all segments, without telling the peer. A segment with slots in use stays mapped
// until these are freed.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, f := range p.limbo {
		f.seg.unref()
	}
	for _, ps := range p.segs {
		if ps != nil {
			ps.unref()
		}
	}
	p.limbo, p.segs = nil, nil
}
