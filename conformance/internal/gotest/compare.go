//go:build unix

package gotest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A Difference is a test that passed with package net, and failed with ctnet.
type Difference struct {
	Test          string
	Output        string
	Alone, Kernel int // how often of AloneRuns it failed alone, and with package net
}

// Differences returns the tests that failed in got, the results of p, and not in want, those of
// kernel, but for those that except accepts.
func (p *Program) Differences(got Results, kernel *Program, want Results, except func(test string) bool) (found []Difference, err error) {
	for _, test := range got.Failures() {
		if t := want[test]; t != nil && t.Failed > 0 || except(test) {
			continue
		}
		d := Difference{Test: test, Output: got[test].Output}
		if d.Alone, err = p.Alone(test); err != nil {
			return found, err
		}
		if d.Kernel, err = kernel.Alone(test); err != nil {
			return found, err
		}
		found = append(found, d)
	}
	return found, nil
}

// Print prints the difference, under the test's full name, with the first lines of its output.
func (d Difference) Print(name string, lines int) {
	fmt.Printf("\n%s: alone it fails %d of %d times, with net %d\n", name, d.Alone, AloneRuns, d.Kernel)
	output := strings.Split(strings.TrimSpace(d.Output), "\n")
	for _, line := range output[:min(len(output), lines)] {
		fmt.Printf("\t%s\n", line)
	}
}

// Dials returns how many Dials went through shared memory, and how many not, as the shims have
// noted it in a file.
func Dials(counts string) (cut, kernel int) {
	b, err := os.ReadFile(counts)
	if err != nil {
		return 0, 0
	}
	return strings.Count(string(b), "c"), strings.Count(string(b), "k")
}

// GoCommand returns the output of the go command in a directory; "" is the current one.
func GoCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, errs.Bytes(), out)
	}
	return strings.TrimSpace(string(out)), nil
}
