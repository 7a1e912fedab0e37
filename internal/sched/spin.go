package sched

import (
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// Spinning: a waiter that looks for a moment before it parks saves two wake-ups
// a round trip if the peer answers within that moment. It must be longer than what
// the peer takes when it sleeps too, a wake-up and its thinking time, because who
// gives up earlier finds both sides asleep for ever. But an answer that takes longer
// than the wake-ups that were saved was not worth it, and counts as none.
//
// Between two looks it lets other goroutines run, on the same P if they are ready
// there: what the peer answers to is often still to be done by one of these, and
// to wait until another thread is awake and takes it over costs more than all the
// rest. Only where the last answer came at once does it look without a break.
const (
	spinTime  = 250 * time.Microsecond
	spinPays  = 150 * time.Microsecond
	spinRetry = 32 // the most waits to go without after vain spins

	// fastLooks is how often it looks without a break, about a microsecond.
	// Where that was vain, it tries again after fastRetry waits.
	fastLooks = 64
	fastRetry = 16

	// takeOverAfter is how many times it looks before it polls on the worker's
	// behalf, a few microseconds: a wait shorter than that is not worth the trouble.
	takeOverAfter = 64

	// takeOverWaits is how many times it has waited before it does so. To deliver
	// events takes a larger stack, which the goroutines of thousands of connections
	// that have done little would keep.
	takeOverWaits = 16

	// soleWaits is for a process with a single P. Who spins there never lets it
	// become idle, which is when the runtime looks for what comes from the kernel,
	// and that is other connections' events too. So one wait of so many parks.
	soleWaits = 32

	// spinLimit bounds the looks where the clock stands still, as in a
	// testing/synctest bubble.
	spinLimit = 1 << 10
)

// spinners counts the goroutines of this process that spin. They are fewer than the
// Ps, but for one where that is the only P.
var spinners, maxSpinners atomic.Int32

// waitsOnSoleP counts the waits of a process with a single P.
var waitsOnSoleP atomic.Uint32

func init() { maxSpinners.Store(-1) }

// spinning is false if the environment says that nobody should spin, for those who
// would rather save the CPU time than the wake-ups.
var spinning = os.Getenv("CTNET_SPIN") != "0"

// A Spin is one waiter's experience with spinning.
type Spin struct {
	skip     uint8 // waits to go without
	failures uint8 // what skip was last set to, while all has been in vain
	fastSkip uint8 // waits to go without the fast looks
	waits    uint8 // that came as far as to ask for a P, modulo 256
}

// Yield looks at ready, lets others run on this P and looks again. It is for one who
// waits for a goroutine of this process: that may be just about to run here, and to
// leave the P to it costs less than to be woken, or to have it run elsewhere, away
// from the caches. It reports whether ready became true.
func Yield(ready func() bool) bool {
	if ready() {
		return true
	}
	runtime.Gosched()
	return ready()
}

// A Poller delivers a worker's events; a spinning goroutine may take it over. On Linux it
// is a Worker.
type Poller interface {
	// takeOver has the caller poll on the worker's behalf, unless that is not to be
	// had, which it reports.
	takeOver() bool
	// deliver delivers some of the events that have come.
	deliver()
	// giveBack ends what takeOver began. maxGap is the longest time for which the
	// caller did not look.
	giveBack(maxGap time.Duration)
}

// Until looks at ready for a while, if that has been paying and the process has
// a P to spare. It reports whether ready became true.
//
// If it takes more than a moment it takes p over meanwhile, unless that is nil: what
// comes for others is delivered by one who is awake, and need not wait until a thread
// is woken and finds a CPU, which those who spin have taken.
func (s *Spin) Until(p Poller, ready func() bool) bool {
	if !s.admit() {
		return false
	}
	defer spinners.Add(-1)
	if s.fastPoll(ready) {
		s.learn(true)
		return true
	}
	found, took := s.poll(p, ready)
	s.learn(found && took <= spinPays)
	return found
}

// admit reports whether this wait may spin, and if so counts it in spinners.
func (s *Spin) admit() bool {
	if s.skip > 0 {
		s.skip--
		return false
	}
	if !spinning {
		return false
	}
	if s.waits%64 == 0 || maxSpinners.Load() < 0 {
		maxSpinners.Store(int32(runtime.GOMAXPROCS(0) - 1)) // it may change
	}
	s.waits++
	limit := maxSpinners.Load()
	if limit == 0 {
		if waitsOnSoleP.Add(1)%soleWaits == 0 {
			return false
		}
		limit = 1
	}
	if spinners.Add(1) > limit {
		spinners.Add(-1)
		return false
	}
	return true
}

// fastPoll looks at ready without a break, unless that was vain lately.
func (s *Spin) fastPoll(ready func() bool) bool {
	if s.fastSkip > 0 {
		s.fastSkip--
		return false
	}
	for range fastLooks {
		if ready() {
			return true
		}
		pause()
	}
	s.fastSkip = fastRetry
	return false
}

// poll looks at ready and lets others run between two looks, until it has done so for
// spinTime. It reports whether ready became true, and how long that took.
func (s *Spin) poll(p Poller, ready func() bool) (found bool, took time.Duration) {
	t := takeover{poller: p}
	start := time.Now()
	for looks := range spinLimit {
		if found = ready(); found || took > spinTime {
			break
		}
		if looks == takeOverAfter && s.waits >= takeOverWaits {
			t.begin()
		}
		t.deliver()
		runtime.Gosched()
		before := took
		took = time.Since(start)
		t.maxGap = max(t.maxGap, took-before)
	}
	t.end()
	return found, took
}

// learn decides how many of the following waits go without spinning: none if this one
// was worth it, and twice as many as the last time otherwise.
func (s *Spin) learn(worthIt bool) {
	if worthIt {
		s.failures = 0
		return
	}
	s.failures = min(max(2*s.failures, 1), spinRetry)
	s.skip = s.failures
}

// A takeover is what a spinning goroutine does for others meanwhile.
type takeover struct {
	poller Poller        // may be nil
	taken  bool          // the goroutine polls on the worker's behalf
	maxGap time.Duration // the longest time between two looks
}

// begin takes the poller over, if that is to be had.
func (t *takeover) begin() { t.taken = t.poller != nil && t.poller.takeOver() }

// deliver delivers some of the events that have come, if the poller is taken over.
func (t *takeover) deliver() {
	if t.taken {
		t.poller.deliver()
	}
}

// end gives the poller back.
func (t *takeover) end() {
	if t.taken {
		t.poller.giveBack(t.maxGap)
	}
}
