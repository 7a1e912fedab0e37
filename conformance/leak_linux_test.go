package conformance

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// long returns short, or l if CTNET_LONG_TEST is set.
func long(short, l int) int {
	if os.Getenv("CTNET_LONG_TEST") != "" {
		return l
	}
	return short
}

// A usage is what this process has of the things that could leak.
type usage struct {
	fds, goroutines, mappings int
}

func fds(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// mappings counts the mappings of shared memory whose names begin with this.
func mappings(t testing.TB, name string) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return strings.Count(string(maps), "memfd:"+name)
}

func measure(t testing.TB) usage {
	t.Helper()
	return usage{fds(t, os.Getpid()), runtime.NumGoroutine(), mappings(t, "ctnet")}
}

// measureIdle measures once no application has a pair any more: those without
// connections are kept for two seconds.
func measureIdle(t testing.TB) usage {
	t.Helper()
	eventually(t, func() bool { return mappings(t, "ctnet events") == 0 })
	return measure(t)
}

// requireBack waits until there is no more of anything than there was.
func requireBack(t testing.TB, before usage) {
	t.Helper()
	var now usage
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now = measure(t)
		if now.fds <= before.fds && now.goroutines <= before.goroutines && now.mappings <= before.mappings {
			return
		}
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("before %+v, now %+v\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
}

func requireWithin(t testing.TB, d time.Duration, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(d):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s took more than %v\n%s", what, d, stacks[:runtime.Stack(stacks, true)])
	}
}

func dial(t testing.TB, a *ctnet.App, name string) net.Conn {
	t.Helper()
	d := ctnet.Dialer{App: a}
	c, err := d.Dial("ct", name)
	require.NoError(t, err)
	return c
}

func requireEcho(t testing.TB, c net.Conn) {
	t.Helper()
	var b [5]byte
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, b[:])
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:]))
}

// TestLeakCycles makes one connection after the other.
func TestLeakCycles(t *testing.T) {
	a := newApp(t)
	cmd := startProcess(t, "echo", t.Name())
	held := dial(t, a, t.Name()) // keeps the pair
	defer held.Close()
	cycle := func() {
		c := dial(t, a, t.Name())
		requireEcho(t, c)
		require.NoError(t, c.Close())
	}
	for range 100 {
		cycle()
	}
	before, peer := measure(t), fds(t, cmd.Process.Pid)
	for range long(2000, 100_000) {
		cycle()
	}
	requireBack(t, before)
	eventually(t, func() bool { return fds(t, cmd.Process.Pid) <= peer })
}

// TestConnsUseNoFDs has many connections at once. The long test is not for the
// race detector, which takes no more than 8,128 goroutines in the other process.
func TestConnsUseNoFDs(t *testing.T) {
	a := newApp(t)
	cmd := startProcess(t, "echo", t.Name())
	requireEchoOnce(t, a)
	before := measureIdle(t)

	held := dial(t, a, t.Name())
	requireEcho(t, held)
	conns := []net.Conn{held}
	own, peer := fds(t, os.Getpid()), fds(t, cmd.Process.Pid)
	for range long(2000, 10_000) {
		c := dial(t, a, t.Name())
		conns = append(conns, c)
	}
	for _, c := range conns {
		requireEcho(t, c)
	}
	require.LessOrEqual(t, fds(t, os.Getpid()), own)
	// The server's end of a segment's descriptor is closed once it is mapped.
	eventually(t, func() bool { return fds(t, cmd.Process.Pid) <= peer })
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	requireBack(t, before)
}

// requireEchoOnce makes the application and the runtime have what they keep.
func requireEchoOnce(t testing.TB, a *ctnet.App) {
	t.Helper()
	c := dial(t, a, t.Name())
	requireEcho(t, c)
	require.NoError(t, c.Close())
}

// TestLeakAppClose closes applications that are connected to each other, and
// each to itself, while calls wait.
func TestLeakAppClose(t *testing.T) {
	before := measureIdle(t)
	apps := make([]*ctnet.App, 2)
	names := []string{t.Name() + "-0", t.Name() + "-1"}
	lns := make([]net.Listener, 2)
	for i := range apps {
		apps[i] = newApp(t)
		lc := ctnet.ListenConfig{App: apps[i]}
		var err error
		lns[i], err = lc.Listen(t.Context(), "ct", names[i])
		require.NoError(t, err)
	}
	var pending []net.Conn
	var calls sync.WaitGroup
	use := func(c net.Conn) {
		calls.Go(func() { io.Copy(io.Discard, c) })
		calls.Go(func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					c.Close()
					return
				}
			}
		})
	}
	for _, ln := range lns {
		for _, a := range apps {
			for range 5 {
				c := dial(t, a, ln.Addr().String())
				s, err := ln.Accept()
				require.NoError(t, err)
				use(c)
				use(s)
			}
			pending = append(pending, dial(t, a, ln.Addr().String())) // never accepted
		}
		calls.Go(func() { ln.Accept() })
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for _, a := range apps {
			a.Close()
		}
		calls.Wait()
	}()
	requireWithin(t, 20*time.Second, closed, "App.Close")
	for _, c := range pending {
		c.Close() // for those that the peer's Close had reset before
	}
	requireBack(t, before)
}

// TestLeakPeerKilled kills the other process in the midst of traffic.
func TestLeakPeerKilled(t *testing.T) {
	a := newApp(t)
	cmd := startProcess(t, "echo", t.Name())
	requireEchoOnce(t, a)
	before := measureIdle(t)

	conns := make([]net.Conn, 50)
	for i := range conns {
		conns[i] = dial(t, a, t.Name())
		requireEcho(t, conns[i])
	}
	errs := make(chan error, 2*len(conns))
	var calls sync.WaitGroup
	for _, c := range conns {
		calls.Go(func() {
			_, err := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
			errs <- err
		})
		calls.Go(func() {
			for b := make([]byte, 10_000); ; {
				if _, err := c.Write(b); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	done := make(chan struct{})
	go func() {
		calls.Wait()
		close(done)
	}()
	requireWithin(t, time.Second, done, "a call after the peer was killed")
	close(errs)
	for err := range errs {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	requireBack(t, before)
}
