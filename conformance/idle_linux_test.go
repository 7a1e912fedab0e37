package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"github.com/stretchr/testify/require"
)

// switches returns how often the threads of a process have been given a CPU.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			if strings.HasSuffix(name, "ctxt_switches") {
				var v int
				_, err := fmt.Sscan(value, &v)
				require.NoError(t, err)
				n += v
			}
		}
	}
	return n
}

// TestIdle has a process with a thousand open connections on which nothing
// happens. None of its threads may run: there must be several quarters of a second in a row in
// which none does. With polling of any kind there would be none. The runtime's own work after the
// connections were made ends within a few seconds.
func TestIdle(t *testing.T) {
	t.Setenv("CTNET_DIR", "") // a listener looks after its file in a directory every second
	a, name := harness.NewApp(t), fmt.Sprintf("%s-%d", t.Name(), os.Getpid())
	cmd := startProcess(t, "echo", name)
	for range 1000 {
		c := dial(t, a, name)
		defer c.Close()
		requireEcho(t, c)
	}
	quiet := 0
	for end := time.Now().Add(20 * time.Second); quiet < 4; {
		require.True(t, time.Now().Before(end), "the process does not come to rest")
		before := switches(t, cmd.Process.Pid)
		time.Sleep(250 * time.Millisecond)
		if switches(t, cmd.Process.Pid) == before {
			quiet++
		} else {
			quiet = 0
		}
	}
}
