package harness

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Usage is what this process has of the things that could leak.
type Usage struct {
	fds, goroutines, mappings int
}

// FDs counts a process's file descriptors.
func FDs(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// Mappings counts the mappings of shared memory whose names begin with this.
func Mappings(t testing.TB, name string) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return strings.Count(string(maps), "memfd:"+name)
}

func Measure(t testing.TB) Usage {
	t.Helper()
	return Usage{FDs(t, os.Getpid()), runtime.NumGoroutine(), Mappings(t, "ctnet")}
}

// MeasureIdle measures once no application has a pair any more: those without
// connections are kept for two seconds.
func MeasureIdle(t testing.TB) Usage {
	t.Helper()
	Eventually(t, func() bool { return Mappings(t, "ctnet events") == 0 })
	return Measure(t)
}

// RequireBack waits until there is no more of anything than there was.
func RequireBack(t testing.TB, before Usage) {
	t.Helper()
	var now Usage
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now = Measure(t)
		if now.fds <= before.fds && now.goroutines <= before.goroutines && now.mappings <= before.mappings {
			return
		}
	}
	t.Fatalf("before %+v, now %+v\n%s", before, now, stacks())
}
