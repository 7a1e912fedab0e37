// Package segpool manages the memory that two applications share: segments, the slots in them,
// and the references that keep them mapped.
//
// A segment is one mapping with many slots of the same size. A slot is the memory of one
// connection: a state word for each side, and two fifos. Nothing in a segment describes the
// segment: both sides compute the same [Geometry] from the fifo sizes that they agreed on, and
// check the file's size against it.
//
// The client has the [Pool] of a pair: it makes segments and allocates slots, without asking the
// server. The server has the same segments in a [Table]. A slot is free when both sides have let
// go of it. Each side says so in its own state word, with the number of the use, so that a word
// of an earlier use is not mistaken for one of this use.
package segpool

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/ring"
)

// A Memory is a mapping.
type Memory struct {
	Bytes []byte

	trim func([]byte) // of whole pages
	kept bool         // all pages are there and stay, see Strict
	free func([]byte)
}

// Free unmaps the memory. No goroutine may use it any more.
func (m *Memory) Free() { m.free(m.Bytes) }

// Limits are the most that all connections of one application may use together.
type Limits struct {
	Conns    int64
	Segments int64
	Bytes    int64 // address space of segments
	Memory   int64 // what the rings of fifos hold
}

// An Account counts what an application uses against its limits.
type Account struct {
	limits                 Limits
	conns, segments, bytes atomic.Int64
	memory                 atomic.Int64

	whole *Account // see Share
}

// NewAccount returns an account with the given limits.
func NewAccount(l Limits) *Account { return &Account{limits: l} }

// Usage returns what is in use.
func (a *Account) Usage() Limits {
	return Limits{Conns: a.conns.Load(), Segments: a.segments.Load(), Bytes: a.bytes.Load(), Memory: a.memory.Load()}
}

// A LimitError says which limit was reached. It is syscall.ENOBUFS.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("limit of %d %s reached: %v", e.Limit, e.What, syscall.ENOBUFS)
}

func (e *LimitError) Unwrap() error { return syscall.ENOBUFS }

func charge(v *atomic.Int64, n, limit int64, what string) error {
	if v.Add(n) > limit {
		v.Add(-n)
		return &LimitError{what, limit}
	}
	return nil
}

// AddConn counts a connection with fifos as g says, and returns the size with which their rings
// begin, unless they are smaller: a small one if there is not memory for others. RemoveConn or
// ForgetConn undoes it.
func (a *Account) AddConn(g Geometry) (first int, err error) {
	if err := charge(&a.conns, 1, a.limits.Conns, "connections"); err != nil {
		return 0, err
	}
	first = ring.FirstSize
	if n := g.rings(first); a.MayGrow(n) {
		a.Charge(n)
		return first, nil
	}
	first = ring.MinSize
	if err := charge(&a.memory, int64(g.rings(first)), a.limits.Memory, "bytes of fifos"); err != nil {
		a.conns.Add(-1)
		return 0, err
	}
	return first, nil
}

// RemoveConn undoes AddConn, for a connection whose fifos were not used.
func (a *Account) RemoveConn(g Geometry, first int) { a.ForgetConn(g.rings(first)) }

// ForgetConn undoes AddConn and gives back n bytes: what the connection was charged with then,
// and by Charge since.
func (a *Account) ForgetConn(n int) {
	a.Charge(-n)
	a.conns.Add(-1)
}

// MayGrow reports whether there are n bytes of memory for a fifo to go faster. A quarter of
// the limit is left to new connections, and to what has to be.
func (a *Account) MayGrow(n int) bool {
	return a.memory.Load()+int64(n) <= a.limits.Memory-a.limits.Memory/4
}

// Charge counts n bytes of memory, which may be negative, whatever the limit is.
func (a *Account) Charge(n int) { a.memory.Add(int64(n)) }

// Share returns an account of segments that a counts too, with limits of its own.
func (a *Account) Share(segments, bytes int64) *Account {
	return &Account{limits: Limits{Segments: segments, Bytes: bytes}, whole: a}
}

func (a *Account) addSegment(size int) error {
	if err := charge(&a.segments, 1, a.limits.Segments, "segments"); err != nil {
		return err
	}
	err := charge(&a.bytes, int64(size), a.limits.Bytes, "bytes of segments")
	if err == nil && a.whole != nil {
		if err = a.whole.addSegment(size); err != nil {
			a.bytes.Add(-int64(size))
		}
	}
	if err != nil {
		a.segments.Add(-1)
	}
	return err
}

func (a *Account) removeSegment(size int) {
	a.segments.Add(-1)
	a.bytes.Add(-int64(size))
	if a.whole != nil {
		a.whole.removeSegment(size)
	}
}

// A Segment is a mapping of slots. It lives until its last reference is dropped.
type Segment struct {
	mem     *Memory
	geo     Geometry
	account *Account
	refs    atomic.Int32 // the pool's or table's, and one for each slot in use
}

// newSegment counts m and makes a segment of it. It owns m, also if it fails.
func newSegment(m *Memory, g Geometry, a *Account) (*Segment, error) {
	if err := a.addSegment(len(m.Bytes)); err != nil {
		m.Free()
		return nil, err
	}
	s := &Segment{mem: m, geo: g, account: a}
	s.refs.Store(1)
	return s, nil
}

// unref drops a reference. The last one unmaps the memory. A Read or Write has one through its
// connection's slot, so it never accesses unmapped memory.
func (s *Segment) unref() {
	if s.refs.Add(-1) == 0 {
		s.account.removeSegment(len(s.mem.Bytes))
		s.mem.Free()
	}
}
