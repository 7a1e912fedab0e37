//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// workingTree stands for the working tree where a commit is expected.
const workingTree = "."

// A side is one of the two versions.
type side int

const (
	older side = iota
	newer
)

func (s side) String() string { return [...]string{"old", "new"}[s] }

// repository returns the root of the working tree in which the command runs.
func repository() (string, error) { return git(".", "rev-parse", "--show-toplevel") }

// git runs a short command of git's. An interrupt does not reach it: what it has begun it ends, so
// that it can be undone.
func git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), explained(cmd, err)
}

// explained adds what a command has printed on its standard error.
func explained(cmd *exec.Cmd, err error) error {
	if err == nil {
		return nil
	}
	said := ""
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		said = "\n" + string(bytes.TrimSpace(exit.Stderr))
	}
	return fmt.Errorf("%s: %w%s", strings.Join(cmd.Args, " "), err, said)
}

// lastLine is an error that says no more than the last line that a command has printed on its standard
// error.
func lastLine(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		said := bytes.TrimSpace(exit.Stderr)
		return errors.New(string(said[bytes.LastIndexByte(said, '\n')+1:]))
	}
	return err
}

// A checkout is a directory with one version.
type checkout struct {
	root string // of the repository
	dir  string
}

// checkOut makes a worktree of a commit.
func checkOut(root, place string, s side, commit string) (*checkout, error) {
	if commit == workingTree {
		return &checkout{root, root}, nil
	}
	c := &checkout{root, filepath.Join(place, s.String())}
	if _, err := git(root, "worktree", "add", "--detach", c.dir, commit); err != nil {
		return nil, err
	}
	return c, nil
}

// remove removes the worktree, if this is one that checkOut has made.
func (c *checkout) remove() error {
	if c.dir == c.root {
		return nil
	}
	_, err := git(c.root, "worktree", "remove", "--force", c.dir)
	return err
}

// A program is the benchmarks' command of one version.
type program struct {
	path string
	tmp  string // for its temporary files, of which it leaves some if it is killed
}

// build builds it. Without paths and versions in it, the same source makes the same program.
func build(ctx context.Context, c *checkout, place string, s side) (*program, error) {
	p := &program{filepath.Join(place, s.String()+".exe"), filepath.Join(place, s.String()+".tmp")}
	if err := os.Mkdir(p.tmp, 0o700); err != nil {
		return nil, err
	}
	cmd := command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", p.path, ".")
	cmd.Dir = filepath.Join(c.dir, "benchmarks")
	_, err := cmd.Output()
	return p, explained(cmd, err)
}

// command makes a command that has a process group of its own, and is killed with all of the group
// when the context ends.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// Processes that have left the group may keep the pipes.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (p *program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := command(ctx, p.path, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+p.tmp)
	return cmd
}

// list returns the names of workloads and of transports: with -list the program prints them and a
// title in lines, and an empty line between the two.
func (p *program) list(ctx context.Context) (workloads, transports []string, err error) {
	cmd := p.command(ctx, "-list")
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, explained(cmd, err)
	}
	first, second, _ := strings.Cut(string(out), "\n\n")
	return firstWords(first), firstWords(second), nil
}

func firstWords(text string) (all []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 {
			all = append(all, f[0])
		}
	}
	return all
}

// A row is one workload over one transport.
type row struct{ workload, transport string }

func (r row) String() string { return r.workload + "/" + r.transport }

// A sample is what one version has measured in one round of a row.
type sample struct {
	Placement string             `json:"placement"` // of the two CPUs
	Dropped   bool               `json:"dropped"`   // they have moved meanwhile
	Others    float64            `json:"others"`    // the CPUs' share that other programs had
	Metrics   map[string]float64 `json:"metrics"`
}

// take takes a sample. The program writes a file of JSON, of which records and failures have been
// there from the first version on.
func (p *program) take(ctx context.Context, r row, seconds float64) (sample, error) {
	file := filepath.Join(p.tmp, "report.json")
	defer os.Remove(file)
	cmd := p.command(ctx, "-workloads", r.workload, "-transports", r.transport,
		"-rounds", "1", "-seconds", fmt.Sprint(seconds), "-json", file)
	_, failed := cmd.Output()
	if ctx.Err() != nil {
		return sample{}, ctx.Err()
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return sample{}, lastLine(cmp.Or(failed, err))
	}
	var report struct {
		Records  []sample                 `json:"records"`
		Failures []struct{ Error string } `json:"failures"`
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return sample{}, fmt.Errorf("%s: %w", file, err)
	}
	if len(report.Failures) > 0 {
		return sample{}, errors.New(report.Failures[0].Error)
	}
	// Those before the last one were dropped, and taken again.
	if n := len(report.Records); n > 0 {
		return report.Records[n-1], nil
	}
	return sample{}, errors.New("nothing was measured")
}
