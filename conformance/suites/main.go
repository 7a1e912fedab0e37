//go:build unix

// Command suites runs the tests of other people's libraries with package net and with ctnet in
// its place. A test that passes with package net and fails with ctnet is a difference between
// them, which docs/compatibility.md explains.
//
//	go run ./conformance/suites [-run regexp] [-tests regexp] [-short] [-count n] [-hang d] [-timeout d] [-keep dir]
//
// It has the go command download the modules, and changes the imports in copies of them, so
// nothing of them is in this repository. In a copy net's Listen, Dial, Dialer and
// ListenConfig, and what crypto/tls makes of them, come from shims: one program is compiled, and
// the environment says whether the shims use package net or ctnet.
//
// It prints a table, and for each difference how often the test fails when it is run alone.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cutthrough.example/conformance/internal/gotest"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("suites: ")
	r := runner{}
	match := flag.String("run", "", "run the suites of the modules that match this `regexp`")
	keep := flag.String("keep", "", "leave the copies, the programs and their logs in this `directory`")
	flag.StringVar(&r.options.Run, "tests", "", "run the tests that match this `regexp`")
	flag.BoolVar(&r.options.Short, "short", false, "leave out what takes long")
	flag.IntVar(&r.options.Count, "count", 1, "run each test `n` times")
	flag.DurationVar(&r.options.Hang, "hang", time.Minute, "a process that says nothing for so long hangs")
	flag.DurationVar(&r.options.Timeout, "timeout", 15*time.Minute, "a process that runs for so long hangs")
	flag.Parse()
	pattern, err := regexp.Compile(*match)
	if err != nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	r.dir = *keep
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "suites"); err != nil {
			log.Fatal(err)
		}
	}
	err = r.all(pattern)
	if *keep == "" {
		os.RemoveAll(r.dir)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// A runner makes copies of modules and runs their tests.
type runner struct {
	dir     string // for what it makes
	names   string // the directory in which applications find each other
	tree    tree
	options gotest.Program // what is the same for all programs
}

// all runs the suites of the modules that match a pattern, and prints the table.
func (r *runner) all(pattern *regexp.Regexp) (err error) {
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	copies := filepath.Join(r.dir, "copies")
	r.names = filepath.Join(r.dir, "names")
	for _, dir := range []string{copies, r.names} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	root, err := goCommand("", "list", "-m", "-f={{.Dir}}", ownModule)
	if err != nil {
		return err
	}
	if r.options.Test2JSON, err = goCommand("", "tool", "-n", "test2json"); err != nil {
		return err
	}
	names, err := overlay(r.dir, root)
	if err != nil {
		return err
	}
	r.tree = tree{dir: copies, root: root, overlay: names}
	fmt.Printf("%-60s %12s %12s %6s %6s %9s\n", "package", "net", "ctnet", "differ", "cut", "kernel's")
	var found []difference
	for _, s := range suites {
		if !pattern.MatchString(s.module) {
			continue
		}
		fmt.Printf("%s %s\n", s.module, s.version)
		d, err := r.suite(s)
		if err != nil {
			// The other suites can be run all the same.
			fmt.Printf("  can't be run: %v\n", err)
		}
		found = append(found, d...)
	}
	for _, d := range found {
		d.print()
	}
	return nil
}

// suite runs a suite, and prints a line for each package.
func (r *runner) suite(s suite) ([]difference, error) {
	dir, err := r.tree.make(s)
	if err != nil {
		return nil, err
	}
	list, err := r.tree.goCommand(dir, "list", append([]string{
		"-f={{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}"}, s.patterns()...)...)
	if err != nil {
		return nil, err
	}
	var found []difference
	for line := range strings.Lines(list) {
		path, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		d, err := r.pkg(s, path, dir)
		if err != nil {
			fmt.Printf("  %-58s can't be run: %v\n", strings.TrimPrefix(path, s.module), err)
		}
		found = append(found, d...)
	}
	return found, nil
}

// pkg runs the tests of a package with package net, and then with ctnet.
func (r *runner) pkg(s suite, path, dir string) ([]difference, error) {
	bin := filepath.Join(r.dir, strings.ReplaceAll(path, "/", "_")+".test")
	if _, err := r.tree.goCommand(dir, "test", "-vet=off", "-c", "-o", bin, "."); err != nil {
		return nil, err
	}
	ways := bin + ".ways"
	kernel := r.options
	kernel.Bin, kernel.Dir, kernel.Skip = bin, dir, s.skip
	cut := kernel
	kernel.Env = []string{"GOSUITES_WITH=net"}
	cut.Env = []string{"GOSUITES_WITH=", "GOSUITES_WAYS=" + ways, "CTNET_DIR=" + r.names, "CTNET_KERNEL_ONLY="}
	want, err := kernel.Results()
	if err != nil {
		return nil, err
	}
	got, err := cut.Results()
	if err != nil {
		return nil, err
	}
	shared, sockets := dials(ways)
	var found []difference
	for _, test := range got.Failures() {
		if t := want[test]; t != nil && t.Failed > 0 {
			continue
		}
		d := difference{pkg: path, test: test, output: got[test].Output}
		if d.alone, err = cut.Alone(test); err != nil {
			return found, err
		}
		if d.kernel, err = kernel.Alone(test); err != nil {
			return found, err
		}
		found = append(found, d)
	}
	fmt.Printf("  %-58s %12s %12s %6d %6d %9d\n", "."+strings.TrimPrefix(path, s.module),
		passedOf(want), passedOf(got), len(found), shared, sockets)
	return found, nil
}

// passedOf says how many tests passed of those that were not skipped.
func passedOf(r gotest.Results) string {
	passed, failed := r.Count()
	return fmt.Sprintf("%d of %d", passed, passed+failed)
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
	pkg, test     string
	output        string
	alone, kernel int // how often of gotest.AloneRuns it failed alone, and with package net
}

func (d difference) print() {
	fmt.Printf("\n%s %s: alone it fails %d of %d times, with net %d\n", d.pkg, d.test, d.alone, gotest.AloneRuns, d.kernel)
	lines := strings.Split(strings.TrimSpace(d.output), "\n")
	for _, line := range lines[:min(len(lines), 20)] {
		fmt.Printf("\t%s\n", line)
	}
}
