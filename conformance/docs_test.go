package conformance

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readDocs returns the text of every document, by its path from the root.
func readDocs(t testing.TB, root string) map[string]string {
	docs := make(map[string]string)
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		docs[filepath.ToSlash(name)] = strings.ReplaceAll(string(b), "\r\n", "\n")
		return err
	}))
	return docs
}

var (
	fenced   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	indented = regexp.MustCompile(`(?m)^    .*$`)
	inline   = regexp.MustCompile("`[^`\n]*`")
	link     = regexp.MustCompile(`\]\(([^()\s]*)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchored = regexp.MustCompile(`(?m)^<a id="([^"]*)"></a>$`)
)

// TestDocLinks makes sure that links between documents lead somewhere: to a file of the repository and
// to a heading in it. All documents in docs can be reached from the README.
func TestDocLinks(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	docs := readDocs(t, root)

	anchors := make(map[string]map[string]bool)
	for name, text := range docs {
		anchors[name] = make(map[string]bool)
		for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			anchors[name][anchor(m[1])] = true
		}
		for _, m := range anchored.FindAllStringSubmatch(text, -1) {
			anchors[name][m[1]] = true
		}
	}

	reached := make(map[string]bool)
	var links int
	for name, text := range docs {
		text = inline.ReplaceAllString(indented.ReplaceAllString(fenced.ReplaceAllString(text, ""), ""), "code")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			file, fragment, hasFragment := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if strings.HasPrefix(target, "..") {
				t.Errorf("%s: %s is outside the repository", name, m[1])
				continue
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
				continue
			}
			if hasFragment && !anchors[target][fragment] {
				t.Errorf("%s: %s: no such heading", name, m[1])
			}
			if name == "README.md" {
				reached[target] = true
			}
		}
	}
	require.Greater(t, links, 50, "the documents have more links than this test has found")
	for name := range docs {
		if filepath.Dir(name) == "docs" && !reached[name] {
			t.Errorf("README.md has no link to %s", name)
		}
	}
}

// anchor returns what a link to a heading has after the #, as code hosts make it: small letters,
// hyphens for spaces, and no punctuation.
func anchor(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	heading = regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(strings.TrimSpace(heading), " ", "-")
}

// docSources are files of tests; code in documents is taken from them.
var docSources = []string{
	"ctgrpc/example_test.go",
	"ctnet/ctdebug/example_import_test.go",
	"ctnet/ctdebug/example_test.go",
	"ctnet/ctexpvar/example_import_test.go",
	"ctnet/ctexpvar/example_test.go",
	"ctnet/example_synctest_test.go",
	"ctnet/example_test.go",
	"ctnet/example_unix_test.go",
	"ctotel/example_test.go",
	"ctprom/example_test.go",
	"examples/integrations/recipes_test.go",
}

// TestDocCode makes sure that Go code in documents is a part of a test, to the letter, so it compiles and
// does what it should. Paragraphs of a block may be in different places. Whole programs are run by
// TestGettingStarted, and the README's by TestReadme.
func TestDocCode(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	var sources []string
	for _, name := range docSources {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		require.NoError(t, err)
		sources = append(sources, strings.ReplaceAll(string(b), "\r\n", "\n"))
	}
	var blocks int
	for name, text := range readDocs(t, root) {
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			language, code := m[1], m[2]
			if language != "go" || name == "README.md" || strings.HasPrefix(code, "package main\n") {
				continue
			}
			blocks++
			for paragraph := range strings.SplitSeq(strings.Trim(code, "\n"), "\n\n") {
				if !isPart(paragraph, sources) {
					t.Errorf("%s: no file of docSources has this:\n%s", name, paragraph)
				}
			}
		}
	}
	require.Greater(t, blocks, 20, "the documents have more code than this test has found")
}

// isPart reports whether one of the sources has these lines, indented by any number of tabs.
func isPart(lines string, sources []string) bool {
	for _, source := range sources {
		for tabs := range 4 {
			indent := strings.Repeat("\t", tabs)
			if strings.Contains("\n"+source, "\n"+indent+strings.ReplaceAll(lines, "\n", "\n"+indent)+"\n") {
				return true
			}
		}
	}
	return false
}

// TestDocNames makes sure that what documents for users name is there: exported names of ctnet, fields
// and methods of its types, and environment variables.
func TestDocNames(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(root, "ctnet", "api.txt"))
	require.NoError(t, err)
	api := make(map[string]bool) // such as ctnet.Dialer, Dialer.Fallback and Conn.Peek
	var typ string
	for line := range strings.Lines(string(b)) {
		switch m := apiLine.FindStringSubmatch(line); {
		case m == nil:
		case m[2] != "": // func (a *Addr) Network() string
			api[m[1]+"."+m[2]] = true
		case m[3] != "": // func, type, const
			typ = m[3]
			api["ctnet."+typ] = true
		default: // MaxConns int, or Local, Remote string, or AnyPath Path = iota
			for name := range strings.SplitSeq(m[4], ", ") {
				api[typ+"."+name], api["ctnet."+name] = true, true
			}
		}
	}

	var sources strings.Builder
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		sources.Write(b)
		return err
	}))

	var names int
	for name, text := range readDocs(t, root) {
		for _, variable := range regexp.MustCompile(`\bCTNET_[A-Z_]+`).FindAllString(text, -1) {
			names++
			if !strings.Contains(sources.String(), `"`+variable+`"`) {
				t.Errorf("%s: no program reads %s", name, variable)
			}
		}
		if name == "docs/design.md" || name == "docs/protocol.md" || name == "docs/security.md" {
			continue // they have names of internal packages too
		}
		for _, m := range apiName.FindAllString(text, -1) {
			names++
			if !api[m] && !strings.Contains(sources.String(), `"`+m+`"`) { // not a trace's region either
				t.Errorf("%s: there is no %s", name, m)
			}
		}
	}
	require.Greater(t, names, 100, "the documents have more names than this test has found")
}

var (
	// apiLine matches a line of api.txt: the type and name of a method, the name of a function or
	// type, or the names of fields and constants.
	apiLine = regexp.MustCompile(`^(?:func \(\w+ \*?(\w+)\) (\w+)|(?:func|type|const) (\w+)|\t((?:[A-Z]\w*, )*[A-Z]\w*) ?)`)
	apiName = regexp.MustCompile(`\b(?:ctnet|App|AppConfig|Conn|Dialer|Fallback|ListenConfig|Listener|PeerLimits|Snapshot)\.[A-Z]\w*(?:\.stall)?`)
)
