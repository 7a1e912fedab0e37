//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A report is all that a run has measured.
type report struct {
	Started  time.Time `json:"started"`
	Machine  machine   `json:"machine"`
	Rounds   int       `json:"rounds"`
	Seconds  float64   `json:"seconds"`
	Quick    bool      `json:"quick,omitempty"`
	Skipped  int       `json:"skipped,omitempty"` // samples for which a quick run had no time
	Records  []record  `json:"records"`
	Failures []failure `json:"failures,omitempty"`
}

type machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Used   []int  `json:"used"` // CPUs
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// A record is a sample with the circumstances.
type record struct {
	Workload  string    `json:"workload"`
	Transport string    `json:"transport"`
	Round     int       `json:"round"`
	Placement placement `json:"placement"`
	Before    float64   `json:"before"` // core-to-core round trip, us
	After     float64   `json:"after"`
	Dropped   bool      `json:"dropped,omitempty"` // the CPUs have moved
	Others    float64   `json:"others"`            // share of the CPUs that other programs had
	sample
}

type failure struct {
	Workload  string `json:"workload"`
	Transport string `json:"transport"`
	Error     string `json:"error"`
	Foreign   bool   `json:"foreign,omitempty"` // no fault of the command's or of ctnet's
}

func thisMachine(used []int) machine {
	m := machine{CPU: cpuModel(), CPUs: runtime.NumCPU(), Used: used, Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	return m
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func (r *report) writeJSON(path string) error {
	b, err := json.MarshalIndent(struct {
		*report
		Bars []verdict `json:"bars"`
	}{r, r.verdicts()}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o666)
}

// merged reads reports and makes one of them: the CPUs may have been elsewhere in
// another run.
func merged(paths []string) (*report, error) {
	var all *report
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		r := new(report)
		if err := json.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if all == nil {
			all = r
			continue
		}
		if !reflect.DeepEqual(r.Machine, all.Machine) || r.Seconds != all.Seconds || r.Quick != all.Quick {
			return nil, fmt.Errorf("%s is of another machine or of other rounds than %s", path, paths[0])
		}
		all.Rounds += r.Rounds
		all.Skipped += r.Skipped
		all.Records = append(all.Records, r.Records...)
		all.Failures = append(all.Failures, r.Failures...)
	}
	return all, nil
}

// median returns the middle value, or the mean of the two in the middle.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// A view is the report's part with the CPUs at certain places.
type view struct {
	r *report
	p placement
}

// views has those placements that occurred.
func (r *report) views() (all []view) {
	for _, p := range placements {
		v := view{r, p}
		if slices.ContainsFunc(r.Records, func(rec record) bool { return v.has(&rec) }) {
			all = append(all, v)
		}
	}
	return all
}

func (v view) has(rec *record) bool { return rec.Placement == v.p && !rec.Dropped }

// values returns what the rounds have measured.
func (v view) values(workload, transport, metric string) (all []float64) {
	for i := range v.r.Records {
		rec := &v.r.Records[i]
		if rec.Workload == workload && rec.Transport == transport && v.has(rec) {
			if x, ok := rec.Metrics[metric]; ok {
				all = append(all, x)
			}
		}
	}
	return all
}

// median is NaN if there are no values.
func (v view) median(workload, transport, metric string) float64 {
	return median(v.values(workload, transport, metric))
}

// trip is the median of the round trips between the CPUs.
func (v view) trip() float64 {
	var all []float64
	for i := range v.r.Records {
		if rec := &v.r.Records[i]; v.has(rec) {
			all = append(all, rec.Before, rec.After)
		}
	}
	return median(all)
}

// times returns how many times better a transport is than another one, NaN if it
// can't be told.
func (v view) times(workload, transport, base, metric string) float64 {
	a, b := v.median(workload, transport, metric), v.median(workload, base, metric)
	if !metrics[metric].higher {
		a, b = b, a
	}
	if b == 0 {
		return math.NaN()
	}
	return a / b
}

// print writes the tables.
func (r *report) print(out io.Writer) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "%s, %d CPUs (used: %s), %s, %s, %s\n", r.Machine.CPU, r.Machine.CPUs,
		strings.Trim(fmt.Sprint(r.Machine.Used), "[]"), r.Machine.Kernel, r.Machine.Go, r.Started.Format(time.DateOnly))
	dropped := 0
	var others []float64
	for _, rec := range r.Records {
		others = append(others, 100*rec.Others)
		if rec.Dropped {
			dropped++
		}
	}
	fmt.Fprintf(w, "%d rounds of %v s; %d samples, %d of them dropped because the CPUs moved meanwhile\n",
		r.Rounds, r.Seconds, len(r.Records), dropped)
	if len(others) > 0 {
		fmt.Fprintf(w, "Other programs had %s %% of the CPUs (median of the samples; at most %s %%).\n",
			figure(median(others)), figure(slices.Max(others)))
		if median(others) > 3 {
			fmt.Fprintln(w, "WARNING: the machine was not idle, so the figures mean little.")
		}
	}
	for _, t := range transports {
		fmt.Fprintf(w, "  %-8s %s\n", t.name, t.title)
	}
	fmt.Fprintf(w, "  %-8s %s\n", cRing, cTitle)
	if r.Quick {
		fmt.Fprintln(w, "A quick run: this shows that the workloads work, the figures mean nothing.")
	}
	if r.Skipped > 0 {
		fmt.Fprintf(w, "Out of time: %d samples were not taken.\n", r.Skipped)
	}
	for _, v := range r.views() {
		fmt.Fprintf(w, "\n==== %s: core-to-core round trip %.2f us ====\n", v.p, v.trip())
		for _, x := range workloads {
			if err := v.printWorkload(w, x); err != nil {
				return err
			}
		}
	}
	if err := r.printBars(w); err != nil {
		return err
	}
	if err := r.printPredictions(w); err != nil {
		return err
	}
	for _, f := range r.Failures {
		how := "BROKEN"
		if f.Foreign {
			how = "not possible"
		}
		fmt.Fprintf(w, "\n%s: %s over %s: %s\n", how, f.Workload, f.Transport, f.Error)
	}
	return w.Flush()
}

