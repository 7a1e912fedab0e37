//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows on the standard error how far a run is: in one line that changes
// on a terminal, and a line a workload elsewhere.
type progress struct {
	total, done int
	began       time.Time
	terminal    bool
	workload    string
}

func (p *progress) start() {
	p.began = time.Now()
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	p.terminal = err == nil
}

func (p *progress) at(s step, round, rounds int, trip float64) {
	took := time.Since(p.began).Round(time.Second)
	where := fmt.Sprintf("[%*d/%d %v", len(fmt.Sprint(p.total)), p.done+1, p.total, took)
	if p.done > 10 {
		left := time.Since(p.began) / time.Duration(p.done) * time.Duration(p.total-p.done)
		where += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	p.done++
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r\033[K%s] %s, round %d of %d, %s (%s, %.2f us)",
			where, s.w.name, round+1, rounds, s.transport, placementOf(trip), trip)
	} else if s.w.name != p.workload {
		fmt.Fprintf(os.Stderr, "%s] %s\n", where, s.w.name)
	}
	p.workload = s.w.name
}

func (p *progress) failed(s step, err error) {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
	fmt.Fprintf(os.Stderr, "%s over %s: %v\n", s.w.name, s.transport, err)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
}
