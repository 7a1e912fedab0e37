package sched

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Spinning: a waiter that looks for a moment before it parks saves two wake-ups
// a round trip if the peer answers within that moment. A moment shorter than a
// wake-up and the peer's usual thinking time never pays, because with both sides
// asleep each takes longer than that.
const (
	spinTime  = 60 * time.Microsecond
	spinRetry = 32 // after a vain spin, the waits until the next attempt
	spinLooks = 16 // looks between two at the clock

	// spinLimit bounds the looks where the clock stands still, as in a
	// testing/synctest bubble.
	spinLimit = 1 << 16
)

// spinners counts the goroutines of this process that spin. They are never more
// than the Ps that would otherwise be idle could be.
var spinners, maxSpinners atomic.Int32

func init() { maxSpinners.Store(-1) }

// A Spin is one waiter's experience with spinning.
type Spin struct {
	skip  uint8 // waits to go without
	waits uint8
}

// Until looks at ready for a while, if that has been paying and the process has
// a P to spare. It reports whether ready became true.
func (s *Spin) Until(ready func() bool) bool {
	if s.skip > 0 {
		s.skip--
		return false
	}
	if s.waits%64 == 0 || maxSpinners.Load() < 0 {
		maxSpinners.Store(int32(runtime.GOMAXPROCS(0) - 1)) // it may change
	}
	s.waits++
	if spinners.Add(1) > maxSpinners.Load() {
		spinners.Add(-1)
		return false
	}
	defer spinners.Add(-1)
	start := time.Now()
	for i := 1; i < spinLimit; i++ {
		if ready() {
			return true
		}
		pause()
		if i%spinLooks == 0 && time.Since(start) > spinTime {
			break
		}
	}
	s.skip = spinRetry
	return false
}
