//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// isGuard makes the test's binary the command.
const isGuard = "GUARD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(isGuard) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A fakeRepository has a command benchmarks that prints made-up figures.
type fakeRepository struct {
	t         *testing.T
	root, tmp string
}

func newFakeRepository(t *testing.T) *fakeRepository {
	f := &fakeRepository{t, t.TempDir(), t.TempDir()}
	for _, name := range []string{"main.go", "names.go"} {
		b, err := os.ReadFile(filepath.Join("testdata", "fake", name))
		if err != nil {
			t.Fatal(err)
		}
		f.write(name, string(b))
	}
	f.write("go.mod", "module fake.example/benchmarks\n\ngo 1.26.0\n")
	f.git("init", "-q")
	f.commit()
	return f
}

func (f *fakeRepository) write(name, text string) {
	f.t.Helper()
	name = filepath.Join(f.root, "benchmarks", name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeRepository) replace(name, old, new string) {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.root, "benchmarks", name))
	if err != nil || !strings.Contains(string(b), old) {
		f.t.Fatalf("%s has no %s: %v", name, old, err)
	}
	f.write(name, strings.Replace(string(b), old, new, 1))
}

func (f *fakeRepository) git(args ...string) string {
	f.t.Helper()
	out, err := git(f.root, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fakeRepository) commit() {
	f.git("add", ".")
	f.git("-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-q", "-m", "a commit")
}

// start starts the guard as a process.
func (f *fakeRepository) start(ctx context.Context, args ...string) (*exec.Cmd, *strings.Builder) {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Dir = filepath.Join(f.root, "benchmarks")
	cmd.Env = append(os.Environ(), isGuard+"=1", "TMPDIR="+f.tmp, "FAKE_PIDS="+f.pids(), "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return cmd, &out
}

func (f *fakeRepository) pids() string { return filepath.Join(f.root, ".git", "pids") }

// run runs the guard to its end.
func (f *fakeRepository) run(args ...string) (status int, out string) {
	f.t.Helper()
	cmd, b := f.start(f.t.Context(), args...)
	cmd.Wait()
	f.t.Logf("guard %v: %v\n%s", args, cmd.ProcessState, b)
	f.clean()
	return cmd.ProcessState.ExitCode(), b.String()
}

// clean makes sure that nothing is left of a run.
func (f *fakeRepository) clean() {
	f.t.Helper()
	if list := f.git("worktree", "list"); strings.Contains(list, "\n") {
		f.t.Errorf("a worktree is left:\n%s", list)
	}
	if left, err := os.ReadDir(f.tmp); err != nil || len(left) > 0 {
		f.t.Errorf("left in the directory for temporary files: %v %v", left, err)
	}
}

func TestGuard(t *testing.T) {
	f := newFakeRepository(t)
	t.Run("the same", func(t *testing.T) {
		if status, out := f.run("-workloads", "same,slower"); status != 0 || !strings.Contains(out, "0 of 2 figures are worse") {
			t.Error("an alarm")
		}
	})
	f.replace("main.go", "const ops = 100", "const ops = 80")
	f.replace("names.go", `"gone"`, `"come"`)
	t.Run("the working tree", func(t *testing.T) {
		status, out := f.run("-old", "HEAD", "-workloads", "same,slower,gone,come", "-transports", "ct,tcp")
		for _, want := range []string{
			"gone/tcp: only the old version has it", "come/ct: only the new version has it",
			"2 of 4 figures are worse", "not idle: other programs had 20 %",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("the output has no %q", want)
			}
		}
		if status != 1 {
			t.Errorf("the exit status is %d", status)
		}
		for line := range strings.Lines(out) {
			if !strings.Contains(line, " ops ") {
				continue
			}
			if strings.Contains(line, "slower/") != strings.Contains(line, "WORSE") {
				t.Errorf("not as it should be: %s", line)
			}
		}
	})
	f.commit()
	t.Run("commits", func(t *testing.T) {
		if status, _ := f.run("-old", "HEAD^", "-new", "HEAD", "-workloads", "slower"); status != 1 {
			t.Errorf("slower: the exit status is %d", status)
		}
		if status, _ := f.run("-old", "HEAD", "-new", "HEAD^", "-workloads", "slower"); status != 0 {
			t.Errorf("faster: the exit status is %d", status)
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, args := range [][]string{
			{"-old", "no-such-commit"}, {"-seconds", "1"}, {"-rounds", "3"}, {"-bound", "-1"},
			{"-workloads", "none"}, {"what"},
		} {
			if status, _ := f.run(args...); status != 2 {
				t.Errorf("%v: the exit status is %d", args, status)
			}
		}
	})
	f.write("broken.go", "package main\n\nvar x int = \"\"\n")
	t.Run("does not build", func(t *testing.T) {
		if status, out := f.run(); status != 2 || !strings.Contains(out, "broken.go") {
			t.Errorf("the exit status is %d", status)
		}
	})
}

// TestInterrupt: after ^C the processes have ended, and worktree and temporary files are gone.
func TestInterrupt(t *testing.T) {
	f := newFakeRepository(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd, out := f.start(ctx, "-workloads", "same,hangs", "-new", "HEAD")
	var pids [2]int
	var left string
	for n := 0; n < 3; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("nothing hangs: %s", out)
		}
		b, _ := os.ReadFile(f.pids())
		n, _ = fmt.Sscan(string(b), &pids[0], &pids[1], &left)
	}
	if !strings.HasPrefix(left, f.tmp+"/") {
		t.Errorf("%s is not among the guard's temporary files", left)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(out.String(), "interrupted") || !strings.Contains(out.String(), "same/ct") {
		t.Errorf("%v\n%s", cmd.ProcessState, out)
	}
	f.clean()
	for _, pid := range pids {
		// A child of a process that has ended is for init to reap.
		for !ended(pid) {
			if ctx.Err() != nil {
				t.Fatalf("process %d has not ended", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// ended reports whether a process is no more than a zombie.
func ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err != nil || strings.HasPrefix(state, "Z")
}
