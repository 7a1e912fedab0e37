//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cutthrough.example/conformance/internal/gotest"
	"cutthrough.example/conformance/internal/rewrite"
)

const (
	ownModule = "cutthrough.example"
	netPath   = ownModule + "/conformance/gosuites/shim"
	tlsPath   = ownModule + "/conformance/suites/shimtls"
	gluePath  = ownModule + "/conformance/gosuites/glue"
)

// shims are the packages in place of packages of Go's tree.
var shims = map[string]string{
	"net":        "net " + strconv.Quote(netPath),
	"crypto/tls": "tls " + strconv.Quote(tlsPath),
}

// overlay writes the files with the names that the shims don't declare themselves, and a file
// for the go command that says where in this module they belong. It returns the latter.
func overlay(dir, root string) (string, error) {
	goroot, err := gotest.GoCommand(root, "env", "GOROOT")
	if err != nil {
		return "", err
	}
	own := func(names ...string) map[string]bool {
		m := make(map[string]bool)
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	replace := make(map[string]string)
	for _, s := range []struct {
		path, file string
		own        map[string]bool
	}{
		// The shim's types.go has interfaces for Go's own tests. What a library asks of a
		// connection is what this command is to find out, so there the types are package net's.
		{"net", netPath + "/types.go", own("Dial", "DialTimeout", "Dialer", "Listen", "ListenConfig")},
		{"crypto/tls", tlsPath + "/names.go", own("Dial", "DialWithDialer", "Dialer", "Listen")},
	} {
		b, err := rewrite.Names(goroot, s.path, s.own)
		if err != nil {
			return "", err
		}
		name := filepath.Join(dir, filepath.Base(s.path)+"_names.go")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, strings.TrimPrefix(s.file, ownModule+"/"))] = name
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, b, 0o600)
}

// A tree is a copy of a suite's module, and of others that it uses, with the shims in them.
type tree struct {
	dir     string // where the copies are
	root    string // this module's directory
	overlay string // where it adds to the shims
}

// make copies the suite's module and returns the directory of the copy.
func (t *tree) make(s suite) (string, error) {
	dir, err := t.add(s.module, s.version)
	if err != nil {
		return "", err
	}
	edits := []string{"-require=" + ownModule + "@v0.0.0", "-replace=" + ownModule + "=" + t.root}
	for _, module := range s.also {
		version, err := gotest.GoCommand(dir, "list", "-m", "-f={{.Version}}", module)
		if err != nil {
			return "", err
		}
		copy, err := t.add(module, version)
		if err != nil {
			return "", err
		}
		edits = append(edits, "-replace="+module+"="+copy)
	}
	_, err = gotest.GoCommand(dir, append([]string{"mod", "edit"}, edits...)...)
	return dir, err
}

// add copies a module.
func (t *tree) add(module, version string) (string, error) {
	out, err := gotest.GoCommand(t.dir, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return "", err
	}
	var download struct{ Dir, GoMod string }
	if err := json.Unmarshal([]byte(out), &download); err != nil {
		return "", err
	}
	dir := filepath.Join(t.dir, module)
	if err := os.CopyFS(dir, os.DirFS(download.Dir)); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		// The module is older than modules. The go command has made up a file.
		b, err := os.ReadFile(download.GoMod)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), b, 0o600); err != nil {
			return "", err
		}
	}
	return dir, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			return err
		}
		return useShims(name)
	})
}

// useShims makes a file import the shims, and adds a file to its package that makes the shim
// for package net use ctnet.
func useShims(name string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	edited, err := rewrite.Imports(src, func(path string) string { return shims[path] })
	if err != nil || bytes.Equal(src, edited) {
		return err
	}
	if err := os.WriteFile(name, edited, 0o600); err != nil {
		return err
	}
	pkg, err := packageOf(src)
	if err != nil {
		return err
	}
	glue := "ctnet_glue.go"
	if strings.HasSuffix(name, "_test.go") {
		glue = "ctnet_glue_" + pkg + "_test.go"
	}
	return os.WriteFile(filepath.Join(filepath.Dir(name), glue), fmt.Appendf(nil, "package %s\n\nimport _ %q\n", pkg, gluePath), 0o600)
}

// goCommand returns the output of a go command that compiles what is in a copy, or looks at it.
func (t *tree) goCommand(dir, command string, args ...string) (string, error) {
	return gotest.GoCommand(dir, append([]string{command, "-mod=mod", "-overlay=" + t.overlay}, args...)...)
}

// packageOf returns the name of a file's package.
func packageOf(src []byte) (string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "", src, parser.PackageClauseOnly)
	if err != nil {
		return "", err
	}
	return f.Name.Name, nil
}
