//go:build linux

// Command guard compares two versions of this repository by all rows of the benchmarks, or by
// some, and says which rows are significantly worse.
//
//	go run -C benchmarks ./guard -old HEAD                         the working tree against its commit
//	go run -C benchmarks ./guard -old v0.1 -new v0.2               two commits
//	go run -C benchmarks ./guard -old main -workloads 'rtt,http-*' some rows
//
// It builds the benchmarks of both, and takes samples of both in turns. A row is one workload over one
// transport; it has several figures, and each is compared by itself.
//
// With so many figures some look worse by chance. So what looks worse is measured once more, with
// three times as many rounds, and only these new samples decide. They are tested for being worse
// by more than the bound (Mann-Whitney's U, as benchstat has it), with Holm's correction for the
// number of figures that are tested. So if no figure is worse by more than the bound, at most one
// run in twenty says that one is, however many rows there are.
//
// The exit status is 1 if a figure is worse, or a row fails with the new version only, and 2 if
// the comparison failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// settled is how many seconds a sample takes at least. Processes try once a second whether spinning
// pays (internal/sched/trial.go), and a sample must be longer than it takes them to find out. It is
// what the benchmarks themselves have for rows that depend on it.
const settled = 2.5

func main() {
	log.SetFlags(0)
	log.SetPrefix("guard: ")
	// Children die with the thread that started them.
	runtime.LockOSThread()
	var o options
	flag.StringVar(&o.old, "old", "HEAD", "the `commit` to compare with")
	flag.StringVar(&o.new, "new", workingTree, "the `commit` to judge; . is the working tree as it is")
	flag.StringVar(&o.workloads, "workloads", "*", "names or patterns, separated by commas")
	flag.StringVar(&o.transports, "transports", "ct", "names or patterns, separated by commas")
	flag.IntVar(&o.rounds, "rounds", 8, "samples of each version and row; three times as many if it looks worse")
	flag.Float64Var(&o.seconds, "seconds", settled, "how long a sample takes")
	flag.Float64Var(&o.bound, "bound", 3, "by how many `percent` a figure may be worse")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Printf("what is %q? -help tells what there is", flag.Arg(0))
		os.Exit(2)
	}
	// One signal ends the children and removes the worktrees. A second one ends this too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	worse, err := run(ctx, o, os.Stdout)
	if ctx.Err() != nil {
		log.Print("interrupted")
		os.Exit(2)
	}
	if err != nil {
		log.Print(err)
		os.Exit(2)
	}
	if worse {
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	old, new              string
	workloads, transports string
	rounds                int
	seconds               float64
	bound                 float64
}

// run compares, and reports whether the new version is worse.
func run(ctx context.Context, o options, out io.Writer) (worse bool, err error) {
	switch {
	case o.rounds < minRounds:
		return false, fmt.Errorf("fewer than %d rounds can't tell a difference", minRounds)
	case o.seconds < settled:
		return false, fmt.Errorf("a sample needs %v seconds, until the trials of spinning have settled", settled)
	case o.bound < 0 || o.bound >= 100:
		return false, errors.New("the bound is not a share")
	}
	root, err := repository()
	if err != nil {
		return false, err
	}
	place, err := os.MkdirTemp("", "guard-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	var programs [2]*program
	for s, commit := range []string{o.old, o.new} {
		c, err := checkOut(root, place, side(s), commit)
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, c.remove()) }()
		if programs[s], err = build(ctx, c, place, side(s)); err != nil {
			return false, err
		}
	}
	rows, err := rowsOf(ctx, programs, o, out)
	if err != nil {
		return false, err
	}
	g := &guard{
		rounds: o.rounds,
		bound:  o.bound / 100,
		log:    func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
		take: func(ctx context.Context, s side, r row) (sample, error) {
			return programs[s].take(ctx, r, o.seconds)
		},
	}
	failed := g.run(ctx, rows)
	// What an interrupted run has measured is worth something too.
	if err := errors.Join(failed, g.print(out)); err != nil {
		return false, err
	}
	return g.worse(), g.conclude(out)
}

// rowsOf returns the rows that both programs have, and prints which ones only one of them has.
func rowsOf(ctx context.Context, programs [2]*program, o options, out io.Writer) ([]row, error) {
	var all [2][]row
	for s, p := range programs {
		workloads, transports, err := p.list(ctx)
		if err != nil {
			return nil, err
		}
		for _, w := range workloads {
			for _, t := range transports {
				if selected(o.workloads, w) && selected(o.transports, t) {
					all[s] = append(all[s], row{w, t})
				}
			}
		}
	}
	var both []row
	for _, r := range all[newer] {
		if slices.Contains(all[older], r) {
			both = append(both, r)
		} else {
			fmt.Fprintf(out, "%s: only the new version has it, left out\n", r)
		}
	}
	for _, r := range all[older] {
		if !slices.Contains(all[newer], r) {
			fmt.Fprintf(out, "%s: only the old version has it, left out\n", r)
		}
	}
	if len(both) == 0 {
		return nil, errors.New("no row is selected that both versions have")
	}
	return both, nil
}

// selected reports whether a list of patterns has a name.
func selected(patterns, name string) bool {
	for p := range strings.SplitSeq(patterns, ",") {
		if ok, err := path.Match(strings.TrimSpace(p), name); ok && err == nil {
			return true
		}
	}
	return false
}
