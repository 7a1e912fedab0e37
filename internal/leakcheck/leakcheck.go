// Package leakcheck lets a test fail if it leaks goroutines, file descriptors or mappings of
// shared memory.
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

// Patience is how long a test waits for something that ends by itself.
const Patience = 10 * time.Second

// A Usage counts what could leak in this process. A count that needs /proc is 0 without it.
type Usage struct {
	FDs, Goroutines, Mappings int
}

// Now returns the current Usage.
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

// Mappings returns the number of mappings of memory whose name begins with name.
func Mappings(name string) int {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Count(string(maps), "memfd:"+name)
}

// within reports whether no count exceeds limit's.
func (u Usage) within(limit Usage) bool {
	return u.FDs <= limit.FDs && u.Goroutines <= limit.Goroutines && u.Mappings <= limit.Mappings
}

// RequireBack waits until no count exceeds before's. It ends the test if that takes longer than
// Patience.
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

// Check lets the test fail if at its end a count exceeds the current one. Cleanups that are
// registered after Check run before its comparison.
func Check(t testing.TB) {
	t.Helper()
	// The first socket makes the runtime open descriptors that it keeps.
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