func (v view) printWorkload(out io.Writer, x *workload) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	columns := x.columns
	over := slices.Clone(x.over)
	if x.limit != nil {
		over = append(over, cRing)
	}
	rows := 0
	for _, name := range over {
		n := len(v.values(x.name, name, columns[0]))
		if n == 0 {
			continue
		}
		if rows == 0 {
			fmt.Fprintf(out, "\n%s: %s\n", x.name, x.title)
			fmt.Fprint(w, "\t")
			for _, m := range columns {
				fmt.Fprint(w, metrics[m].title, "\t")
			}
			fmt.Fprint(w, "to tcp\tto unix\trounds\t\n")
		}
		rows++
		fmt.Fprint(w, name, "\t")
		for _, m := range columns {
			fmt.Fprint(w, figure(v.median(x.name, name, m)), "\t")
		}
		for _, base := range []string{tcp, unixes} {
			fmt.Fprint(w, ratio(v.times(x.name, name, base, columns[0])), "\t")
		}
		fmt.Fprint(w, n, "\t\n")
	}
	return w.Flush()
}

// figure prints three significant digits, or the whole number if that is longer.
func figure(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "-"
	case a >= 100 || x == 0:
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func ratio(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "-"
	}
	return figure(x) + "x"
}

func (r *report) printBars(out io.Writer) error {
	all := r.verdicts()
	if len(all) == 0 {
		return nil
	}
	fmt.Fprint(out, "\n==== bars ====\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "workload\tctnet's\tplacement\trounds\tbar\tfigure\t")
	for _, v := range all {
		reached := "not reached"
		if v.Reached {
			reached = "reached"
		}
		sign := "at least"
		if v.AtMost {
			sign = "at most"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s %s\t%s\t%s\n", v.Workload, v.What, v.Placement,
			v.Rounds, sign, figure(v.Bar), figure(v.Figure), reached)
	}
	return w.Flush()
}
