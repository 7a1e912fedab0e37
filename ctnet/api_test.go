package ctnet_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "TestAPI writes the files api.txt")

// TestAPI compares the exported API with the files api.txt, so that a change of it is
// a deliberate one and part of the commit's diff.
//
// The check reads source, not types: for a constant that another package defines it has the
// expression and not the value. It leaves comments out.
func TestAPI(t *testing.T) {
	for _, dir := range []string{".", "ctdebug", "ctexpvar", "../ctgrpc", "../ctotel", "../ctprom"} {
		golden := filepath.Join(dir, "api.txt")
		was, err := os.ReadFile(golden)
		if errors.Is(err, fs.ErrNotExist) && !exists(dir) {
			continue // a nested module is not part of a download of this one
		}
		if err != nil && !*update {
			t.Fatal(err)
		}
		is, err := exported(dir)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(golden, []byte(is), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if d := lineDiff(strings.ReplaceAll(string(was), "\r\n", "\n"), is); d != "" {
			t.Errorf("the exported API is not the one in ctnet/%s:\n%s\n"+
				"If that is intended run\n\n\tgo test ./ctnet -run TestAPI -update\n\n"+
				"and commit the file together with an entry in CHANGELOG.md.", filepath.ToSlash(golden), d)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// platforms are those whose API is compared. They differ in files, if at all.
var platforms = []string{"linux/amd64", "linux/386", "darwin/arm64", "freebsd/amd64", "windows/amd64"}

// exported returns the declarations that a package exports. A declaration that not all
// platforms have is preceded by the ones that have it.
func exported(dir string) (string, error) {
	var order []string // all declarations, each where it comes first
	on := make(map[string][]string)
	for _, platform := range platforms {
		decls, err := exportedOn(dir, platform)
		if err != nil {
			return "", err
		}
		at := 0
		for _, d := range decls {
			if i := slices.Index(order, d); i >= 0 {
				at = i + 1
			} else {
				order = slices.Insert(order, at, d)
				at++
			}
			on[d] = append(on[d], platform)
		}
	}
	var b strings.Builder
	for i, d := range order {
		if i == 1 || i > 1 && (strings.Contains(d, "\n") || strings.Contains(order[i-1], "\n") || strings.HasPrefix(d, "type ")) {
			b.WriteByte('\n')
		}
		if len(on[d]) < len(platforms) {
			fmt.Fprintf(&b, "// %s\n", strings.Join(on[d], " "))
		}
		b.WriteString(d + "\n")
	}
	return b.String(), nil
}

// exportedOn returns the declarations on one platform in the order of go doc.
func exportedOn(dir, platform string) ([]string, error) {
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, _ = strings.Cut(platform, "/")
	ctx.CgoEnabled = false
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		if ok, err := ctx.MatchFile(dir, e.Name()); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	pkg, err := doc.NewFromFiles(fset, files, "cutthrough.example/"+filepath.Base(dir))
	if err != nil {
		return nil, err
	}

	decls := []string{"package " + pkg.Name}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			decls = append(decls, source(fset, v.Decl))
		}
	}
	funcs := func(fs []*doc.Func) {
		for _, f := range fs {
			f.Decl.Body = nil
			decls = append(decls, source(fset, f.Decl))
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	funcs(pkg.Funcs)
	for _, t := range pkg.Types {
		decls = append(decls, source(fset, t.Decl))
		values(t.Consts)
		values(t.Vars)
		funcs(t.Funcs)
		funcs(t.Methods)
	}
	return decls, nil
}

// source returns a declaration without blank lines and without alignment, so that a longer
// name changes one line only.
func source(fset *token.FileSet, decl ast.Decl) string {
	var b strings.Builder
	if err := (&printer.Config{Mode: printer.RawFormat}).Fprint(&b, fset, decl); err != nil {
		panic(err) // a strings.Builder has no errors
	}
	var lines []string
	for line := range strings.Lines(strings.NewReplacer("\f", "\n", "\v", " ", "\xff", "").Replace(b.String())) {
		text := strings.Join(strings.Fields(line), " ")
		if text == "" {
			continue
		}
		if line[0] == '\t' || line[0] == ' ' {
			text = "\t" + text
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n")
}

// lineDiff returns the lines that two texts do not share, with two lines around them, or
// "" for texts that are the same.
func lineDiff(was, is string) string {
	if was == is {
		return ""
	}
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	common := make([][]int, len(a)+1) // lines that a[i:] and b[j:] have in common
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var all []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			all = append(all, "  "+a[i])
			i++
			j++
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			all = append(all, "- "+a[i])
			i++
		default:
			all = append(all, "+ "+b[j])
			j++
		}
	}
	const around = 2
	var out []string
	last := 0
	for i, line := range all {
		near := all[max(0, i-around):min(len(all), i+around+1)]
		if !slices.ContainsFunc(near, func(l string) bool { return l[0] != ' ' }) {
			continue
		}
		if i != last {
			out = append(out, "  ...")
		}
		out = append(out, line)
		last = i + 1
	}
	return strings.Join(out, "\n")
}
