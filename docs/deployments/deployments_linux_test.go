package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"

	_ "cutthrough.example/ctnet" // which the programs use: if it changes, a cached result is not valid
)

func allPlaces(t *testing.T) []place {
	t.Helper()
	places, err := readPlaces("places")
	require.NoError(t, err)
	return places
}

// buildPrograms builds the programs for tests that run places, and skips those that can't.
func buildPrograms(t *testing.T) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range []string{"unshare", "nsenter", "setpriv", "timeout", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs util-linux, coreutils and iproute2: %v", err)
		}
	}
	if out, err := exec.Command("unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("root may not make namespaces here: %s", out)
	}
	dir = filepath.Join(t.TempDir(), "programs")
	require.NoError(t, build(".", dir, ""))
	// A cached result is not valid either if one of the files changes that this process opens.
	sources, err := filepath.Glob("*/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, sources)
	for _, path := range append(sources, "places/lib.sh") {
		_, err := os.ReadFile(path)
		require.NoError(t, err)
	}
	return dir
}

// TestPlaces runs every place.
func TestPlaces(t *testing.T) {
	programs := buildPrograms(t)
	for _, p := range allPlaces(t) {
		t.Run(p.name, func(t *testing.T) {
			if why := p.missing(); why != "" {
				t.Skip("needs " + why)
			}
			r, err := p.run(programs)
			require.NoError(t, err)
			require.NoError(t, p.check(r), "%s", r.output)
		})
	}
}

// TestPlaceEnds has a place that hangs, with a process that goes on in the background, and one whose
// server does not start. Both fail, and leave nothing that keeps the output open.
func TestPlaceEnds(t *testing.T) {
	programs := buildPrograms(t)
	dir := t.TempDir()
	lib, err := os.ReadFile("places/lib.sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lib.sh"), lib, 0o600))
	for script, problem := range map[string]string{
		"sleep 100 & sleep 100":            "exit status 137",
		"server way serve tcp:192.0.2.1:1": "cannot assign requested address",
	} {
		p := place{path: filepath.Join(dir, "place.sh")}
		require.NoError(t, os.WriteFile(p.path, []byte(". \"$(dirname \"$0\")/lib.sh\"\n"+script+"\n"), 0o600))
		begin := time.Now()
		_, err := p.run(programs, "PLACE_TIME=1")
		require.ErrorContains(t, err, problem)
		require.Less(t, time.Since(begin), 50*time.Second)
	}
}

// TestCheck has places that are not as their scripts say.
func TestCheck(t *testing.T) {
	p := place{way: "kernel's socket", why: "absent", log: "no cut-through"}
	const good = "way: kernel's socket\nwhy: absent: nobody\nserver: a connection by kernel's socket\nlistener: WARN no cut-through\n"
	for _, c := range []struct{ out, problem string }{
		{good, ""},
		{strings.Replace(good, "way: kernel's socket", "way: shared memory, with user 1", 1), "the way is"},
		{strings.Replace(good, "way: kernel's socket", "way: none", 1), "the way is"},
		{strings.Replace(good, "absent", "forbidden", 1), "the reason is"},
		{strings.Replace(good, "by kernel's socket", "by shared memory", 1), "the server says"},
		{strings.Replace(good, "server: ", "", 1), "the server says"},
		{strings.Replace(good, "listener: ", "", 1), "has logged"},
		{good + "listener: WARN no cut-through\n", "has logged"},
	} {
		r, err := parse([]byte(c.out))
		require.NoError(t, err)
		if err := p.check(r); c.problem == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.problem, c.out)
		}
	}
	shared := place{way: "shared memory"}
	r, err := parse([]byte("way: shared memory\nserver: a connection by shared memory\nwhy: absent\n"))
	require.NoError(t, err)
	require.ErrorContains(t, shared.check(r), "the reason is")
	r.why, r.log = "", []string{"anything"}
	require.ErrorContains(t, shared.check(r), "has logged")
	_, err = parse([]byte("sh: not found\n"))
	require.Error(t, err)
}

// TestNoPlaceIsForgotten looks for scripts that are in no group.
func TestNoPlaceIsForgotten(t *testing.T) {
	scripts, err := filepath.Glob("places/*.sh")
	require.NoError(t, err)
	var known []string
	for _, p := range allPlaces(t) {
		known = append(known, p.path)
	}
	require.ElementsMatch(t, scripts, append(known, "places/lib.sh"))
}

// TestImitates makes sure that the files which the scripts imitate have the settings that they name.
func TestImitates(t *testing.T) {
	named := make(map[string]bool)
	for _, p := range allPlaces(t) {
		for _, part := range p.imitates {
			file, settings, ok := strings.Cut(part, ": ")
			require.True(t, ok, "%s: %s", p.path, part)
			b, err := os.ReadFile(file)
			require.NoError(t, err, p.path)
			named[file] = true
			var lines []string
			for line := range strings.Lines(string(b)) {
				lines = append(lines, strings.TrimSpace(line))
			}
			for setting := range strings.SplitSeq(settings, ", ") {
				require.Contains(t, lines, setting, "%s: %s", p.path, file)
			}
		}
	}
	for _, pattern := range []string{"systemd/*", "docker/*", "kubernetes/*", "rootless/*"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, file := range files {
			require.True(t, named[file], "no place imitates %s", file)
			if strings.HasSuffix(file, ".yaml") {
				b, err := os.ReadFile(file)
				require.NoError(t, err)
				var document any
				require.NoError(t, yaml.Unmarshal(b, &document), file)
			}
		}
	}
}

// TestPage makes sure that docs/deployments.md has each place, with the way that its connections
// take, and each file.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("../deployments.md")
	require.NoError(t, err)
	page := string(b)
	for _, p := range allPlaces(t) {
		link := "](deployments/places/" + p.name + ".sh)"
		require.Contains(t, page, link)
		_, row, _ := strings.Cut(page, "| ["+p.title+link)
		row, _, _ = strings.Cut(row, "\n")
		cells := strings.Split(row, " | ")
		require.Len(t, cells, 7, p.title)
		require.Equal(t, p.way, cells[3], p.title)
		require.Equal(t, p.because+" |", cells[6], p.title)
		for _, part := range p.imitates {
			file, _, _ := strings.Cut(part, ": ")
			require.Contains(t, page, "](deployments/"+file+")", p.title)
		}
	}
}
