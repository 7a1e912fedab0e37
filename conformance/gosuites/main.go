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
	goroot, err := gotest.GoCommand("", "env", "GOROOT")
	if err != nil {
		return false, err
	}
	if r.test2json, err = gotest.GoCommand("", "tool", "-n", "test2json"); err != nil {
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
			cut, ker := gotest.Dials(counts)
			differ, err := r.program(w, s, cutBin).Differences(got, r.program(kernel, s, bin), want, func(test string) bool {
				reason := exceptionOf(s.pkg, test)
				if reason != "" {
					excepted[reason] = append(excepted[reason], s.pkg+" "+test)
				}
				return reason != ""
			})
			if err != nil {
				return false, err
			}
			for _, d := range differ {
				found = append(found, difference{d, s, w})
			}
			passed, failed := got.Count()
			fmt.Printf("%-18s %-16s %6d %6d %6d %12d %9d\n", "", w.name, passed, failed, len(differ), cut, ker)
		}
	}
	for _, d := range found {
		d.Print(fmt.Sprintf("%s %s with %s", d.suite.pkg, d.Test, d.way.name), 12)
	}
	for _, reason := range slices.Sorted(maps.Keys(excepted)) {
		tests := excepted[reason]
		slices.Sort(tests)
		fmt.Printf("\nexcepted, as they %s:\n\t%s\n", reason, strings.Join(slices.Compact(tests), "\n\t"))
	}
	return len(found) == 0, nil
}

// A difference is one between a way with ctnet and package net.
type difference struct {
	gotest.Difference
	suite suite
	way   way
}
