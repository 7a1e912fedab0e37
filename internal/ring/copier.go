package ring

import (
	"slices"
	"time"
)

// A copier copies into a fifo in the way that is faster there: through the caches,
// or around them with non-temporal stores. Which one that is depends on what the two
// CPUs share, which the system changes at any moment and doesn't say, and on what the
// consumer does. Within one core the caches win by 2, across L3s they lose by 5: a
// line that the consumer has read must then be fetched back from over there before it
// can be written to.
//
// So the copier times what it does, from one stretch of bytes to the next, waits and
// all, and tries the other way now and then: seldom if that was in vain, and soon if
// stretches have come to take longer.
type copier struct {
	around bool // the caches

	left  int // bytes of the stretch that are still to come
	began time.Time

	last  [trialLength]time.Duration // what the last stretches in this way took
	count int                        // of stretches in this way
	usual time.Duration              // what one took when the way was chosen
	slow  int                        // stretches in a row that took much longer
	rest  int                        // stretches until the next trial
	pause int                        // how many that were to be

	trying bool          // the other way
	was    time.Duration // what a stretch took in the way that is not being tried
}

const (
	// stretch is some times the size of most fifos, so that it takes as long as
	// the slower of the two sides.
	stretch = 4 << 20

	// leastAround is the least that is copied around the caches, or counted: of
	// fewer bytes the consumer finds most in its cache if they came through it.
	leastAround = 4 << 10

	// A trial is so many stretches, after one that doesn't count. What counts is the
	// shortest: the others may have been interrupted.
	trialLength = 4

	// The pauses between trials, in stretches. Those of a trial may each take
	// several times as long as usual.
	minPause = 64
	maxPause = 1024

	slowLimit = 8
)

// copy copies src to dst, which is no shorter.
func (c *copier) copy(dst, src []byte) {
	if c.left <= 0 {
		now := time.Now()
		if !c.began.IsZero() {
			c.next(now.Sub(c.began))
		} else {
			c.rest, c.pause = trialLength+1, minPause
		}
		c.left, c.began = stretch, now
	}
	c.left -= len(src)
	if c.around {
		copyAround(dst[:len(src)], src)
	} else {
		copy(dst, src)
	}
}

// next chooses the way for the next stretch, after one that took so long.
func (c *copier) next(took time.Duration) {
	c.last[c.count%trialLength] = took
	c.count++
	if c.trying {
		if c.count <= trialLength {
			return
		}
		c.trying = false
		if now := slices.Min(c.last[:]); now < c.was-c.was/8 {
			c.usual, c.pause = now, minPause
		} else {
			c.around = !c.around
			c.usual, c.pause = c.was, min(2*c.pause, maxPause)
		}
		c.slow, c.rest = 0, c.pause
		return
	}
	if c.slow++; took <= c.usual+c.usual/2 {
		c.slow = 0
	}
	if c.rest--; c.rest > 0 && c.slow < slowLimit {
		return
	}
	if c.slow >= slowLimit {
		c.pause = minPause
	}
	c.trying, c.was = true, slices.Min(c.last[:])
	c.around, c.count = !c.around, 0
}
