package ctnet

import (
	"os"
	"testing"
)

// TestMain gives the tests a directory of their own, in which no other process
// listens. A process that a test starts uses that test's.
func TestMain(m *testing.M) {
	const child = "CTNET_TEST_CHILD"
	if os.Getenv(child) != "" {
		os.Exit(m.Run())
	}
	os.Setenv(child, "1")
	dir, err := os.MkdirTemp("", "ctnet-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}
