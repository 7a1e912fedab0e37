package segpool

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// A Table is the server's side of a pair's segments. The client says which
// segments there are and which slot a connection has; the table believes it as
// far as its own records agree.
type Table struct {
	geo     Geometry
	account *Account

	mu   sync.Mutex // held to change segs
	segs []atomic.Pointer[tableSegment]
}

type tableSegment struct {
	*Segment
	uses []uint32 // by slot: the last use that was accepted; the worker's own
}

// NewTable returns an empty table.
func NewTable(g Geometry, a *Account) *Table {
	return &Table{geo: g, account: a, segs: make([]atomic.Pointer[tableSegment], g.Segments())}
}

// Geometry returns the layout of the table's segments.
func (t *Table) Geometry() Geometry { return t.geo }

// Add takes over m as segment k.
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

// Request returns the slot with the given ID if the client asks for a connection
// there that was not seen before. The slot then belongs to the server too, until
// Free. Only one goroutine may call it, and not for a slot that is in use.
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
		// Given up before it was seen here: the client waits for the slot.
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

// Free lets go of a slot: the client may use it again.
func (t *Table) Free(s Slot) {
	s.SayServer(Done)
	s.seg.unref()
}

// Refuse answers a request with an errno and lets go of the slot. It calls tell in
// between, while the slot's words can still be looked at.
func (t *Table) Refuse(s Slot, errno uint32, tell func()) {
	s.SayServer(Refused | errno<<8)
	tell()
	s.seg.unref()
}

// Close lets go of all segments, as Drop does.
func (t *Table) Close() {
	for k := range t.segs {
		t.Drop(k)
	}
}
