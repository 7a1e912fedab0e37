package stream

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/internal/ring"
	"github.com/stretchr/testify/require"
)

// A budget is a Memory with a limit.
type budget struct{ used, limit atomic.Int64 }

func (b *budget) MayGrow(n int) bool { return b.used.Load()+int64(n) <= b.limit.Load() }
func (b *budget) Plenty(n int) bool  { return b.used.Load()+int64(n) <= b.limit.Load()/2 }
func (b *budget) Charge(n int)       { b.used.Add(int64(n)) }

// A trimmer is a Peer that notes what it gives back.
type trimmer struct {
	farPeer
	trimmed atomic.Int64
}

func (p *trimmer) Trim(b []byte) {
	p.trimmed.Add(int64(len(b)))
	clear(b)
}

// connectTidy makes a connection with a janitor and a budget, of which its rings have taken
// what they begin with, for each end.
func connectTidy(t *testing.T, size int) (c, s *End, toS, toC *trimmer, b *budget, j *Janitor) {
	c, s, b, j = new(End), new(End), new(budget), new(Janitor)
	j.Memory = b
	there, back := newFifo(size), newFifo(size)
	toS, toC = &trimmer{farPeer: farPeer{other: s}}, &trimmer{farPeer: farPeer{other: c}}
	b.limit.Store(1 << 40)
	b.used.Store(4 * ring.MinSize)
	o := Options{Janitor: j}
	c.Init(back, there, toS, o)
	s.Init(there, back, toC, o)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		require.EqualValues(t, b.used.Load(), c.Charged()+s.Charged())
		require.Empty(t, j.watched)
		require.True(t, j.next.IsZero(), "the timer runs")
	})
	return c, s, toS, toC, b, j
}

// pass has n bytes go from c to s.
func pass(t *testing.T, c, s *End, n int) {
	t.Helper()
	b := bytes.Repeat([]byte("0123456789abcde"), n/15+1)[:n]
	go c.Write(b)
	got := make([]byte, n)
	_, err := io.ReadFull(s, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))
}

// TestTidy has a ring grow, and become small again with the budget when nothing happens.
func TestTidy(t *testing.T) {
	const size = 1 << 20
	c, s, toS, toC, b, j := connectTidy(t, size)
	pass(t, c, s, 100)
	require.Empty(t, j.watched, "a page costs nothing")
	for range 3 {
		for c.tx.Ring() < size {
			pass(t, c, s, size)
		}
		require.EqualValues(t, 2*ring.MinSize+2*size, b.used.Load())
		before := toS.trimmed.Load()
		require.Eventually(t, func() bool { return b.used.Load() == 4*ring.MinSize }, 20*time.Second, time.Millisecond)
		require.Greater(t, toS.trimmed.Load(), before)
		require.Zero(t, toC.trimmed.Load())
		require.Eventually(t, func() bool {
			j.mu.Lock()
			defer j.mu.Unlock()
			return len(j.watched) == 0 && j.next.IsZero()
		}, 20*time.Second, time.Millisecond, "the janitor does not come to rest")
	}
}

// TestTidyLeaves has ends that must be left alone: where something happens, bytes are unread,
// or somebody has the lock for writing, or a view.
func TestTidyLeaves(t *testing.T) {
	const size = 256 << 10
	c, s, toS, _, _, _ := connectTidy(t, size)
	for c.tx.Ring() < size {
		pass(t, c, s, size)
	}
	w := &watch{}
	require.True(t, c.tidy(w), "it has moved")
	require.Zero(t, toS.trimmed.Load())
	require.Equal(t, Quiet, w.wait)

	_, err := c.Write(make([]byte, 100))
	require.NoError(t, err)
	require.True(t, c.tidy(w))
	b, err := s.Peek(10)
	require.NoError(t, err)
	require.Len(t, b, 10)
	for want := 2 * Quiet; want <= 2*maxQuiet; want *= 2 {
		require.True(t, c.tidy(w), "bytes are unread, and in view")
		require.Equal(t, min(want, maxQuiet), w.wait)
	}
	_, err = s.Discard(100)
	require.NoError(t, err)
	require.True(t, c.tidy(w))
	require.Equal(t, Quiet, w.wait)

	_, err = c.Reserve(1000)
	require.NoError(t, err)
	require.True(t, c.tidy(w), "room is reserved")
	require.NoError(t, c.Commit(0))
	require.Zero(t, toS.trimmed.Load())
	require.Equal(t, size, c.tx.Ring())

	require.False(t, c.tidy(w))
	require.NotZero(t, toS.trimmed.Load())
	require.Equal(t, ring.MinSize, c.tx.Ring())
	c.Close()
	require.False(t, c.tidy(w))
}

// TestPeekBeyondRing waits for all that a fifo can come to, from any offset, though there is
// no memory for it.
func TestPeekBeyondRing(t *testing.T) {
	const size = 1 << 20
	for _, first := range []int{1, 1000, ring.EasySize - 1} {
		for _, way := range []func(c *End, b []byte) error{
			func(c *End, b []byte) error { _, err := c.Write(b); return err },
			func(c *End, b []byte) error { _, _, err := c.CopyFrom(bytes.NewReader(b)); return err },
			func(c *End, b []byte) error {
				for len(b) > 0 {
					room, err := c.Reserve(1)
					if err != nil {
						return err
					}
					n := copy(room, b)
					if err := c.Commit(n); err != nil {
						return err
					}
					b = b[n:]
				}
				return nil
			},
		} {
			c, s, _, _, b, _ := connectTidy(t, size)
			_, err := c.Write(make([]byte, first+1))
			require.NoError(t, err)
			b.limit.Store(0)
			_, err = s.Discard(first) // not all, or it would begin at the fifo's start
			require.NoError(t, err)
			want := bytes.Repeat([]byte("0123456789abcde"), size/15)
			done := make(chan error, 1)
			go func() { done <- way(c, want) }()
			s.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := s.Peek(1 + len(want))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got[1:]))
			require.NoError(t, <-done)
			got, err = s.Peek(size + 1)
			require.Error(t, err)
			require.Len(t, got, 1+len(want))
			_, err = s.Discard(1 + len(want))
			require.NoError(t, err)
		}
	}
}

// TestReserveBeyondRing reserves all that a fifo can come to.
func TestReserveBeyondRing(t *testing.T) {
	const size = 1 << 20
	c, s, _, _, b, _ := connectTidy(t, size)
	b.limit.Store(0)
	room, err := c.Reserve(size)
	require.NoError(t, err)
	require.Len(t, room, size)
	require.NoError(t, c.Commit(size))
	n, err := s.Discard(size)
	require.NoError(t, err)
	require.Equal(t, size, n)
	require.Greater(t, b.used.Load(), int64(4*ring.MinSize))
}

// TestReserveUnread reserves all that is left of a fifo, while nobody reads the byte in it.
func TestReserveUnread(t *testing.T) {
	const size = 1 << 20
	c, s, _, _, b, _ := connectTidy(t, size)
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, err := c.Write(make([]byte, ring.EasySize))
	require.NoError(t, err)
	b.limit.Store(0)
	n, err := s.Discard(ring.EasySize - 1)
	require.NoError(t, err)
	require.Equal(t, ring.EasySize-1, n)
	room, err := c.Reserve(size - 1)
	require.NoError(t, err)
	require.Len(t, room, size-1)
	require.NoError(t, c.Commit(size-1))
	n, err = s.Discard(size)
	require.NoError(t, err)
	require.Equal(t, size, n)
}
