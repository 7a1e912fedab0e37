package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlaces runs each place, and requires that the connections take the way that it says, for the
// reason that it says, and that who can't use shared memory logs it.
func TestPlaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be several users, and make namespaces")
	}
	unshared := exec.Command("true")
	unshared.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := unshared.Run(); err != nil {
		t.Skipf("no namespaces can be made here: %v", err)
	}
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/var/tmp", "ctnet-deployments-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, build(dir, here))
	files, err := filepath.Glob("places/[0-9]*.sh")
	require.NoError(t, err)
	require.Greater(t, len(files), 20)
	for _, file := range files {
		p, err := readPlace(file)
		require.NoError(t, err)
		t.Run(p.name, func(t *testing.T) {
			r, err := p.run(filepath.Join(dir, "tool"), way{name: "now", peer: filepath.Join(dir, "peer")}, 0)
			if err != nil && strings.Contains(err.Error(), noGroup) {
				t.Skip(err)
			}
			require.NoError(t, err)
			require.Equal(t, p.now, r.way+" "+r.why, r.said)
			if p.says != "" {
				require.Equal(t, 1, strings.Count(r.said, p.says), r.said)
			} else if strings.HasPrefix(p.now, "shared-memory") {
				require.Empty(t, r.said)
			}
		})
	}
	left, err := filepath.Glob("/tmp/ctnet-place-*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestDocumented makes sure that each place is in the document's table, with its way and reason.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/deployments.md")
	require.NoError(t, err)
	files, err := filepath.Glob("places/[0-9]*.sh")
	require.NoError(t, err)
	for _, file := range files {
		p, err := readPlace(file)
		require.NoError(t, err)
		way, why, _ := strings.Cut(p.now, " ")
		found := false
		for line := range strings.Lines(string(doc)) {
			f := strings.Split(line, " | ")
			found = found || len(f) > 3 && strings.TrimPrefix(f[0], "| ") == p.name && f[2] == way && f[3] == why
		}
		require.True(t, found, "%s: %s, %s", p.name, way, why)
	}
}
