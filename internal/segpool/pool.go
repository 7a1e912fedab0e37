package segpool

import (
	"errors"
	"math/bits"
	"sync"
)

// warmSlots is how many slots of a pool keep their pages when they are freed, so
// that one connection after the other finds its memory there. The first slots
// are also the first to be used again.
const warmSlots = 8

// ErrFull means that all slots are in use and the caller must add a segment.
var ErrFull = errors.New("all slots in use")

// A Pool is the client's side of a pair's segments: it chooses slots and knows
// when they are free. Connections inside one process use one too, with both
// ends on the same side.
type Pool struct {
	geo     Geometry
	account *Account
	dropped func(k int) bool // asked before an empty segment goes

	mu     sync.Mutex
	segs   []*poolSegment // by number; nil where there is none
	inUse  int            // slots that this side uses
	limbo  []freed        // let go here, but not yet by the server
	next   int            // index of the one in limbo to look at next
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
	uses  []uint32 // by slot: the last use's number
}

// NewPool returns an empty pool. When a segment has become empty and there is
// another empty one already, dropped is called with its number, with the pool
// locked; the segment goes if it returns true.
func NewPool(g Geometry, a *Account, dropped func(k int) bool) *Pool {
	return &Pool{geo: g, account: a, dropped: dropped}
}

// Geometry returns the layout of the pool's segments.
func (p *Pool) Geometry() Geometry { return p.geo }

// HasFree reports whether Alloc would succeed.
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

// Next returns the number that the next segment would have, or an error if the
// pool has as many as it can have.
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

// Add takes over m as segment k, which Next has returned.
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

// Alloc returns a free slot, or ErrFull. It is the lowest one, so that the
// higher segments drain and can go.
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

// reap looks at n of the slots in limbo, those that it has not looked at for longest, and
// frees the ones that the server has let go of. It unlocks the pool meanwhile if there
// are pages to give back.
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

// trims reports whether pages are to be given back. Both sides have let go of the slot.
func (f *freed) trims() bool {
	if f.ID < warmSlots {
		return false
	}
	if !f.ToClient.Header.Empty() {
		f.used.ToClient = len(f.ToClient.Data) // nobody here knows where the bytes are
	}
	return f.used.ToServer > trimmed || f.used.ToClient > trimmed
}

// Free lets go of a slot, saying so with Done or GivenUp. That must be this side's last
// use of it. The slot is used again, and its pages are given back, once the server has
// let go of it too: until then the server may be reading what is in the fifos. Free
// reports whether the pool should be looked at later: either no slot is in use on this
// side, or the server has not let go of this one, and Reap is needed.
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

// FreeBoth is Free for a slot that both sides of a connection inside this process have let
// go of.
func (p *Pool) FreeBoth(s Slot, used Used) {
	s.SayServer(Done)
	p.Free(s, Done, used)
}

// put makes a slot free, and drops its segment if that is empty and not the
// only empty one.
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
	// Of two empty segments the higher one goes. One stays, so that a
	// connection after the other does not map and unmap.
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

// Reap frees the slots that the server has let go of, and reports whether there are
// others that this side has let go of.
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

// Close lets go of all segments. Those with slots in use stay mapped until
// these are freed. There is no peer any more, or nothing left to say to it.
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
