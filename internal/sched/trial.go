package sched

import (
	"sync/atomic"
	"time"
)

// Whether spinning pays is found out by trials. Where more threads want to run than there are CPUs, a
// goroutine that spins keeps others from running, often the very process for which it waits: in a
// chain of three processes on two CPUs each spins for its peer, and two at a time keep the third from
// working. No process can tell that from its own waits. So once a second all processes spin and
// do not spin in turns, for some milliseconds each, and count what they get done. For the rest of the
// second a process spins unless it got more done without.
//
// They take turns together, by the clock. If each tried for itself, none that waits for peers that sleep
// would find that spinning pays: it does if both do it. And where three spin it takes two that stop.
const (
	// ProgressOps is the number of operations of one half of an end for which Progress is called once.
	ProgressOps = 16

	// Windows are numbered, by the wall clock: the first trialWindows of each period are the trial.
	trialWindow  = 1 << 22 // ns, 4.2 ms
	trialPeriod  = 256     // windows, 1.07 s
	trialWindows = 6

	// trialLeast is how many calls of Progress a trial without spinning must have to count.
	trialLeast = 12
)

// A trial is what this process has found.
type trial struct {
	off atomic.Bool // goroutines don't spin, in this window

	// Of this trial: calls of Progress in windows with and without spinning. Goroutines add
	// to them, and the first one after the trial takes them.
	done  [2]atomic.Int64
	under atomic.Bool // a trial is under way, or nobody has looked at the results yet
	worse atomic.Bool // the process gets more done without spinning, says the last trial

	period atomic.Uint64 // of the last trial, when worse was decided
}

var spinTrial trial

// Progress says that ProgressOps operations are done, on connections with other processes.
func Progress() {
	if spinning {
		spinTrial.progress(time.Now().UnixNano())
	}
}

func (t *trial) progress(now int64) {
	period, window := uint64(now)/(trialWindow*trialPeriod), uint64(now)/trialWindow%trialPeriod
	if window < trialWindows {
		way := window % 2
		if off := way == 1; t.off.Load() != off {
			t.off.Store(off)
		}
		if !t.under.Load() {
			t.under.Store(true)
		}
		t.done[way].Add(1)
		return
	}
	if t.under.Load() && t.under.CompareAndSwap(true, false) {
		t.period.Store(period)
		t.decide()
	} else if t.off.Load() && t.period.Load() != period && t.worse.Swap(false) {
		t.off.Store(false) // it had nothing to do in the last trial
	}
}

// decide ends a trial. Of a program with little to do it tells nothing, and spinning is for the sake
// of its latency. What was found before stays until there is a clear difference.
func (t *trial) decide() {
	spin, none := t.done[0].Swap(0), t.done[1].Swap(0)
	switch {
	case none < trialLeast:
		t.worse.Store(false)
	case none > spin+spin/8:
		t.worse.Store(true)
	case none < spin:
		t.worse.Store(false)
	}
	t.off.Store(t.worse.Load())
}
