// Package harness is for the tests of conformance and of the packages below it: it starts other
// processes, makes applications, waits with a bound, and counts what could leak.
package harness

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rendezvous"
	"github.com/stretchr/testify/require"
)

// RoleEnv is the environment variable with the role of another process.
const RoleEnv = "CTNET_TEST_ROLE"

// Main runs a package's tests, in a rendezvous directory of their own; with CTNET_TEST_PLACE=network
// in the environment, in the network namespace. They start their own binary again as the other
// process, with its role in the environment: there Main plays that instead.
func Main(m *testing.M, roles map[string]func()) {
	if role := os.Getenv(RoleEnv); role != "" {
		roles[role]()
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "ctnet-test-")
	Check(err)
	os.Setenv("CTNET_DIR", dir)
	if os.Getenv("CTNET_TEST_PLACE") == "network" {
		os.Setenv("CTNET_DIR", "")
		OpenProbe()
	}
	// Built with the race detector a process waits for a second when it exits,
	// which for the many that are started is half of the tests' time.
	os.Setenv("GORACE", "atexit_sleep_ms=50 "+os.Getenv("GORACE"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// OpenProbe has the process open the socket with which it looks for listeners in the network
// namespace, as the first Dial there does. The socket stays, and is not to count as a leak.
func OpenProbe() { rendezvous.NewLookup("probe").Present() }

// Check ends a process that plays a role, if there is an error.
func Check(err error) {
	if err != nil {
		panic(err)
	}
}

// NewApp returns an application that is closed at the test's end.
func NewApp(t testing.TB) *ctnet.App {
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// IsCut reports whether a connection goes through shared memory.
func IsCut(c net.Conn) bool {
	_, ok := c.(*ctnet.Conn)
	return ok
}

// Long returns short, or long if CTNET_LONG_TEST is set.
func Long(short, long int) int {
	if os.Getenv("CTNET_LONG_TEST") != "" {
		return long
	}
	return short
}

// Eventually is require.Eventually without its goroutines, which would be counted.
func Eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "still not so after 10 seconds")
	}
}

// RequireWithin waits until done is closed, but no longer than d.
func RequireWithin(t testing.TB, d time.Duration, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s took more than %v\n%s", what, d, leakcheck.Stacks())
	}
}

// AllDone returns a channel that is closed when the group is done.
func AllDone(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}
