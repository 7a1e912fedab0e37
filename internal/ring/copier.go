package ring

import (
	"slices"
	"time"
)

// A copier copies into a fifo in the way that is faster there: through the caches, or
// around them with non-temporal stores. Which way is faster depends on what the two CPUs
// share, which the system can change at any moment without telling, and on what the consumer
// does. Within one core the caches win by 2, across L3s they lose by 5: a line that the
// consumer has read must then be fetched back from its cache before the producer can
// write to it.
//
// So the copier times stretches of bytes, waits included, and tries the other way now and
// then. It compares the two ways and stays with the faster one (endTrial). After a trial that
// has found nothing better, the pause before the next one is longer. If stretches have become
// slower, it tries at once.
type copier struct {
	around bool // copy around the caches

	// The stretch that is being copied.
	left  int       // bytes until its end
	began time.Time // when it began

	recent [trialLength]time.Duration // what the last stretches took, the latest first

	// A trial is on if trying is true. Then around is the way that is tried, and the
	// chosen way is the other one.
	trying    bool
	remaining int // stretches until the trial ends, or until the next one begins

	usual time.Duration // what a stretch takes in the chosen way
	slow  int           // stretches in a row that took much longer than usual
	pause int           // how many stretches the pause before the next trial has
}

const (
	// stretch is several times the size of most fifos, so that it takes as long as
	// the slower of the two sides.
	stretch = 4 << 20

	// leastAround is the least number of bytes that is copied around the caches, or
	// counted: fewer bytes are mostly still in the caches when the consumer reads them.
	leastAround = 4 << 10

	// trialLength is how many stretches of a trial count. The one before them doesn't,
	// because the caches still hold lines that were written in the other way. The
	// shortest of them is compared: the others may have been interrupted.
	trialLength = 4

	// The pauses between trials, in stretches. They are long because a stretch of a trial
	// may take several times as long as usual.
	minPause = 64
	maxPause = 1024

	// slowLimit is how many slow stretches in a row end a pause.
	slowLimit = 8
)

// newCopier returns a copier whose first stretch begins now. Its first trial begins after as many
// stretches as a trial has.
func newCopier() *copier {
	return &copier{left: stretch, began: time.Now(), remaining: trialLength + 1, pause: minPause}
}

// copy copies src to dst, which is no shorter.
func (c *copier) copy(dst, src []byte) {
	if c.left <= 0 {
		now := time.Now()
		c.next(now.Sub(c.began))
		c.left, c.began = stretch, now
	}
	c.left -= len(src)
	if c.around {
		copyAround(dst[:len(src)], src)
	} else {
		copy(dst, src)
	}
}

// next chooses the way for the next stretch. took is the duration of the last one.
func (c *copier) next(took time.Duration) {
	copy(c.recent[1:], c.recent[:])
	c.recent[0] = took
	c.remaining--
	if c.trying {
		if c.remaining == 0 {
			c.endTrial()
		}
		return
	}
	if took > c.usual+c.usual/2 {
		c.slow++
	} else {
		c.slow = 0
	}
	switch {
	case c.slow == slowLimit: // something has changed
		c.pause = minPause
		c.beginTrial()
	case c.remaining == 0:
		c.beginTrial()
	}
}

// beginTrial makes the next stretches use the other way.
func (c *copier) beginTrial() {
	c.usual = slices.Min(c.recent[:])
	c.around = !c.around
	c.trying, c.remaining = true, 1+trialLength
}

// endTrial chooses the way that was tried if it is faster by an eighth, and otherwise goes
// back to the way that was chosen before.
func (c *copier) endTrial() {
	tried := slices.Min(c.recent[:])
	if tried < c.usual-c.usual/8 {
		c.usual, c.pause = tried, minPause
	} else {
		c.around = !c.around
		c.pause = min(2*c.pause, maxPause)
	}
	c.trying, c.remaining = false, c.pause
	c.slow = 0
}
