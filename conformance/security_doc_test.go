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

// TestSecurityDoc makes sure that the tests exist that docs/security.md names. Each name has the
// last element of its directory before it, as names of tests are not unique.
func TestSecurityDoc(t *testing.T) {
	tests := make(map[string]bool) // by name, such as hostile.TestFloods
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.[TF]\)`)
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(b, -1) {
			tests[filepath.Base(filepath.Dir(path))+"."+string(m[1])] = true
		}
		return err
	}))

	doc, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	require.NoError(t, err)
	names := regexp.MustCompile(`(?:\w+\.)?\b(?:Test|Fuzz)[A-Z]\w*`).FindAllString(string(doc), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		if !tests[name] {
			t.Errorf("docs/security.md names %s; there is no such test, or its directory is missing", name)
		}
	}
}
