package ctdebug

import (
	"os"
	"testing"
)

// TestMain has the applications find each other in a directory of their own.
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
