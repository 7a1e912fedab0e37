//go:build unix

// Package gotest runs test programs, and goes on after a test that hangs or ends the process.
package gotest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Result is how often a test passed and failed. One that hangs, or ends the process,
// fails.
type Result struct {
	Passed, Failed, Skipped int
	Output                  string // when it failed first

	settled bool // a process ended while it was running, and it is not run again
}

func (t *Result) fail(output string) {
	if t.Failed++; t.Failed == 1 {
		t.Output = output
	}
}

// Results are the results of a suite, by the tests' names.
type Results map[string]*Result

func (r Results) of(test string) *Result {
	if r[test] == nil {
		r[test] = new(Result)
	}
	return r[test]
}

// Count returns how many tests passed, each time that they were run, and how many
// failed.
func (r Results) Count() (passed, failed int) {
	for _, t := range r {
		if t.Failed > 0 {
			failed++
		} else if t.Passed > 0 {
			passed++
		}
	}
	return passed, failed
}

// Failures returns the tests that failed, except tests that failed because of a subtest.
func (r Results) Failures() (tests []string) {
	for test, t := range r {
		if t.Failed == 0 {
			continue
		}
		inner := false
		for sub, s := range r {
			inner = inner || s.Failed > 0 && strings.HasPrefix(sub, test+"/")
		}
		if !inner {
			tests = append(tests, test)
		}
	}
	slices.Sort(tests)
	return tests
}

// skip returns a pattern for the tests that need not be run again: those that have a result, and
// the subtests that were running when a process ended. The other subtests of the same test are
// run once more.
func (r Results) skip(also string) string {
	var skip []string
	if also != "" {
		skip = append(skip, also)
	}
	for test, t := range r {
		if t.settled || !strings.Contains(test, "/") {
			skip = append(skip, exactly(test))
		}
	}
	return strings.Join(skip, "|")
}

// progress returns a number that grows with each process that was not in vain.
func (r Results) progress() int {
	n := len(r)
	for _, t := range r {
		if t.settled {
			n++
		}
	}
	return n
}

// settleSubtests settles the subtests of a test that have failed. It reports whether there are
// any that were not settled before.
func (r Results) settleSubtests(test string) (found bool) {
	for name, t := range r {
		if strings.HasPrefix(name, test+"/") && t.Failed > 0 && !t.settled {
			t.settled = true
			found = true
		}
	}
	return found
}

// exactly returns a pattern for one test.
func exactly(test string) string {
	var p []string
	for name := range strings.SplitSeq(test, "/") {
		p = append(p, "^"+regexp.QuoteMeta(name)+"$")
	}
	return strings.Join(p, "/")
}

// A Program is a test program and the way to run it.
type Program struct {
	Bin       string
	Dir       string        // where it runs
	Env       []string      // besides this process's own
	Run, Skip string        // patterns of tests; all and none if empty
	Short     bool          // leave out what takes long
	Count     int           // run each test so often
	Hang      time.Duration // so long without a word is a hang
	Timeout   time.Duration // of each process; none if 0
	Test2JSON string        // the tool
}

// Results runs the tests. One that hangs, or ends the process otherwise, costs only itself:
// the tests that had not been run by then are run by another process, with those of its
// siblings, if it is a subtest. If several were running, each one is run alone.
func (p *Program) Results() (Results, error) { return p.results(p.Run) }

func (p *Program) results(only string) (Results, error) {
	res := make(Results)
	for {
		before := res.progress()
		died, running, err := p.process(only, res)
		if err != nil {
			return nil, err
		}
		for test, output := range running {
			if res.settleSubtests(test) {
				continue // a panic there ended the process, and test can go on without them
			}
			t := res.of(test)
			t.settled = true
			if len(running) == 1 {
				t.fail(output)
			} else if err := p.settle(test, res); err != nil {
				return nil, err
			}
		}
		if !died {
			return res, nil
		}
		if res.progress() == before {
			return nil, fmt.Errorf("%s: ended outside of the tests, see %s", p.Bin, p.log())
		}
	}
}

// settle runs a test alone and adds its result, and those of its subtests.
func (p *Program) settle(test string, res Results) error {
	alone, err := p.results(exactly(test))
	if err != nil {
		return err
	}
	for name, a := range alone {
		if name != test && !strings.HasPrefix(name, test+"/") {
			continue
		}
		t := res.of(name)
		t.settled = t.settled || a.settled
		t.Passed += a.Passed
		t.Skipped += a.Skipped
		if a.Failed > 0 {
			t.fail(a.Output)
		}
	}
	return nil
}

