package stream

import (
	"io"
	"sync/atomic"
	"testing"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
	"github.com/stretchr/testify/require"
)

func newFifo(size int) ring.Fifo {
	return ring.Fifo{Header: new(ring.Header), Data: make([]byte, size)}
}

// ends counts the ends that let go of their fifos.
type ends struct{ atomic.Int32 }

func (r *ends) LetGo()      { r.Add(1) }
func (r *ends) Trim([]byte) {}

// A farPeer is a Peer that wakes the other end some time later, as in another process.
type farPeer struct {
	ends
	other *End
}

func (p *farPeer) Notify()              { go p.other.Wake() }
func (p *farPeer) CutOff()              {}
func (p *farPeer) Poller() sched.Poller { return nil }

// A meeting makes connections.
type meeting struct {
	t      *testing.T
	size   int
	joined bool
	totals *Totals
}

// eachMeeting runs a test with joined ends, and with ends that are apart. size is that of
// the fifos.
func eachMeeting(t *testing.T, size int, test func(t *testing.T, m meeting)) {
	t.Run("joined", func(t *testing.T) { test(t, meeting{t, size, true, new(Totals)}) })
	t.Run("apart", func(t *testing.T) { test(t, meeting{t, size, false, new(Totals)}) })
}

// connect makes a connection whose rings are as large as can be. At the end of the test both ends are closed, and each must have let
// go of its fifos once.
func (m meeting) connect() (c, s *End) {
	c, s = new(End), new(End)
	there, back := newFifo(m.size), newFifo(m.size)
	var letGo func() int32
	if m.joined {
		r := new(ends)
		new(Junction).Join(c, s, there, back, r, Options{Totals: m.totals})
		letGo = r.Load
	} else {
		toS, toC := &farPeer{other: s}, &farPeer{other: c}
		c.Init(back, there, toS, Options{Totals: m.totals})
		s.Init(there, back, toC, Options{Totals: m.totals})
		letGo = func() int32 { return toS.Load() + toC.Load() }
	}
	for _, e := range []*End{c, s} {
		_, err := e.tx.Space(m.size)
		require.NoError(m.t, err)
	}
	m.t.Cleanup(func() {
		for _, e := range []*End{c, s} {
			e.Close()
			e.Discard(0) // ends a Peek
			e.Commit(0)
		}
		require.EqualValues(m.t, 2, letGo())
	})
	return c, s
}

// connectAlone makes a connection with joined ends.
func connectAlone(t *testing.T) (c, s *End) {
	return meeting{t, 256 << 10, true, nil}.connect()
}

// readFrom and writeTo return either error as one.
func readFrom(e *End, r io.Reader) (int64, error) { return joined(e.CopyFrom(r)) }

func writeTo(e *End, w io.Writer) (int64, error) { return joined(e.CopyTo(w)) }

func joined(n int64, theirs, err error) (int64, error) {
	if err != nil {
		return n, err
	}
	return n, theirs
}
