package sched

import (
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// Spinning: a goroutine that looks for a moment before it parks saves two wake-ups in a
// round trip, if the peer answers within that moment. The moment must be longer than a
// sleeping peer takes for its wake-up and its work: if each side gives up earlier, both
// sleep in every round trip, for ever. But an answer that takes longer than the wake-ups
// would have taken was not worth the spinning, and counts as a failure.
//
// Between two looks the goroutine yields its P to other goroutines that are ready there.
// Often one of them has yet to send what the peer will answer. Without the yield another thread
// has to wake up and steal that goroutine, which costs more than all the rest. Only if the last
// answer came at once does the goroutine look without yielding.
const (
	spinTime  = 250 * time.Microsecond // how long it looks
	spinPays  = 150 * time.Microsecond // an answer that takes longer is a failure
	spinRetry = 32                     // the most waits that are skipped after failures

	// fastLooks is how many times the goroutine looks without yielding, which takes
	// about a microsecond. After a failure it skips these looks for fastRetry waits.
	fastLooks = 64
	fastRetry = 16

	// takeOverAfter is how many times the goroutine looks before it polls on the
	// worker's behalf, which takes a few microseconds: for a shorter wait that would
	// not pay.
	takeOverAfter = 64

	// takeOverWaits is the number of the first wait that does so. Delivering events needs
	// a larger stack. Thousands of connections that have done little would keep it.
	takeOverWaits = 16

	// soleWaits is for a process with a single P: one wait out of soleWaits parks at
	// once. A P whose goroutines spin is never idle, and only when it is idle does the
	// runtime look for what comes from the kernel, such as other connections' events.
	soleWaits = 32

	// spinLimit is the most looks, for a clock that stands still, as in a
	// testing/synctest bubble.
	spinLimit = 1 << 10
)

// spinners counts the goroutines of this process that spin. There are at most maxSpinners,
// one less than there are Ps, or one if there is a single P. A negative maxSpinners is not
// known yet.
var spinners, maxSpinners atomic.Int32

// waitsOnSoleP counts the waits while the process has a single P.
var waitsOnSoleP atomic.Uint32

func init() { maxSpinners.Store(-1) }

// spinning is false if the environment disables spinning, to save CPU time at the price of
// wake-ups.
var spinning = os.Getenv("CTNET_SPIN") != "0"

// A Spin has the statistics of one place that waits with spinning, such as the reading half of a
// connection. The zero value has no statistics. One goroutine at a time may use it.
type Spin struct {
	skip     uint8 // waits that are yet to be skipped
	failures uint8 // what skip was last set to; 0 after a success
	fastSkip uint8 // waits that are yet to go without the fast looks
	waits    uint8 // waits that were not skipped, modulo 256
}

// Yield calls ready, yields the P to other goroutines, and calls ready again. It reports
// whether ready became true. It is for a wait for another goroutine of this process, which may
// be about to run on this P. A yield costs less than a wake-up, and keeps the other goroutine
// near this CPU's caches.
func Yield(ready func() bool) bool {
	if ready() {
		return true
	}
	runtime.Gosched()
	return ready()
}

// A Poller delivers a worker's events; a spinning goroutine may take it over, and so polls
// on the worker's behalf. On Linux it is a Worker.
type Poller interface {
	// takeOver says that the caller polls until giveBack. It returns false, and does
	// nothing, if the Poller can't be taken over now.
	takeOver() bool
	// deliver delivers some of the events that were posted.
	deliver()
	// giveBack undoes takeOver. maxGap is the longest time between two looks of the
	// caller.
	giveBack(maxGap time.Duration)
}

// Until calls ready again and again for a while, if that has been paying, here and for the process
// (see trial), and the process has a P to spare. It reports whether ready became true.
//
// If that takes more than a moment, and p is not nil, the goroutine also polls on the
// worker's behalf: it delivers other connections' events. Otherwise they would wait until a
// thread is woken for the worker and finds a CPU, which the spinning goroutines occupy.
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

// admit reports whether this wait may spin. If so it adds 1 to spinners, and the caller has to
// subtract it.
func (s *Spin) admit() bool {
	if spinTrial.off.Load() {
		return false
	}
	if s.skip > 0 {
		s.skip--
		return false
	}
	if !spinning {
		return false
	}
	if s.waits%64 == 0 || maxSpinners.Load() < 0 {
		maxSpinners.Store(int32(runtime.GOMAXPROCS(0) - 1)) // GOMAXPROCS may change
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

// fastPoll looks without yielding, unless that failed in one of the last fastRetry waits. It
// reports whether ready became true.
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

// poll looks and yields in turns, for spinTime at most. It reports whether ready became
// true, and how long that took. After takeOverAfter looks it takes p over.
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

// learn decides how many of the following waits are skipped: none if spinning has paid in
// this one, and otherwise twice as many as after the last failure.
func (s *Spin) learn(paid bool) {
	if paid {
		s.failures = 0
		return
	}
	s.failures = min(max(2*s.failures, 1), spinRetry)
	s.skip = s.failures
}

// A takeover is what a spinning goroutine does on the worker's behalf.
type takeover struct {
	poller Poller        // may be nil
	active bool          // between begin and end, if the poller could be taken over
	maxGap time.Duration // the longest time between two looks, also before begin
}

// begin takes the poller over, if there is one and it can be taken over.
func (t *takeover) begin() { t.active = t.poller != nil && t.poller.takeOver() }

// deliver delivers some of the events that were posted, if the poller was taken over.
func (t *takeover) deliver() {
	if t.active {
		t.poller.deliver()
	}
}

// end gives the poller back, if it was taken over.
func (t *takeover) end() {
	if t.active {
		t.poller.giveBack(t.maxGap)
	}
}
