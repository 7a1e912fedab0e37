//go:build unix

// Command gosuites runs the tests of Go's own tree that use networks, of net, net/http,
// crypto/tls and others, with package net and with ctnet in its place: Listen, Dial,
// Dialer and ListenConfig. A test that passes with package net and fails with ctnet is a
// difference between them.
//
//	go run ./conformance/gosuites [-run regexp] [-race] [-short] [-count n] [-hang d] [-keep dir]
//
// It copies Go's tree from GOROOT, and changes the imports in the copy, so nothing of it is in
// this repository. With ctnet everything runs twice: in one application, and with one that dials
// and another that listens.
//
// It prints a table, and for each difference how often the test fails when it is run
// alone. The exit code is 1 if there is a difference that exceptions doesn't name.
package main

import (
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cutthrough.example/conformance/internal/gotest"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gosuites: ")
	r := runner{}
	match := flag.String("run", "", "run the suites of the packages that match this `regexp`")
	keep := flag.String("keep", "", "leave the tree, the programs and their logs in this `directory`")
	flag.BoolVar(&r.race, "race", false, "with the race detector")
	flag.BoolVar(&r.short, "short", false, "leave out what takes long")
	flag.IntVar(&r.count, "count", 1, "run each test `n` times")
	flag.DurationVar(&r.hang, "hang", time.Minute, "a process that says nothing for so long hangs")
	flag.Parse()
	pattern, err := regexp.Compile(*match)
	if err != nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	r.dir = *keep
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "gosuites"); err != nil {
			log.Fatal(err)
		}
	}
	same, err := compare(&r, pattern)
	if *keep == "" {
		os.RemoveAll(r.dir)
	}
	if err != nil {
		log.Fatal(err)
	}
	if !same {
		os.Exit(1)
	}
}

// compare runs the suites and prints the table. It reports whether there is no
// difference but the exceptions.
func compare(r *runner, pattern *regexp.Regexp) (same bool, err error) {
	tree, names := filepath.Join(r.dir, "tree"), filepath.Join(r.dir, "names")
	for _, dir := range []string{tree, names} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, err
		}
	}
	goroot, err := goCommand("env", "GOROOT")
	if err != nil {
		return false, err
	}
	if r.test2json, err = goCommand("tool", "-n", "test2json"); err != nil {
		return false, err
	}
	kernel := way{name: "net", goroot: goroot}
	if err := makeTree(kernel.goroot, tree); err != nil {
		return false, err
	}
	counts := filepath.Join(r.dir, "ways")
	env := []string{"CTNET_DIR=" + names, "CTNET_KERNEL_ONLY=", "GOSUITES_WAYS=" + counts}
	ways := []way{
		{name: "ctnet", goroot: tree, env: env},
		{name: "ctnet, two apps", goroot: tree, env: append(env, "GOSUITES_APPS=2")},
	}
	var found []difference
	excepted := make(map[string][]string) // by the reason
	fmt.Printf("%-18s %-16s %6s %6s %6s %12s %9s\n", "suite", "with", "passed", "failed", "differ", "cut through", "kernel's")
	for _, s := range suites {
		if !pattern.MatchString(s.pkg) {
			continue
		}
		bin, err := r.compile(kernel, s)
		if err != nil {
			return false, err
		}
		want, err := r.program(kernel, s, bin).Results()
		if err != nil {
			return false, err
		}
		passed, failed := want.Count()
		fmt.Printf("%-18s %-16s %6d %6d\n", s.pkg, kernel.name, passed, failed)
		cutBin, err := r.compile(ways[0], s)
		if err != nil {
			return false, err
		}
		for _, w := range ways {
			os.Remove(counts)
			got, err := r.program(w, s, cutBin).Results()
			if err != nil {
				return false, err
			}
			cut, ker := dials(counts)
			differ := 0
			for _, test := range got.Failures() {
				if t := want[test]; t != nil && t.Failed > 0 {
					continue
				}
				d := difference{suite: s, way: w, test: test, output: got[test].Output}
				if reason := d.exception(); reason != "" {
					excepted[reason] = append(excepted[reason], s.pkg+" "+test)
					continue
				}
				differ++
				if d.alone, err = r.program(w, s, cutBin).Alone(test); err != nil {
					return false, err
				}
				if d.kernel, err = r.program(kernel, s, bin).Alone(test); err != nil {
					return false, err
				}
				found = append(found, d)
			}
			passed, failed := got.Count()
			fmt.Printf("%-18s %-16s %6d %6d %6d %12d %9d\n", "", w.name, passed, failed, differ, cut, ker)
		}
	}
	for _, d := range found {
		d.print()
	}
	for _, reason := range slices.Sorted(maps.Keys(excepted)) {
		tests := excepted[reason]
		slices.Sort(tests)
		fmt.Printf("\nexcepted, as they %s:\n\t%s\n", reason, strings.Join(slices.Compact(tests), "\n\t"))
	}
	return len(found) == 0, nil
}

// goCommand returns the output of the go command.
func goCommand(args ...string) (string, error) {
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// dials returns how many Dials went through shared memory, and how many not.
func dials(counts string) (cut, kernel int) {
	b, err := os.ReadFile(counts)
	if err != nil {
		return 0, 0
	}
	return strings.Count(string(b), "c"), strings.Count(string(b), "k")
}

// A difference is a test that passed with package net, and failed with ctnet.
type difference struct {
	suite         suite
	way           way
	test          string
	output        string
	alone, kernel int // how often of gotest.AloneRuns it failed alone, and with package net
}

func (d difference) print() {
	fmt.Printf("\n%s %s with %s: alone it fails %d of %d times, with net %d\n",
		d.suite.pkg, d.test, d.way.name, d.alone, gotest.AloneRuns, d.kernel)
	lines := strings.Split(strings.TrimSpace(d.output), "\n")
	for _, line := range lines[:min(len(lines), 12)] {
		fmt.Printf("\t%s\n", line)
	}
}
