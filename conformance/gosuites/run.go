//go:build unix

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A way is how the suites are run: with package net, or with ctnet.
type way struct {
	name   string
	goroot string // where they are compiled
	env    []string
}

// A result is how often a test passed and failed. One that hangs, or ends the process,
// fails.
type result struct {
	passed, failed, skipped int
	output                  string // when it failed first
}

func (t *result) fail(output string) {
	if t.failed++; t.failed == 1 {
		t.output = output
	}
}

// results are the results of a suite, by the tests' names.
type results map[string]*result

func (r results) of(test string) *result {
	if r[test] == nil {
		r[test] = new(result)
	}
	return r[test]
}

// count returns how many tests passed, each time that they were run, and how many
// failed.
func (r results) count() (passed, failed int) {
	for _, t := range r {
		if t.failed > 0 {
			failed++
		} else if t.passed > 0 {
			passed++
		}
	}
	return passed, failed
}

// skip returns a pattern for the tests that have a result, here or in another results.
func (r results) skip(also string) string {
	var skip []string
	if also != "" {
		skip = append(skip, also)
	}
	for test := range r {
		if !strings.Contains(test, "/") {
			skip = append(skip, "^"+regexp.QuoteMeta(test)+"$")
		}
	}
	return strings.Join(skip, "|")
}

// A runner compiles suites and runs them.
type runner struct {
	dir       string // for what it makes
	test2json string // the tool
	race      bool
	short     bool
	count     int
	hang      time.Duration // so long without a word is a hang
}

// compile returns the suite's test program.
func (r *runner) compile(w way, s suite) (string, error) {
	bin := filepath.Join(r.dir, w.name+"_"+strings.ReplaceAll(s.pkg, "/", "_")+".test")
	args := []string{"test", "-vet=off", "-c", "-o", bin}
	if r.race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, s.pkg)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GOROOT="+w.goroot, "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return bin, nil
}

// run runs the tests of a suite that match a pattern, all if it is empty. One that
// hangs, or ends the process otherwise, costs only itself: the tests that had not been
// run by then are run by another process.
func (r *runner) run(w way, s suite, bin, only string) (results, error) {
	res := make(results)
	for {
		n := len(res)
		died, err := r.process(w, s, bin, only, res)
		if err != nil {
			return nil, err
		}
		if !died {
			return res, nil
		}
		if len(res) == n {
			return nil, fmt.Errorf("%s: ended before any test, see %s", bin, logOf(bin))
		}
	}
}

func logOf(bin string) string { return bin + ".log" }

// process runs the tests that have no result yet in one process. It reports whether
// that died before it was done.
func (r *runner) process(w way, s suite, bin, only string, res results) (died bool, err error) {
	log, err := os.OpenFile(logOf(bin), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	defer log.Close()
	cmd := exec.Command(bin, "-test.v=test2json", "-test.timeout=0",
		fmt.Sprintf("-test.count=%d", r.count), fmt.Sprintf("-test.short=%v", r.short),
		"-test.run="+cmp.Or(only, s.run), "-test.skip="+res.skip(s.skip))
	cmd.Dir = filepath.Join(w.goroot, "src", s.pkg)
	cmd.Env = append(os.Environ(), "GOROOT="+w.goroot, "PWD="+cmd.Dir)
	cmd.Env = append(cmd.Env, w.env...)
	cmd.WaitDelay = time.Second // for what a test has left behind
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	convert := exec.Command(r.test2json)
	convert.Stderr = os.Stderr
	text, err := convert.StdinPipe()
	if err != nil {
		return false, err
	}
	events, err := convert.StdoutPipe()
	if err != nil {
		return false, err
	}
	cmd.Stdout = io.MultiWriter(log, text)
	cmd.Stderr = cmd.Stdout
	if err := convert.Start(); err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // its result is in ProcessState
		text.Close()
	}()
	// The goroutines' stacks, in the log, say where it hangs.
	hung := time.AfterFunc(r.hang, func() { cmd.Process.Signal(syscall.SIGQUIT) })
	failed, running := read(events, res, func() { hung.Reset(r.hang) })
	<-ended
	hung.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a test has left behind
	if err := convert.Wait(); err != nil {
		return false, err
	}
	switch cmd.ProcessState.ExitCode() {
	case 0:
	case 1, raceFound:
		if !failed {
			res.of(wholeProcess).failed++
		}
	default:
		for test, output := range running {
			res.of(test).fail(output)
		}
		return true, nil
	}
	return false, nil
}

// raceFound is the race detector's exit code.
const raceFound = 66

// wholeProcess is what fails if no test does, such as a look for goroutines that were
// left behind.
const wholeProcess = "(the process)"

// read reads the events of a run, and calls alive for each one. It reports whether a
// test failed, and the output of the tests that had not ended.
func read(events io.Reader, res results, alive func()) (failed bool, running map[string]string) {
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
				t.passed++
			case "fail":
				t.fail(output[e.Test])
				failed = true
			case "skip":
				t.skipped++
			}
			delete(running, e.Test)
			delete(output, e.Test)
		}
	}
}
