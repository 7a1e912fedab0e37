//go:build linux

// Command benchmarks measures ctnet beside what else connects programs on one
// machine: every workload over every transport, the server and the client in
// processes of their own, transports in turn within each round.
//
//	go run -C benchmarks .                     all of it, about forty minutes
//	go run -C benchmarks . -quick              whether all of it works, in less than two minutes
//	go run -C benchmarks . -list               what there is
//	go run -C benchmarks . -workloads rtt,http-* -transports tcp,ct
//	go run -C benchmarks . -json run.json -svg charts > table.txt
//	go run -C benchmarks . -merge run.json,run2.json    both in one table
//
// It measures the machine too: the round trip between the two CPUs before and after
// each sample, which tells where they are, and in C what a round trip and a copy
// could be at best. A sample during which the CPUs moved is dropped and taken again.
// Figures are medians of the rounds with the CPUs at the same places.
//
// Both processes are kept on two CPUs, also on larger machines.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"os"
	"os/signal"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("benchmarks: ")
	var o options
	child := flag.String("child", "", "used by the command itself: `role` of a process")
	task := flag.String("task", "", "used by the command itself: its task")
	list := flag.Bool("list", false, "list workloads and transports")
	flag.BoolVar(&o.quick, "quick", false, "a short run that shows whether all works")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each workload")
	flag.Float64Var(&o.seconds, "seconds", 1, "how long a sample takes")
	flag.StringVar(&o.workloads, "workloads", "*", "names or patterns, separated by commas")
	flag.StringVar(&o.transports, "transports", "*", "names or patterns, separated by commas")
	flag.StringVar(&o.cpus, "cpus", "", "the two CPUs to use, as in 0,1; the first two by default")
	flag.StringVar(&o.json, "json", "", "write all that was measured to this `file`")
	flag.StringVar(&o.svg, "svg", "", "draw charts into this `directory`")
	flag.StringVar(&o.merge, "merge", "", "measure nothing and report on these JSON `files`, separated by commas")
	flag.Parse()
	var err error
	switch {
	case *child != "":
		err = runChild(*child, *task)
	case *list:
		err = printList(os.Stdout)
	case o.merge != "":
		err = o.report(merged(strings.Split(o.merge, ",")))
	default:
		err = o.report(o.run())
	}
	if err != nil {
		log.Fatal(err)
	}
}

// options are the command's flags.
type options struct {
	quick                 bool
	rounds                int
	seconds               float64
	workloads, transports string
	cpus                  string
	json, svg, merge      string
}

func printList(w io.Writer) error {
	for _, x := range workloads {
		fmt.Fprintf(w, "%-16s %s\n", x.name, x.title)
	}
	fmt.Fprintln(w)
	for _, t := range transports {
		fmt.Fprintf(w, "%-16s %s\n", t.name, t.title)
	}
	_, err := fmt.Fprintf(w, "%-16s %s\n", cRing, cTitle)
	return err
}

const cTitle = "two spinning threads in C, as the machine's limit"

// selected reports whether a list of patterns has a name.
func selected(patterns, name string) bool {
	for p := range strings.SplitSeq(patterns, ",") {
		if ok, err := path.Match(strings.TrimSpace(p), name); ok && err == nil {
			return true
		}
	}
	return false
}

// chooseCPUs returns the two CPUs to use, or the only one there is.
func (o *options) chooseCPUs() ([]int, error) {
	if o.cpus == "" {
		cpus, err := allowedCPUs()
		return cpus[:min(2, len(cpus))], err
	}
	var cpus []int
	for s := range strings.SplitSeq(o.cpus, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("-cpus: %w", err)
		}
		cpus = append(cpus, n)
	}
	if len(cpus) != 2 || cpus[0] == cpus[1] {
		return nil, errors.New("-cpus: not two CPUs")
	}
	return cpus, nil
}

// How long a quick run goes on, and a sample may take: together less than two
// minutes, also if the last sample hangs.
const (
	quickTime   = 95 * time.Second
	quickSample = 15 * time.Second
)

// retries is how often a sample is taken again because the CPUs moved.
const retries = 3

func (o *options) run() (*report, error) {
	if o.quick {
		o.rounds, o.seconds = 1, 0.08
	}
	if o.rounds < 1 || o.seconds <= 0 {
		return nil, errors.New("nothing to measure")
	}
	cpus, err := o.chooseCPUs()
	if err != nil {
		return nil, err
	}
	// Children inherit the CPUs of the thread that starts them, and die with it.
	runtime.LockOSThread()
	if err := pinThread(cpus...); err != nil {
		return nil, fmt.Errorf("CPUs %v: %w", cpus, err)
	}
	l, err := newLimits(cpus)
	if err != nil {
		return nil, err
	}
	defer l.close()
	r := &report{
		Started: time.Now().UTC().Truncate(time.Second),
		Machine: thisMachine(cpus),
		Rounds:  o.rounds,
		Seconds: o.seconds,
		Quick:   o.quick,
	}
	m := &runner{o: o, limits: l, report: r}
	// The signal ends the children, and what they were doing fails.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	go func() {
		<-signals
		m.interrupted.Store(true)
	}()
	return r, m.run()
}

