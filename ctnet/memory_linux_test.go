package ctnet

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGroupLimit finds the least limit of a process's control groups, of either version.
func TestGroupLimit(t *testing.T) {
	mount := t.TempDir()
	for file, text := range map[string]string{
		"memory.max":                        "max\n",
		"a/memory.max":                      "4000\n",
		"a/b/memory.max":                    "max\n",
		"memory/memory.limit_in_bytes":      "9223372036854771712\n",
		"memory/c/memory.limit_in_bytes":    "3000\n",
		"memory/c/d/memory.limit_in_bytes":  "5000\n",
		"memory/none/memory.limit_in_bytes": "1\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(mount, file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(mount, file), []byte(text), 0o644))
	}
	for groups, want := range map[string]int64{
		"":                                1 << 62,
		"0::/\n":                          1 << 62,
		"0::/a/b\n":                       4000,
		"0::/not/here\n":                  1 << 62,
		"9:cpu:/none\n4:memory:/c/d\n":    3000,
		"4:cpu,memory:/c/d\n0::/a\n":      3000,
		"4:memory:/of/the/host\n0::/a\n":  4000,
		"4:memory\nnonsense\n0::../../\n": 1 << 62,
	} {
		require.Equal(t, want, min(groupLimit(groups, mount), 1<<62), groups)
	}
	require.Greater(t, defaultMemory(), int64(0))
}
