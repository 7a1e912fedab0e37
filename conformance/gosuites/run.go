//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cutthrough.example/conformance/internal/gotest"
)

// A way is how the suites are run: with package net, or with ctnet.
type way struct {
	name   string
	goroot string // where they are compiled
	env    []string
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

// program returns the suite's test program as it is run that way.
func (r *runner) program(w way, s suite, bin string) *gotest.Program {
	return &gotest.Program{
		Bin: bin, Dir: filepath.Join(w.goroot, "src", s.pkg), Env: slices.Concat(w.env, []string{"GOROOT=" + w.goroot}),
		Run: s.run, Skip: s.skip, Short: r.short, Count: r.count, Hang: r.hang, Test2JSON: r.test2json,
	}
}
