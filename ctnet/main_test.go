package ctnet

import (
	"os"
	"testing"
)

// TestMain gives the tests a directory of their own, in which no other process
// listens.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctnet-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}
