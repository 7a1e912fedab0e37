//go:build linux

package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// A sample is what one round of a workload has measured, by the names of metrics.
type sample struct {
	Metrics map[string]float64 `json:"metrics"`
	// Curve has the latencies in microseconds at curvePercentiles.
	Curve []float64 `json:"curve,omitempty"`
}

// curvePercentiles are the points of the latency chart: each has half as many
// operations above it as the one before.
var curvePercentiles = func() (p []float64) {
	for above := 100.0; above > 0.0005; above /= 2 {
		p = append(p, 100-above)
	}
	return p
}()

// A reading is the state of the counters at one moment.
type reading struct {
	at     time.Time
	cpu    time.Duration // of client and server
	burned float64
}

func (c *client) read() (r reading, err error) {
	if r.burned, err = c.burned(); err != nil {
		return r, err
	}
	r.cpu = processCPU(0)
	for _, pid := range []int{c.serverPID, c.proxyPID} {
		if pid != 0 {
			r.cpu += processCPU(pid)
		}
	}
	r.at = time.Now()
	return r, nil
}

// processCPU is what a process has used; 0 is this one. The kernel's clocks of
// processes are exact where the times in /proc are counted in ticks.
func processCPU(pid int) time.Duration {
	id := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		const cpuClockSched = 2
		id = ^int32(pid)<<3 | cpuClockSched
	}
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// A counter has a cache line of its own.
type counter struct {
	atomic.Int64
	_ [120]byte
}

// The phases of a measurement. What loops of a workload do before measuring has
// begun brings caches and adaptive waiting to where they stay.
const (
	warming = iota
	measuring
	stopping
)

// phases tells loops in which phase they are, and runs them through all.
type phases struct {
	now atomic.Int32

	// before and after, if there are, are called at either end of measuring.
	before, after func()

	// some is set when there is something to measure. Until then measuring goes
	// on: a short run on a busy machine takes longer and does not fail.
	some atomic.Bool

	mu  sync.Mutex
	err error
}

func (p *phases) stopped() bool { return p.now.Load() == stopping }

// fail ends the measurement with an error. The first one counts.
func (p *phases) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && err != nil {
		p.err = err
		p.now.Store(stopping)
	}
}

func (p *phases) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// run measures for the client's seconds and returns the readings at either end.
func (p *phases) run(c *client) (from, to reading) {
	p.sleep(max(c.Seconds/5, 0.03))
	from, err := c.read()
	p.fail(err)
	if p.before != nil {
		p.before()
	}
	p.advance(measuring)
	p.sleep(c.Seconds)
	for range 100 {
		if p.some.Load() {
			break
		}
		p.sleep(0.1)
	}
	if p.after != nil {
		p.after()
	}
	to, err = c.read()
	p.fail(err)
	p.advance(stopping)
	return from, to
}

// progress says that there is something to measure. It leaves the line alone if it
// is known.
func (p *phases) progress() {
	if !p.some.Load() {
		p.some.Store(true)
	}
}

func (p *phases) advance(phase int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.now.Store(phase)
	}
}

func (p *phases) sleep(seconds float64) {
	// In pieces, so that a workload which fails does so at once.
	for end := time.Now().Add(time.Duration(seconds * 1e9)); !p.stopped(); {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, 100*time.Millisecond))
	}
}

// drive does operations in a number of loops at once and measures each. open
// prepares a loop: op is its operation, close is called in the end.
func (c *client) drive(loops int, open func() (op func() error, close func(), err error)) (sample, error) {
	return c.drivePaced(loops, 0, open)
}

// drivePaced is drive with loops that begin an operation every so often.
func (c *client) drivePaced(loops int, pace time.Duration, open func() (op func() error, close func(), err error)) (sample, error) {
	ops := make([]func() error, loops)
	for i := range ops {
		op, done, err := open()
		if err != nil {
			return sample{}, fmt.Errorf("connection %d: %w", i+1, err)
		}
		defer done()
		ops[i] = op
	}
	// Two digits are fine enough for the sum of many, and save the caches.
	digits := 3
	if loops > 8 {
		digits = 2
	}
	var p phases
	hists := make([]*hdrhistogram.Histogram, loops)
	var wg sync.WaitGroup
	for i, op := range ops {
		hists[i] = newHistogram(digits)
		wg.Go(func() { p.fail(repeat(&p, op, pace, hists[i])) })
	}
	from, to := p.run(c)
	wg.Wait()
	if err := p.failed(); err != nil {
		return sample{}, err
	}
	hist := newHistogram(digits)
	for _, h := range hists {
		hist.Merge(h)
	}
	return summarize(hist, from, to)
}

func newHistogram(digits int) *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute), digits)
}

// repeat does an operation until measuring is over, and records the times of those
// that began while measuring.
func repeat(p *phases, op func() error, pace time.Duration, hist *hdrhistogram.Histogram) error {
	base := time.Now()
	next := time.Duration(0)
	for {
		if pace > 0 {
			// Not ahead of the time, and what was missed is not made up for.
			next = max(next+pace, time.Since(base))
			time.Sleep(next - time.Since(base))
		}
		phase := p.now.Load()
		if phase == stopping {
			return nil
		}
		// Since reads the monotonic clock alone, half the cost of Now.
		start := time.Since(base)
		if err := op(); err != nil {
			return err
		}
		took := time.Since(base) - start
		if phase == measuring {
			hist.RecordValue(int64(max(took, 1)))
			p.progress()
		}
	}
}

// summarize is the sample of operations whose times are in a histogram.
func summarize(hist *hdrhistogram.Histogram, from, to reading) (sample, error) {
	n := float64(hist.TotalCount())
	if n == 0 {
		return sample{}, fmt.Errorf("not one operation in %v", to.at.Sub(from.at))
	}
	seconds := to.at.Sub(from.at).Seconds()
	cpu := (to.cpu - from.cpu).Seconds()
	us := func(percentile float64) float64 {
		return float64(hist.ValueAtQuantile(percentile)) / 1e3
	}
	s := sample{Metrics: map[string]float64{
		"ops":  n / seconds,
		"p50":  us(50),
		"p99":  us(99),
		"p999": us(99.9),
		"cpu":  cpu * 1e6 / n,
		"busy": cpu / seconds * 100,
	}}
	if to.burned > from.burned {
		s.Metrics["burn"] = (to.burned - from.burned) / seconds / 1e6
	}
	for _, p := range curvePercentiles {
		s.Curve = append(s.Curve, us(p))
	}
	return s, nil
}
