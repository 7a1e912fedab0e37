package ring

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCopyAround copies from and to all places in a line. The bytes around the destination
// stay what they were.
func TestCopyAround(t *testing.T) {
	src, dst, want := make([]byte, 1<<10), make([]byte, 1<<10), make([]byte, 1<<10)
	for i := range src {
		src[i] = byte(rand.Uint32())
	}
	for from := range 65 {
		for to := range 65 {
			for _, n := range []int{0, 1, 15, 63, 64, 65, 127, 128, 300, 900} {
				clear(dst)
				clear(want)
				copy(want[to:], src[from:from+n])
				copyAround(dst[to:to+n], src[from:from+n])
				require.True(t, bytes.Equal(want, dst), "%d bytes from %d to %d", n, from, to)
			}
		}
	}
}

// through has a copier go through this number of stretches. A stretch takes cached or
// around, depending on the way. It returns how many of them went around the caches.
func through(c *copier, stretches int, cached, around time.Duration) (count int) {
	for range stretches {
		took := cached
		if c.around {
			took = around
			count++
		}
		c.next(took)
	}
	return count
}

func TestCopierLearns(t *testing.T) {
	const fast, slow = 300 * time.Microsecond, 1500 * time.Microsecond
	c := newCopier()
	// The copier knows nothing at first.
	through(c, 4*trialLength, slow, fast)
	require.True(t, c.around)
	// It stays with what is fast, and hardly tries the other any more.
	require.Greater(t, through(c, 10_000, slow, fast), 9_900)
	// The CPUs move: the copier notices soon, and not only at the next trial.
	through(c, slowLimit+2*trialLength, fast, slow)
	require.False(t, c.around)
	require.Less(t, through(c, 10_000, fast, slow), 100)
	// A small difference doesn't count.
	require.Less(t, through(c, 10_000, fast, fast-fast/10), 100)
	// Neither do interruptions, unless all stretches are interrupted.
	for range 1000 {
		through(c, 3, fast, slow)
		through(c, 1, 20*fast, 20*fast)
	}
	require.Less(t, through(c, 1000, fast, slow), 100)
}

// TestCopierSwitches changes the way again and again. All bytes arrive.
func TestCopierSwitches(t *testing.T) {
	r := newPair(1 << 16)
	b := make([]byte, len(pattern))
	for range 4 {
		for sent := 0; sent < len(pattern); {
			n, err := r.p.Write(pattern[sent:])
			require.NoError(t, err)
			for got := 0; got < n; {
				m, err := r.c.Read(b[sent+got : sent+n])
				require.NoError(t, err)
				got += m
			}
			sent += n
		}
		require.True(t, bytes.Equal(pattern, b))
		if canGoAround {
			r.p.copier.around = !r.p.copier.around
		}
	}
}