// AloneRuns is how often Alone runs a test.
const AloneRuns = 3

// Alone returns how often a test fails when it is run alone.
func (p *Program) Alone(test string) (failed int, err error) {
	if test == WholeProcess {
		return 0, nil
	}
	once := *p
	once.Count = 1
	for range AloneRuns {
		res, err := once.results(exactly(test))
		if err != nil {
			return 0, err
		}
		failed += min(1, res.of(test).Failed)
	}
	return failed, nil
}

func (p *Program) log() string { return p.Bin + ".log" }

// process runs the tests that have no result yet in one process. It reports whether
// that died before it was done, and the output of the tests that were running then.
func (p *Program) process(only string, res Results) (died bool, running map[string]string, err error) {
	log, err := os.OpenFile(p.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return false, nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.Bin, "-test.v=test2json", "-test.timeout=0",
		fmt.Sprintf("-test.count=%d", cmp.Or(p.Count, 1)), fmt.Sprintf("-test.short=%v", p.Short),
		"-test.run="+only, "-test.skip="+res.skip(p.Skip))
	cmd.Dir = p.Dir
	cmd.Env = append(os.Environ(), "PWD="+cmd.Dir)
	cmd.Env = append(cmd.Env, p.Env...)
	cmd.WaitDelay = time.Second // for what a test has left behind
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	convert := exec.Command(p.Test2JSON)
	convert.Stderr = os.Stderr
	text, err := convert.StdinPipe()
	if err != nil {
		return false, nil, err
	}
	events, err := convert.StdoutPipe()
	if err != nil {
		return false, nil, err
	}
	cmd.Stdout = io.MultiWriter(log, text)
	cmd.Stderr = cmd.Stdout
	if err := convert.Start(); err != nil {
		return false, nil, err
	}
	if err := cmd.Start(); err != nil {
		return false, nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // its result is in ProcessState
		text.Close()
	}()
	// The goroutines' stacks, in the log, say where it hangs.
	quit := func() { cmd.Process.Signal(syscall.SIGQUIT) }
	hung := time.AfterFunc(p.Hang, quit)
	late := time.AfterFunc(cmp.Or(p.Timeout, math.MaxInt64), quit)
	failed, running := read(events, res, func() { hung.Reset(p.Hang) })
	<-ended
	hung.Stop()
	late.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a test has left behind
	if err := convert.Wait(); err != nil {
		return false, nil, err
	}
	code := cmd.ProcessState.ExitCode()
	if code == 0 {
		return false, nil, nil
	}
	if died = code != 1 && code != raceFound || len(running) > 0; !died && !failed {
		res.of(WholeProcess).Failed++
	}
	maps.DeleteFunc(running, func(test, _ string) bool { return hasSubtest(running, test) })
	return died, running, nil
}

// hasSubtest reports whether a subtest of a test is among the running tests.
func hasSubtest(running map[string]string, test string) bool {
	for sub := range running {
		if strings.HasPrefix(sub, test+"/") {
			return true
		}
	}
	return false
}

// raceFound is the race detector's exit code.
const raceFound = 66

// WholeProcess is what fails if no test does, such as a look for goroutines that were
// left behind.
const WholeProcess = "(the process)"

// read reads the events of a run, and calls alive for each one. It reports whether a
// test failed, and the output of the tests that had not ended.
func read(events io.Reader, res Results, alive func()) (failed bool, running map[string]string) {
	running = make(map[string]string)
	output := make(map[string]string)
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			for test := range running {
				if running[test] = output[test]; strings.Contains(output[test], "--- PASS: "+test+" ") {
					delete(running, test) // the event would have come with the next line
				}
			}
			return failed, running
		}
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil || e.Test == "" {
			continue
		}
		alive()
		switch e.Action {
		case "run", "cont":
			running[e.Test] = ""
		case "pause":
			delete(running, e.Test)
		case "output":
			output[e.Test] += e.Output
		case "pass", "fail", "skip":
			switch t := res.of(e.Test); e.Action {
			case "pass":
				t.Passed++
			case "fail":
				t.fail(output[e.Test])
				failed = true
			case "skip":
				t.Skipped++
			}
			delete(running, e.Test)
			delete(output, e.Test)
		}
	}
}
