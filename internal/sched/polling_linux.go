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
	workerAsleep                     // it polls them again after the next ring
)

// A polling says whether a worker's sources are polled, by the worker or by a spinning goroutine
// on its behalf. It owns the sleep word, which tells the peers: the word is odd if no goroutine
// polls, and then a peer that posts an event has to ring.
//
//	worker    taken over   word   polling goroutine
//	stopped   no           even   none, as there are no sources
//	awake     no           even   the worker
//	asleep    no           odd    none, until a peer rings
//	stopped   yes          even   the spinning goroutine, which finds no sources
//	awake     yes          even   both, one at a time: see Worker.delivery
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
// Worker.mu guards all fields, and every store to the word. Peers only load the word.
type polling struct {
	// word is the sleep word. It counts, so each sleep has a number of its own.
	word *atomic.Uint32

	// sleeps counts the sleeps that were announced.
	sleeps uint64

	worker          workerState
	takenOver       bool
	noTakeoverUntil time.Time
}

// A goroutine that polls on a worker's behalf may yield to a goroutine that calculates, or
// its thread may lose the CPU. Meanwhile events wait for which the worker would have been
// woken. After a gap of more than tolerableGap between two looks, no goroutine polls on this
// worker's behalf for gapPenalty times as long.
const (
	tolerableGap = spinTime
	gapPenalty   = 10
)

// setWorker says what the worker does from now on.
func (p *polling) setWorker(s workerState) {
	p.worker = s
	p.announce()
}

// takeOver says that the caller polls on the worker's behalf, until giveBack. It returns false,
// and does nothing, if the worker is stopped, if another goroutine polls on its behalf, or
// if a goroutine lately did so with too long a gap.
func (p *polling) takeOver() bool {
	if p.worker == workerStopped || p.takenOver || time.Now().Before(p.noTakeoverUntil) {
		return false
	}
	p.takenOver = true
	p.announce()
	return true
}

// giveBack undoes takeOver. maxGap is the longest time between two looks of the caller.
func (p *polling) giveBack(maxGap time.Duration) {
	p.takenOver = false
	p.announce()
	if maxGap > tolerableGap {
		p.noTakeoverUntil = time.Now().Add(gapPenalty * maxGap)
	}
}

// announce makes the word agree with the flags. The Add pairs with the load in
// [Remote.Post]: a peer sets the bit and then loads the word; a goroutine that makes the
// word odd looks at the bitmaps afterwards.
func (p *polling) announce() {
	asleep := p.worker == workerAsleep && !p.takenOver
	if odd := p.word.Load()&1 != 0; odd != asleep {
		if asleep {
			p.sleeps++
		}
		p.word.Add(1)
	}
}
