//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// A prediction is that a row's figure for each unit is that of a smaller row: what it stands for grows in
// proportion. docs/scale.md goes on from there to sizes that can't be measured here.
type prediction struct {
	workload, from string
	metric         string
	units          int
	tolerance      float64 // what the figures may differ by, relative to the smaller row's
}

var predictions = func() (all []prediction) {
	for _, metric := range []string{"private", "shared", "tables", "mappings"} {
		all = append(all, prediction{"conns-of-100000", "conns-of-10000", metric, 100_000, 0.15})
	}
	for _, metric := range []string{"private", "shared", "tables", "mappings", "fds", "goroutines"} {
		all = append(all, prediction{"pairs-of-1000", "pairs-of-100", metric, 1000, 0.15})
	}
	return all
}()

// holds reports whether a figure is as predicted.
func (p prediction) holds(predicted, measured float64) bool {
	return math.Abs(measured-predicted) <= p.tolerance*math.Abs(predicted)
}

// printPredictions prints those whose both rows were measured. Where the CPUs were does not matter to
// them.
func (r *report) printPredictions(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	some := false
	for _, p := range predictions {
		predicted := float64(p.units) * r.median(p.from, ct, p.metric)
		measured := float64(p.units) * r.median(p.workload, ct, p.metric)
		if math.IsNaN(predicted) || math.IsNaN(measured) {
			continue
		}
		if !some {
			fmt.Fprint(out, "\n==== predictions ====\n\n")
			fmt.Fprintln(w, "workload\tof all units\tpredicted from\tpredicted\tmeasured\tratio\ttolerance\t")
			some = true
		}
		verdict := "DIFFERS"
		if p.holds(predicted, measured) {
			verdict = "as predicted"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.0f %%\t%s\n", p.workload, metrics[p.metric].title, p.from,
			figure(predicted), figure(measured), figure(measured/predicted), 100*p.tolerance, verdict)
	}
	return w.Flush()
}

// median is that of the samples with the CPUs at any places.
func (r *report) median(workload, transport, metric string) float64 {
	var all []float64
	for _, p := range placements {
		all = append(all, view{r, p}.values(workload, transport, metric)...)
	}
	return median(all)
}
