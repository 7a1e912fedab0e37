//go:build linux

package main

import (
	"strings"
	"testing"
)

// memoryReport has the shared memory of a connection in two rows, the smaller one with the CPUs at two
// places.
func memoryReport(small, large float64) *report {
	r := new(report)
	add := func(workload string, p placement, shared float64) {
		r.Records = append(r.Records, record{Workload: workload, Transport: ct, Placement: p,
			sample: sample{Metrics: map[string]float64{"shared": shared}}})
	}
	add("conns-of-10000", oneL3, small-10)
	add("conns-of-10000", apart, small+10)
	add("conns-of-100000", apart, large)
	return r
}

func TestPredictions(t *testing.T) {
	for _, test := range []struct {
		large float64
		want  string
	}{
		{8832, "as predicted"}, {8000, "as predicted"}, {10_100, "as predicted"}, {7400, "DIFFERS"}, {10_300, "DIFFERS"},
	} {
		var out strings.Builder
		if err := memoryReport(8832, test.large).printPredictions(&out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if last := lines[len(lines)-1]; len(lines) != 4 || !strings.Contains(last, " 883200000 ") ||
			!strings.Contains(last, figure(test.large*100_000)) || !strings.Contains(last, test.want) {
			t.Errorf("%v: not %q:\n%s", test.large, test.want, &out)
		}
	}
	var out strings.Builder
	r := memoryReport(8832, 8832)
	r.Records = r.Records[:2]
	if err := r.printPredictions(&out); err != nil || out.Len() > 0 {
		t.Errorf("a prediction of what was not measured: %v\n%s", err, &out)
	}
	for _, p := range predictions {
		if workloadNamed(p.workload) == nil || workloadNamed(p.from) == nil || metrics[p.metric].title == "" {
			t.Errorf("%+v: no such row or figure", p)
		}
	}
}

func TestFootprint(t *testing.T) {
	a, b := Footprint{10, 20, 30, 40, 50, 60}, Footprint{1, 2, 3, 4, 5, 6}
	if got, want := a.plus(b), (Footprint{11, 22, 33, 44, 55, 66}); got != want {
		t.Errorf("sum %v, want %v", got, want)
	}
	if got, want := a.minus(b), (Footprint{9, 18, 27, 36, 45, 54}); got != want {
		t.Errorf("difference %v, want %v", got, want)
	}
	f, err := footprint()
	if err != nil {
		t.Fatal(err)
	}
	if f.Private <= 0 || f.PageTables <= 0 || f.Mappings <= 0 || f.FDs <= 0 || f.Goroutines <= 0 {
		t.Errorf("something is missing: %+v", f)
	}
}
