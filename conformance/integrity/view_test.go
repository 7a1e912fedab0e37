package integrity

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

// TestViewOutlivesClose keeps a view from Peek while the connection is closed at both ends,
// and new ones use every free slot. The view shows the same bytes until the Read that must
// follow; then the end lets go of its memory.
func TestViewOutlivesClose(t *testing.T) {
	const size = 4096
	eachPlace(t, ctnet.ListenConfig{ReadBuffer: size, WriteBuffer: size}, func(t *testing.T, p place) {
		tried, sum := 0, 0
		for try := range tries(500, 1_000_000) {
			pattern, b := pattern.Of(0, uint64(try), client), make([]byte, size)
			pattern.Fill(b, 0)
			c, s := p.connect(t)
			_, err := c.Write(b)
			require.NoError(t, err)
			var view []byte
			var wg sync.WaitGroup
			wg.Go(func() { view, _ = s.Peek(size) })
			wg.Go(func() {
				pause(10)
				s.Close()
			})
			wg.Wait()
			c.Close()
			if len(view) > 0 { // Peek came before Close
				tried++
				for range 20 {
					c, s := p.connect(t)
					_, err := c.Write(make([]byte, size))
					require.NoError(t, err)
					c.Close()
					s.Close()
				}
				p.requireConns(t, 1)
				wrong, _ := pattern.Wrong(view, 0)
				sum += wrong
			}
			_, err = s.Read(b)
			require.Equal(t, ownClosed, kind(err))
			p.requireConns(t, 0)
		}
		t.Logf("%d views, %d bytes wrong", tried, sum)
		require.Zero(t, sum)
	})
}

// TestPeekAgainstClose calls Peek in one goroutine while another one closes the connection and
// reads. The end lets go of its memory once: with the other end open, a connection is there.
func TestPeekAgainstClose(t *testing.T) {
	const size = 64 << 10
	eachPlace(t, ctnet.ListenConfig{ReadBuffer: size, WriteBuffer: size}, func(t *testing.T, p place) {
		b, tried := make([]byte, size), 0
		for range tries(10_000, 1_000_000) {
			c, s := p.connect(t)
			// The bytes wrap around the fifo's end, so that Peek copies them, which
			// takes a while.
			_, err := c.Write(b)
			require.NoError(t, err)
			_, err = s.Discard(size / 2)
			require.NoError(t, err)
			_, err = c.Write(b[:size/2])
			require.NoError(t, err)

			var peeking, peeked atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				peeking.Store(true)
				s.Peek(size)
				peeked.Store(true)
			})
			for !peeking.Load() {
				runtime.Gosched()
			}
			s.Close()
			for !peeked.Load() {
				s.Read(nil)
			}
			wg.Wait()
			s.Read(nil)
			p.requireConns(t, 1)
			c.Close()
			p.requireConns(t, 0)
			tried++
		}
		t.Logf("%d tries", tried)
	})
}

// requireConns waits until the applications together count n connections. One within one
// application counts once, until both ends have let go.
func (p place) requireConns(t *testing.T, n int64) {
	t.Helper()
	harness.Eventually(t, func() bool {
		sum := int64(0)
		for _, a := range p.apps {
			sum += a.Snapshot().Conns
		}
		return sum == n
	})
}
