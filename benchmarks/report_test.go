//go:build linux

package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{5, 1, 3}, 3},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
		if !slices.Equal(test.values, before) {
			t.Errorf("median has changed %v to %v", before, test.values)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

func TestPlacement(t *testing.T) {
	for us, want := range map[float64]placement{
		0: unknown, 0.05: oneCore, 0.0799: oneCore, 0.08: oneL3, 0.12: oneL3, 0.25: apart, 0.53: apart,
	} {
		if got := placementOf(us); got != want {
			t.Errorf("%v us is %s, want %s", us, got, want)
		}
	}
}

func TestFigure(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.0834: "0.083", 0.3: "0.300", 1: "1.00", 12.34: "12.3", 123.4: "123", 1234567: "1234567", math.NaN(): "-",
	} {
		if got := figure(x); got != want {
			t.Errorf("%v is printed %q, want %q", x, got, want)
		}
	}
}

// sampleReport has round trips near and far, of which one does not count.
func sampleReport() *report {
	r := &report{
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Machine: machine{CPU: "a CPU", CPUs: 2, Used: []int{0, 1}, Kernel: "a kernel", Go: "a Go"},
		Rounds:  3,
		Seconds: 1,
	}
	add := func(trip float64, dropped bool, transport string, p50 float64) {
		rec := record{
			Workload: "rtt", Transport: transport, Round: 1,
			Placement: placementOf(trip), Before: trip, After: trip, Dropped: dropped,
			sample: sample{Metrics: map[string]float64{"p50": p50, "p99": 2 * p50, "ops": 1e6 / p50, "cpu": p50}},
		}
		for i := range curvePercentiles {
			rec.Curve = append(rec.Curve, p50*float64(1+i))
		}
		r.Records = append(r.Records, rec)
	}
	for _, x := range []float64{1, 2, 3} {
		add(0.1, false, tcp, 20*x)
		add(0.1, false, ct, 0.2*x)
		add(0.5, false, tcp, 20*x)
		add(0.5, false, ct, x)
	}
	add(0.5, true, ct, 1000)
	return r
}

func TestVerdicts(t *testing.T) {
	type key struct {
		what string
		p    placement
	}
	got := make(map[key]verdict)
	for _, v := range sampleReport().verdicts() {
		got[key{v.What, v.Placement}] = v
	}
	for _, want := range []verdict{
		{"rtt", "p50 us, times better than tcp's", oneL3, 3, false, 50, 100, true},
		{"rtt", "p50 us, times better than tcp's", apart, 3, false, 25, 20, false},
		{"rtt", "p50, relative to the core-to-core round trip", oneL3, 3, true, 3, 4, false},
		{"rtt", "p99 us, times better than tcp's", oneL3, 3, false, 50, 100, true},
	} {
		v := got[key{want.What, want.Placement}]
		if math.Abs(v.Figure-want.Figure) > 1e-9 {
			t.Errorf("%s, %s: figure %v, want %v", want.What, want.Placement, v.Figure, want.Figure)
		}
		v.Figure = want.Figure
		if v != want {
			t.Errorf("got %+v\nwant %+v", v, want)
		}
	}
	// Nothing is said about what was not measured.
	for k := range got {
		if strings.Contains(k.what, "unix") || got[k].Workload != "rtt" {
			t.Errorf("a verdict on what was not measured: %+v", got[k])
		}
	}
}

func TestSteady(t *testing.T) {
	r := &report{}
	add := func(name string, ops float64) {
		r.Records = append(r.Records, record{
			Workload: name, Transport: ct, Placement: oneL3,
			sample: sample{Metrics: map[string]float64{"ops": ops}},
		})
	}
	v := view{r, oneL3}
	b := steady("scale-", "", []int{1, 10, 100})
	add("scale-1", 100)
	add("scale-10", 90)
	if got := b.figure(v); !math.IsNaN(got) {
		t.Errorf("one is missing, but the figure is %v", got)
	}
	add("scale-100", 120)
	if got := b.figure(v); got != 0.9 {
		t.Errorf("got %v, want 0.9", got)
	}
}

func TestPrint(t *testing.T) {
	r := sampleReport()
	r.Failures = []failure{{"http-1", ct, "no answer", false}, {"idle", shm, "too many", true}}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"a CPU, 2 CPUs (used: 0 1), a kernel, a Go, 2026-01-02",
		"13 samples, 1 of them dropped",
		"one L3: core-to-core round trip 0.10 us",
		"different L3s: core-to-core round trip 0.50 us",
		"BROKEN: http-1 over ct: no answer",
		"not possible: idle over shmipc: too many",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	// ct's row with the CPUs near: the figures, no p99.9, ratios, rounds.
	fields := []string{"ct", "0.400", "0.800", "-", "2500000", "0.400", "100x", "-", "3"}
	if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		return slices.Equal(strings.Fields(line), fields)
	}) {
		t.Errorf("no row %v in\n%s", fields, text)
	}
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.json")
	r := sampleReport()
	if err := r.writeJSON(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Bars []verdict }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(file.Bars, r.verdicts()) {
		t.Errorf("the file has the bars %+v", file.Bars)
	}
	twice, err := merged([]string{path, path})
	if err != nil {
		t.Fatal(err)
	}
	if len(twice.Records) != 2*len(r.Records) || twice.Rounds != 2*r.Rounds {
		t.Errorf("merged with itself: %d rounds, %d records", twice.Rounds, len(twice.Records))
	}
	near := view{twice, oneL3}
	if got := near.median("rtt", ct, "p50"); got != 0.4 {
		t.Errorf("median of both is %v, want 0.4", got)
	}
	if got := len(latencies(near, ct)); got == 0 {
		t.Error("the curves are lost")
	}
}

func TestDraw(t *testing.T) {
	dir := t.TempDir()
	if err := sampleReport().draw(dir); err != nil {
		t.Fatal(err)
	}
	// Of the others there are not two points.
	for _, name := range []string{"latency-one-l3.svg", "latency-different-l3s.svg"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "<svg") || !strings.Contains(string(b), ">ct<") {
			t.Errorf("%s is not a chart with ct's line", name)
		}
	}
}

// TestList looks for mistakes in the list of workloads.
func TestList(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range workloads {
		if seen[w.name] {
			t.Errorf("%s is there twice", w.name)
		}
		seen[w.name] = true
		if w.serve == nil || w.run == nil || w.title == "" {
			t.Errorf("%s is not complete", w.name)
		}
		for _, name := range w.over {
			if transportNamed(name) == nil {
				t.Errorf("%s: no transport %s", w.name, name)
			}
		}
		for _, m := range w.columns {
			if metrics[m].title == "" {
				t.Errorf("%s: no metric %s", w.name, m)
			}
		}
	}
	for _, b := range bars {
		if !slices.ContainsFunc(workloads, func(w *workload) bool { return selected(b.workload, w.name) }) {
			t.Errorf("a bar for %s, which is not there", b.workload)
		}
	}
}
