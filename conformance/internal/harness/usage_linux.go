package harness

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/leakcheck"
)

// FDs counts a process's file descriptors.
func FDs(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// MeasureIdle measures once no application has a pair any more. A pair without connections is kept
// for two seconds.
func MeasureIdle(t testing.TB) leakcheck.Usage {
	t.Helper()
	Eventually(t, func() bool { return leakcheck.Mappings("ctnet events") == 0 })
	return leakcheck.Now()
}