// report writes what is asked for.
func (o *options) report(r *report, err error) error {
	if err != nil && (r == nil || len(r.Records) == 0) {
		return err
	}
	// What an interrupted run has measured is worth something too.
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if o.json != "" {
		if err := r.writeJSON(o.json); err != nil {
			return err
		}
	}
	if o.svg != "" {
		if err := r.draw(o.svg); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	broken := 0
	for _, f := range r.Failures {
		if !f.Foreign {
			broken++
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d broken: see above", broken)
	}
	return nil
}

// A runner takes the samples.
type runner struct {
	o        *options
	limits   *limits
	report   *report
	progress progress
	trip     float64 // the last one measured

	interrupted atomic.Bool
}

// A step is one workload over one transport.
type step struct {
	w         *workload
	transport string
}

func (m *runner) run() error {
	var steps [][]step
	for _, w := range workloads {
		if !selected(m.o.workloads, w.name) || m.o.quick && w.long {
			continue
		}
		var of []step
		for _, name := range w.over {
			if selected(m.o.transports, name) {
				of = append(of, step{w, name})
			}
		}
		if w.limit != nil && m.limits.program != "" && selected(m.o.transports, cRing) {
			of = append(of, step{w, cRing})
		}
		if len(of) > 0 {
			steps = append(steps, of)
		}
		m.progress.total += len(of) * m.o.rounds
	}
	if len(steps) == 0 {
		return errors.New("no workload and transport selected; see -list")
	}
	m.progress.start()
	defer m.progress.end()
	for _, of := range steps {
		broken := make(map[string]bool)
		for round := range m.o.rounds {
			// Each round begins with another one.
			for i := range of {
				s := of[(i+round)%len(of)]
				if m.o.quick && time.Since(m.progress.began) > quickTime {
					m.report.Skipped++
					continue
				}
				m.progress.at(s, round, m.o.rounds, m.trip)
				if broken[s.transport] {
					continue
				}
				if m.interrupted.Load() {
					return errors.New("interrupted")
				}
				if err := m.take(s, round); err != nil {
					broken[s.transport] = true
					if m.interrupted.Load() {
						return errors.New("interrupted")
					}
					m.progress.failed(s, err)
					what, _, _ := strings.Cut(err.Error(), "\n")
					t := transportNamed(s.transport)
					m.report.Failures = append(m.report.Failures,
						failure{s.w.name, s.transport, what, t != nil && t.foreign})
				}
			}
		}
	}
	return nil
}

// take adds a sample to the report, and those that were taken while the CPUs moved.
func (m *runner) take(s step, round int) error {
	tries := 1 + retries
	if m.o.quick {
		tries = 1
	}
	for range tries {
		if m.trip == 0 {
			if err := m.look(); err != nil {
				return err
			}
		}
		rec := record{Workload: s.w.name, Transport: s.transport, Round: round + 1, Before: m.trip}
		before := loadOf(m.limits.cpus)
		var err error
		if s.transport == cRing {
			rec.sample, err = s.w.limit(m.limits, m.o.seconds)
		} else {
			rec.sample, err = m.measure(s)
		}
		if err != nil {
			return err
		}
		rec.Others = loadOf(m.limits.cpus).since(before, len(m.limits.cpus))
		if err := m.look(); err != nil {
			return err
		}
		rec.After = m.trip
		// What can't be told, such as a share of nothing, is not in the report.
		maps.DeleteFunc(rec.Metrics, func(_ string, x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
		rec.Placement = placementOf(rec.Before)
		rec.Dropped = rec.Placement != placementOf(rec.After)
		m.report.Records = append(m.report.Records, rec)
		if !rec.Dropped {
			break
		}
	}
	return nil
}

func (m *runner) measure(s step) (sample, error) {
	t := task{
		Workload:  s.w.name,
		Transport: s.transport,
		Seconds:   m.o.seconds,
		Quick:     m.o.quick,
	}
	limit := quickSample
	if !m.o.quick {
		t.Seconds = max(t.Seconds, s.w.atLeast)
		limit = time.Minute + time.Duration(5*t.Seconds*1e9)
	}
	return measure(t, limit)
}

func (m *runner) look() (err error) {
	m.trip, err = m.limits.trip()
	return err
}
