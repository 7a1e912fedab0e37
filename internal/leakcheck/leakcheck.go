// Package leakcheck has tests fail that leave anything behind: goroutines, file descriptors
// or mappings of shared memory.
package leakcheck

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Patience is how long what ends by itself may take.
const Patience = 10 * time.Second

// A Usage is what this process has of what could leak. Where /proc does not tell it is 0.
type Usage struct {
	FDs, Goroutines, Mappings int
}

// Now returns what there is now.
func Now() Usage {
	return Usage{countFDs("/proc/self/fd"), runtime.NumGoroutine(), Mappings("ctnet")}
}

func countFDs(dir string) int {
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return len(names)
}

// Mappings returns how many mappings there are of memory whose name begins with name.
func Mappings(name string) int {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Count(string(maps), "memfd:"+name)
}

// within reports whether there is no more of anything than in limit.
func (u Usage) within(limit Usage) bool {
	return u.FDs <= limit.FDs && u.Goroutines <= limit.Goroutines && u.Mappings <= limit.Mappings
}

// RequireBack waits until there is no more of anything than before, and ends the test if
// that does not come.
func RequireBack(t testing.TB, before Usage) {
	t.Helper()
	var now Usage
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now = Now(); now.within(before) {
			return
		}
	}
	t.Fatalf("leak: before %+v, now %+v\n%s", before, now, Stacks())
}

// Check has the test fail if there is more of anything after it, and after all that was
// said to be cleaned up later, than there is now.
func Check(t testing.TB) {
	t.Helper()
	// The runtime keeps what it needs to wait for a socket.
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	before := Now()
	t.Cleanup(func() { RequireBack(t, before) })
}

// Stacks returns the stacks of all goroutines.
func Stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}
