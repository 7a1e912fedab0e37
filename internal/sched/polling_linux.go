package sched

import (
	"sync/atomic"
	"time"
)

// A workerState is what a worker does.
type workerState uint8

const (
	workerStopped workerState = iota // it has no sources, and no goroutine
	workerAwake                      // it polls its sources
	workerAsleep                     // it polls them again when it was rung
)

// A polling says whether anybody polls a worker's sources: the worker, or a spinning
// goroutine on its behalf. It owns the sleep word, which tells the peers: it is odd if
// nobody polls, and then a peer that posts an event has to ring.
//
//	worker    taken over   word   who polls
//	stopped   no           even   nobody, as there are no sources
//	awake     no           even   the worker
//	asleep    no           odd    nobody, until a peer rings
//	stopped   yes          even   the spinning goroutine, which finds no sources
//	awake     yes          even   both; the delivery lock has them alternate
//	asleep    yes          even   the spinning goroutine
//
// These are all transitions:
//
//	call                      of                     worker             taken over
//	setWorker(workerAwake)    Worker.Add             stopped -> awake   -
//	setWorker(workerAsleep)   Worker.park            awake -> asleep    -
//	setWorker(workerAwake)    Worker.park            asleep -> awake    -
//	setWorker(workerStopped)  Worker.stop            awake -> stopped   -
//	takeOver                  a spinning goroutine   awake or asleep    no -> yes
//	giveBack                  the same goroutine     -                  yes -> no
//
// Two of them can make the word odd: setWorker(workerAsleep) and giveBack. Their callers
// look at the bitmaps once more afterwards. Models: sleep.pml, source.pml.
//
// Worker.mu guards all fields. Peers load the word, and nothing else.
type polling struct {
	// word is the sleep word. It counts, so each sleep has a number of its own.
	word *atomic.Uint32

	worker          workerState
	takenOver       bool
	noTakeoverUntil time.Time
}

// A spinning goroutine that polls on a worker's behalf may yield to a goroutine that
// calculates, or its thread may lose the CPU. If it did not look for longer than
// tolerableGap, events had to wait for it, for which the worker would have been woken. So
// nobody polls on this worker's behalf for gapPenalty times as long.
const (
	tolerableGap = spinTime
	gapPenalty   = 10
)

// setWorker says what the worker does from now on.
func (p *polling) setWorker(s workerState) {
	p.worker = s
	p.announce()
}

// takeOver has the caller poll on the worker's behalf, until giveBack. It reports false,
// and does nothing, if that is not to be had.
func (p *polling) takeOver() bool {
	if p.worker == workerStopped || p.takenOver || time.Now().Before(p.noTakeoverUntil) {
		return false
	}
	p.takenOver = true
	p.announce()
	return true
}

// giveBack ends what takeOver began. maxGap is the longest time for which the caller did
// not look.
func (p *polling) giveBack(maxGap time.Duration) {
	p.takenOver = false
	p.announce()
	if maxGap > tolerableGap {
		p.noTakeoverUntil = time.Now().Add(gapPenalty * maxGap)
	}
}

// announce makes the word say what the flags say. A change pairs with the load in
// [Remote.Post]: a peer sets the bit and loads the word, whoever makes the word odd looks
// for bits afterwards.
func (p *polling) announce() {
	nobody := p.worker == workerAsleep && !p.takenOver
	if odd := p.word.Load()&1 != 0; odd != nobody {
		p.word.Add(1)
	}
}
