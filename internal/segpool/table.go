package segpool

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Table is the server's side of a pair's segments. The client chooses segments and slots; the
// table checks the choice against its own records.
type Table struct {
	geo     Geometry
	account *Account

	mu   sync.Mutex // held to change segs
	segs []atomic.Pointer[tableSegment]
}

type tableSegment struct {
	*Segment
	uses []uint32 // by slot: the last use that Request has seen; only its caller uses it
}

// NewTable returns an empty table.
func NewTable(g Geometry, a *Account) *Table {
	return &Table{geo: g, account: a, segs: make([]atomic.Pointer[tableSegment], g.Segments())}
}

// Geometry returns the layout of the table's segments.
func (t *Table) Geometry() Geometry { return t.geo }

// Add adds m as segment k. It owns m, also if it fails.
func (t *Table) Add(k int, m *Memory) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k < 0 || k >= len(t.segs) || t.segs[k].Load() != nil {
		m.Free()
		return fmt.Errorf("segment %d is not a new one", k)
	}
	s, err := newSegment(m, t.geo, t.account)
	if err != nil {
		return err
	}
	t.segs[k].Store(&tableSegment{s, make([]uint32, t.geo.Slots)})
	return nil
}

// Drop removes segment k. Connections that use it keep it mapped.
func (t *Table) Drop(k int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k >= 0 && k < len(t.segs) {
		if s := t.segs[k].Swap(nil); s != nil {
			s.unref()
		}
	}
}

// Request returns the slot with the given ID if the client asks there for a connection that
// Request has not seen before. The server then uses the slot until [Table.Free] or
// [Table.Refuse]. One goroutine at a time may call Request, and not for a slot in use.
func (t *Table) Request(id uint32) (s Slot, ok bool) {
	if id >= MaxSlots {
		return Slot{}, false
	}
	k, i := int(id)/t.geo.Slots, int(id)%t.geo.Slots
	t.mu.Lock() // against Drop
	defer t.mu.Unlock()
	ts := t.segs[k].Load()
	if ts == nil {
		return Slot{}, false
	}
	s = ts.slot(k, i)
	st := s.ClientState()
	if st.Use() == ts.uses[i] {
		return Slot{}, false
	}
	s.Use = st.Use()
	switch st.Code() {
	case Connect, ConnectNtf:
	case Done, GivenUp:
		// The Dial has ended before Request saw it. The slot is in limbo until this
		// Done.
		ts.uses[i] = s.Use
		s.SayServer(Done)
		return Slot{}, false
	default:
		return Slot{}, false
	}
	ts.uses[i] = s.Use
	ts.refs.Add(1)
	return s, true
}

// Free lets go of a slot: it says Done, after which the client may use the slot again.
func (t *Table) Free(s Slot) {
	s.SayServer(Done)
	s.seg.unref()
}

// Refuse says Refused with an errno, and so lets go of the slot. It calls tell while its
// reference still keeps the slot's words mapped.
func (t *Table) Refuse(s Slot, errno uint32, tell func()) {
	s.SayServer(Refused | errno<<8)
	tell()
	s.seg.unref()
}

// Usage is [Pool.Usage]. The slots that this side does not use count as free.
func (t *Table) Usage(inUse int, until time.Time) Usage {
	t.mu.Lock()
	var segs []*Segment
	for k := range t.segs {
		if ts := t.segs[k].Load(); ts != nil {
			ts.refs.Add(1)
			segs = append(segs, ts.Segment)
		}
	}
	t.mu.Unlock()
	return usage(segs, max(0, len(segs)*t.geo.Slots-inUse), until)
}

// Close drops all segments, as [Table.Drop] does.
func (t *Table) Close() {
	for k := range t.segs {
		t.Drop(k)
	}
}
