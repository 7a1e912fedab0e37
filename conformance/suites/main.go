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
	root, err := gotest.GoCommand("", "list", "-m", "-f={{.Dir}}", ownModule)
	if err != nil {
		return err
	}
	if r.options.Test2JSON, err = gotest.GoCommand("", "tool", "-n", "test2json"); err != nil {
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
		d.Print(d.pkg+" "+d.Test, 20)
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
	shared, sockets := gotest.Dials(ways)
	differ, err := cut.Differences(got, &kernel, want, func(string) bool { return false })
	var found []difference
	for _, d := range differ {
		found = append(found, difference{d, path})
	}
	if err != nil {
		return found, err
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

// A difference is one between two runs of a package's tests.
type difference struct {
	gotest.Difference
	pkg string
}
