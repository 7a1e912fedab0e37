//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cutthrough.example/conformance/internal/rewrite"
)

// A tree is a copy of Go's own with ctnet in it. Only there can the suites be compiled,
// as they and the packages they test use what is internal to Go.
type tree struct {
	goroot string // Go's own
	dir    string // the copy
}

const (
	ownModule = "cutthrough.example"
	shimPath  = ownModule + "/conformance/gosuites/shim"
	gluePath  = ownModule + "/conformance/gosuites/glue"
)

// makeTree makes a tree of the one in goroot, in an empty directory.
func makeTree(goroot, dir string) error {
	t := &tree{goroot: goroot, dir: dir}
	for _, step := range []func() error{t.copy, t.addModules, t.addNames, t.addNet} {
		if err := step(); err != nil {
			return err
		}
	}
	pkgs := slices.Clone(helpers)
	for _, s := range suites {
		if s.pkg == "net" {
			continue
		}
		pkgs = append(pkgs, s.pkg)
		src := fmt.Sprintf("package %s_test\n\nimport _ %q\n", path.Base(s.pkg), inside(gluePath))
		if err := t.put(s.pkg+"/ct_x_test.go", []byte(src)); err != nil {
			return err
		}
	}
	for _, pkg := range pkgs {
		if err := t.useShim(pkg); err != nil {
			return err
		}
	}
	return nil
}

// copy copies the library, and makes links to the rest.
func (t *tree) copy() error {
	entries, err := os.ReadDir(t.goroot)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "src" {
			continue
		}
		if err := os.Symlink(filepath.Join(t.goroot, e.Name()), filepath.Join(t.dir, e.Name())); err != nil {
			return err
		}
	}
	src := os.DirFS(filepath.Join(t.goroot, "src"))
	return fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == "cmd":
			if err := os.Symlink(filepath.Join(t.goroot, "src/cmd"), filepath.Join(t.dir, "src/cmd")); err != nil {
				return err
			}
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(t.dir, "src", name), 0o755)
		}
		b, err := fs.ReadFile(src, name)
		if err != nil {
			return err
		}
		return t.put(name, b)
	})
}

// put writes the tree's file src/name.
func (t *tree) put(name string, b []byte) error {
	file := filepath.Join(t.dir, "src", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// inside returns where in Go's tree a package is put.
func inside(path string) string { return "internal/" + path }

// addModules puts ctnet and the shim into the tree, with all that it needs.
func (t *tree) addModules() error {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,GoFiles,SFiles,HFiles", gluePath)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p struct {
			ImportPath, Dir         string
			Standard                bool
			GoFiles, SFiles, HFiles []string
		}
		if err := d.Decode(&p); err != nil {
			return err
		}
		if p.Standard {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.SFiles, p.HFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err == nil && strings.HasSuffix(name, ".go") {
				b, err = rewrite.Imports(b, func(path string) string {
					if strings.Contains(strings.Split(path, "/")[0], ".") {
						return strconv.Quote(inside(path))
					}
					return ""
				})
			}
			if err == nil {
				err = t.put(inside(p.ImportPath)+"/"+name, b)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// addNames adds to the shim all that package net exports and the shim does not.
func (t *tree) addNames() error {
	own := map[string]bool{"Dial": true, "DialTimeout": true, "Dialer": true, "Listen": true, "ListenConfig": true}
	maps.Copy(own, interfaces)
	b, err := rewrite.Names(t.goroot, "net", own)
	if err != nil {
		return err
	}
	return t.put(inside(shimPath)+"/names.go", b)
}

// useShim makes a package of Go's, and its tests, import the shim for package net.
func (t *tree) useShim(path string) error {
	dir := filepath.Join(t.goroot, "src", path)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		edited, err := shimFor(b)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, edited) {
			if err := t.put(path+"/"+filepath.Base(name), edited); err != nil {
				return err
			}
		}
	}
	return nil
}

// interfaces are the types of package net's, used by pointers, that are interfaces in
// the shim.
var interfaces = map[string]bool{"TCPConn": true, "TCPListener": true}

// shimFor makes a file use the shim in place of package net, and ask for methods where
// it asks for a type that ctnet's connections are not of.
func shimFor(src []byte) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", src, 0)
	if err != nil {
		return nil, err
	}
	var e rewrite.Edits
	ast.Inspect(f, func(n ast.Node) bool {
		if star, ok := n.(*ast.StarExpr); ok {
			if sel, ok := star.X.(*ast.SelectorExpr); ok {
				if id, ok := sel.X.(*ast.Ident); ok && id.Name == "net" && interfaces[sel.Sel.Name] {
					e.Replace(fset, star, "net."+sel.Sel.Name)
				}
			}
		}
		return true
	})
	return rewrite.Imports(e.Apply(src), func(path string) string {
		if path == "net" {
			return "net " + strconv.Quote(inside(shimPath))
		}
		return ""
	})
}
