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

// Limits are the most that all connections of an application, or of a peer, may use together.
type Limits struct {
	Conns    int64
	Segments int64
	Bytes    int64 // address space of segments
	Memory   int64 // what the rings of fifos hold
}

// An Account counts what is used against limits.
type Account struct {
	limits Limits
	whole  *Account // counts it too; see Share

	segments, bytes atomic.Int64

	// The connections, and the memory of their rings in units of the smallest ring: one
	// step counts both, as each connection takes it.
	conns atomic.Int64
}

// The parts of Account.conns.
const (
	oneConn    = 1 << 40
	ringUnit   = ring.MinSize
	memoryPart = oneConn - 1
)

// newRings is what both rings of a new connection hold.
const newRings = 2 * ring.MinSize

// NewAccount returns an account with the given limits.
func NewAccount(l Limits) *Account { return &Account{limits: l} }

// Share returns an account with limits of its own, which a counts too.
func (a *Account) Share(l Limits) *Account { return &Account{limits: l, whole: a} }

// Limits returns the limits.
func (a *Account) Limits() Limits { return a.limits }

// Usage returns what is in use.
func (a *Account) Usage() Limits {
	conns := a.conns.Load()
	return Limits{
		Conns:    conns / oneConn,
		Segments: a.segments.Load(),
		Bytes:    a.bytes.Load(),
		Memory:   conns & memoryPart * ringUnit,
	}
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

// AddConn counts a connection, whose rings are as small as can be.
// RemoveConn or ForgetConn undoes it.
func (a *Account) AddConn() (err error) {
	now := a.conns.Add(oneConn + newRings/ringUnit)
	switch {
	case now/oneConn > a.limits.Conns:
		err = &LimitError{"connections", a.limits.Conns}
	case now&memoryPart*ringUnit > a.limits.Memory:
		err = &LimitError{"bytes of fifos", a.limits.Memory}
	case a.whole != nil:
		err = a.whole.AddConn()
	}
	if err != nil {
		a.conns.Add(-oneConn - newRings/ringUnit)
	}
	return err
}

// RemoveConn undoes AddConn, for a connection whose fifos were not used.
func (a *Account) RemoveConn() { a.ForgetConn(newRings) }

// ForgetConn undoes AddConn and gives back n bytes: what the connection was charged with then,
// and by Charge since.
func (a *Account) ForgetConn(n int) {
	for ; a != nil; a = a.whole {
		a.conns.Add(-oneConn - int64(n)/ringUnit)
	}
}

// unreserved returns up to which use of memory a fifo may grow to go faster. A quarter of the
// limit is left to new connections, and to what has to be.
func (a *Account) unreserved() int64 { return a.limits.Memory - a.limits.Memory/4 }

// MayGrow reports whether there are n bytes of memory for a fifo to go faster.
func (a *Account) MayGrow(n int) bool {
	used := a.conns.Load() & memoryPart * ringUnit
	return used+int64(n) <= a.unreserved() && (a.whole == nil || a.whole.MayGrow(n))
}

// Plenty reports whether less than half of the memory would be in use with n bytes more.
func (a *Account) Plenty(n int) bool {
	used := a.conns.Load() & memoryPart * ringUnit
	return used+int64(n) <= a.limits.Memory/2 && (a.whole == nil || a.whole.Plenty(n))
}

// Charge counts n bytes of memory, which may be negative, whatever the limit is.
func (a *Account) Charge(n int) {
	for ; a != nil; a = a.whole {
		a.conns.Add(int64(n) / ringUnit)
	}
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
	for ; a != nil; a = a.whole {
		a.segments.Add(-1)
		a.bytes.Add(-int64(size))
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
