// Package segpool manages the memory that two applications share: segments, the
// slots in them that connections use, and who still uses what.
//
// A segment is one mapping with many slots of the same size. A slot is a
// connection's share: a word for each side in which it says how far it is, and
// two fifos. Nothing in a segment describes the segment: both sides compute the
// same Geometry from what they agreed on, and check the file's size against it.
//
// The client owns the pool of an application pair: it makes segments and chooses
// slots, which needs no word with the server. The server has the same segments
// in a Table. A slot is used again when both sides have let go of it; each side
// says so in its own word, with the number of the use, so nothing that a side
// left behind in an earlier use is mistaken for a word of this one.
package segpool

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/ring"
)

// Memory is a mapping.
type Memory struct {
	Bytes []byte

	trim func([]byte) // of whole pages
	free func([]byte)
}

// Free unmaps the memory. Nobody may use it any more.
func (m *Memory) Free() { m.free(m.Bytes) }

// Limits bound what one application may use. Each is a count of all its
// connections, or of what they need.
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

// AddConn counts a connection with fifos as g says, and returns the size of the rings with
// which they begin, unless they are smaller. These are small ones where there is not memory
// for others. RemoveConn takes it back.
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

// RemoveConn takes back AddConn, for a connection whose fifos were not used.
func (a *Account) RemoveConn(g Geometry, first int) { a.ForgetConn(g.rings(first)) }

// ForgetConn takes back AddConn, and n bytes: what the connection was charged with then, and
// by Charge since.
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

func (a *Account) addSegment(size int) error {
	if err := charge(&a.segments, 1, a.limits.Segments, "segments"); err != nil {
		return err
	}
	if err := charge(&a.bytes, int64(size), a.limits.Bytes, "bytes of segments"); err != nil {
		a.segments.Add(-1)
		return err
	}
	return nil
}

func (a *Account) removeSegment(size int) {
	a.segments.Add(-1)
	a.bytes.Add(-int64(size))
}

// A Segment is a mapping of slots that lives until its last user lets go.
type Segment struct {
	mem     *Memory
	geo     Geometry
	account *Account
	refs    atomic.Int32 // the pool's or table's, and one for each slot in use
}

// newSegment takes over m, and counts it.
func newSegment(m *Memory, g Geometry, a *Account) (*Segment, error) {
	if err := a.addSegment(len(m.Bytes)); err != nil {
		m.Free()
		return nil, err
	}
	s := &Segment{mem: m, geo: g, account: a}
	s.refs.Store(1)
	return s, nil
}

// release gives up a reference. The mapping goes with the last one, so no Read
// or Write, which hold one through their connection, meets memory that is gone.
func (s *Segment) release() {
	if s.refs.Add(-1) == 0 {
		s.account.removeSegment(len(s.mem.Bytes))
		s.mem.Free()
	}
}
