//go:build linux

package main

import (
	"slices"
	"sort"

	"golang.org/x/perf/benchmath"
)

const (
	// alpha bounds how often a run says that something is worse by more than the bound, if nothing is.
	alpha = 0.05

	// A figure looks worse, and is measured again, if the first samples differ with a p below this. It
	// does not enter into the rate of false alarms, only into how long a run takes.
	suspicion = 0.1

	// again is how many times as many rounds there are then.
	again = 3

	// minRounds is the least number of rounds with which U can have a p below suspicion.
	minRounds = 4

	// confidence is that of the intervals in the table.
	confidence = 0.95
)

// figures are the metrics that are compared, and whether more is better. Others are left out: the tails
// of latencies differ from sample to sample by more than any code changes, and the rest says
// how much there was to do.
var figures = map[string]bool{
	"ops":        true,
	"gbs":        true,
	"burn":       true,
	"p50":        false,
	"cpu":        false,
	"cpugb":      false,
	"busy":       false,
	"private":    false,
	"shared":     false,
	"fds":        false,
	"goroutines": false,
	"kept":       false,
}

// compared reports whether a metric of a sample is compared. How busy the CPUs are is a cost where the
// work is given, as nothing to do is, and otherwise follows from the work done.
func compared(metric string, s sample) bool {
	_, known := figures[metric]
	_, perOp := s.Metrics["cpu"]
	return known && !(metric == "busy" && perOp)
}

// A comparison is about one figure of both versions.
type comparison struct {
	old, new benchmath.Summary
	p        float64 // that they are the same
	n        int     // samples of each
	higher   bool    // is better
}

func compare(old, new []float64, higher bool) comparison {
	a, b := sampleOf(old), sampleOf(new)
	return comparison{
		benchmath.AssumeNothing.Summary(a, confidence),
		benchmath.AssumeNothing.Summary(b, confidence),
		benchmath.AssumeNothing.Compare(a, b).P,
		min(len(old), len(new)),
		higher,
	}
}

func sampleOf(values []float64) *benchmath.Sample {
	// NewSample sorts.
	return benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
}

// ratio is the new figure relative to the old one.
func (c comparison) ratio() float64 {
	if c.old.Center == c.new.Center {
		return 1 // also of 0
	}
	return c.new.Center / c.old.Center
}

// beyond reports whether the new median is worse by more than a bound.
func (c comparison) beyond(bound float64) bool {
	if c.higher {
		return c.new.Center < c.old.Center*(1-bound)
	}
	return c.new.Center > c.old.Center*(1+bound)
}

// suspicious reports whether the figure is to be measured again.
func (c comparison) suspicious(bound float64) bool { return c.beyond(bound) && c.p < suspicion }

// worseBy is the p-value of the new figure's being no worse than by the bound: what the old
// version would have if it were worse by just the bound is compared with what the new one has. It is 1
// if the new one is not beyond that. As U is asked for a difference in either direction, and only
// one of them counts, the true value is half of it.
func worseBy(old, new []float64, higher bool, bound float64) float64 {
	if higher {
		bound = -bound
	}
	moved := slices.Clone(old)
	for i := range moved {
		moved[i] *= 1 + bound
	}
	if c := compare(moved, new, higher); c.beyond(0) {
		return c.p
	}
	return 1
}

// holm reports which of some hypotheses are rejected, by their p-values, so that with a
// probability of alpha at most any one is rejected that holds.
func holm(p []float64) []bool {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return p[order[a]] < p[order[b]] })
	rejected := make([]bool, len(p))
	for i, k := range order {
		if p[k]*float64(len(p)-i) >= alpha {
			break
		}
		rejected[k] = true
	}
	return rejected
}

// medianOf is the median of some values, at least one.
func medianOf(values []float64) float64 {
	return benchmath.AssumeNothing.Summary(sampleOf(values), confidence).Center
}
