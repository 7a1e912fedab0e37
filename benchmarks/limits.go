//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed c/ring.c
var ringSource []byte

// limits measures what the machine allows, with a C program if there is a compiler.
type limits struct {
	cpus    []int
	program string // "" if there is none
	dir     string
}

// newLimits builds the C program.
func newLimits(cpus []int) (*limits, error) {
	l := &limits{cpus: cpus}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	cc, err := exec.LookPath(cc)
	if err != nil || len(cpus) < 2 {
		return l, nil
	}
	if l.dir, err = os.MkdirTemp("", "benchmarks-c-"); err != nil {
		return nil, err
	}
	source := filepath.Join(l.dir, "ring.c")
	program := filepath.Join(l.dir, "ring")
	if err := os.WriteFile(source, ringSource, 0o600); err != nil {
		return l, err
	}
	if out, err := exec.Command(cc, "-O2", "-pthread", "-o", program, source).CombinedOutput(); err != nil {
		return l, fmt.Errorf("%s: %w\n%s", cc, err, out)
	}
	l.program = program
	return l, nil
}

func (l *limits) close() {
	if l.dir != "" {
		os.RemoveAll(l.dir)
	}
}

func (l *limits) run(what string, args ...any) (string, error) {
	all := []string{what, fmt.Sprint(l.cpus[0]), fmt.Sprint(l.cpus[1])}
	for _, a := range args {
		all = append(all, fmt.Sprint(a))
	}
	// Longer than any of it takes, even if the threads have the CPUs by turns.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.program, all...).Output()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("ring %s: %w", strings.Join(all, " "), err)
	}
	return string(out), err
}

// trip is the round trip between the two CPUs in microseconds; 0 if there is but
// one.
func (l *limits) trip() (us float64, err error) {
	const d = 10 * time.Millisecond
	if len(l.cpus) < 2 {
		return 0, nil
	}
	if l.program == "" {
		return tripInGo(l.cpus[0], l.cpus[1], d)
	}
	out, err := l.run("trip", d.Milliseconds())
	if err == nil {
		_, err = fmt.Sscan(out, &us)
	}
	return us, err
}

// trips is trip as a round of a workload.
func (l *limits) trips(float64) (sample, error) {
	us, err := l.trip()
	return sample{Metrics: map[string]float64{"p50": us, "ops": 1e6 / us}}, err
}

// copies is the best copying through a ring, with and without non-temporal stores.
func (l *limits) copies(seconds float64) (s sample, err error) {
	s.Metrics = make(map[string]float64)
	const piece = 32 << 10
	for _, how := range []string{"memcpy", "nt"} {
		for _, size := range []int{256 << 10, 1 << 20} {
			out, err := l.run("copy", how, size, piece, max(int(seconds*1000/4), 20))
			if errors.Is(err, context.DeadlineExceeded) {
				return s, nil // others keep the threads from running
			}
			if err != nil {
				return s, err
			}
			var gbs, cpu float64
			if _, err := fmt.Sscan(out, &gbs, &cpu); err != nil {
				return s, err
			}
			if gbs == 0 {
				continue // there are no such stores here
			}
			s.Metrics[how] = max(s.Metrics[how], gbs)
			if gbs > s.Metrics["gbs"] {
				s.Metrics["gbs"], s.Metrics["cpugb"] = gbs, cpu
			}
		}
	}
	return s, nil
}
