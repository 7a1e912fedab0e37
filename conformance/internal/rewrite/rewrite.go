// Package rewrite changes Go source files so that they use another package in place of package
// net. The files keep their lines, so a failure names the line of the original.
package rewrite

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Imports replaces imports by what to returns for their paths, if anything: a path in quotes,
// after a name if the file gives none.
func Imports(src []byte, to func(path string) string) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", src, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var e Edits
	for _, s := range f.Imports {
		path, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return nil, err
		}
		spec := to(path)
		if spec == "" {
			continue
		}
		if s.Name != nil {
			spec = spec[strings.Index(spec, `"`):]
		}
		e.Replace(fset, s.Path, spec)
	}
	return e.Apply(src), nil
}

// Names returns a file that declares, in a package of the same name, all that a package of
// Go's tree in goroot exports, except what own has.
func Names(goroot, path string, own map[string]bool) ([]byte, error) {
	kinds := map[string]string{} // how each name is declared
	add := func(kind string, id *ast.Ident) {
		if id.IsExported() && !own[id.Name] {
			kinds[id.Name] = kind
		}
	}
	pkg, err := build.ImportDir(filepath.Join(goroot, "src", path), 0)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(pkg.GoFiles, pkg.CgoFiles) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, name), nil, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add("var", d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add("type", s.Name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(d.Tok.String(), id)
						}
					}
				}
			}
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "package %s\n\nimport %q\n\n", pkg.Name, path)
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(&b, "%s %s = %s.%[2]s\n", kinds[name], name, pkg.Name)
	}
	return b.Bytes(), nil
}

// An edit replaces the bytes of a file from one offset to another.
type edit struct {
	from, to int
	text     string
}

// Edits change a file in place.
type Edits []edit

// Replace replaces a node of the file's syntax.
func (e *Edits) Replace(fset *token.FileSet, n ast.Node, text string) {
	*e = append(*e, edit{fset.Position(n.Pos()).Offset, fset.Position(n.End()).Offset, text})
}

// Insert inserts text at a position.
func (e *Edits) Insert(fset *token.FileSet, at token.Pos, text string) {
	off := fset.Position(at).Offset
	*e = append(*e, edit{off, off, text})
}

// Apply returns the changed file.
func (e Edits) Apply(src []byte) []byte {
	slices.SortStableFunc(e, func(a, b edit) int { return a.from - b.from })
	var out []byte
	done := 0
	for _, e := range e {
		out = append(out, src[done:e.from]...)
		out = append(out, e.text...)
		done = e.to
	}
	return append(out, src[done:]...)
}
