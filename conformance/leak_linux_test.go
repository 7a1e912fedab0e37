package conformance

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

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
	a := harness.NewApp(t)
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
	before, peer := leakcheck.Now(), harness.FDs(t, cmd.Process.Pid)
	for range harness.Long(2000, 100_000) {
		cycle()
	}
	leakcheck.RequireBack(t, before)
	harness.Eventually(t, func() bool { return harness.FDs(t, cmd.Process.Pid) <= peer })
}

// TestConnsUseNoFDs has many connections at once. The long test is not for the
// race detector, which takes no more than 8,128 goroutines in the other process.
func TestConnsUseNoFDs(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	requireEchoOnce(t, a)
	before := harness.MeasureIdle(t)

	held := dial(t, a, t.Name())
	requireEcho(t, held)
	conns := []net.Conn{held}
	own, peer := harness.FDs(t, os.Getpid()), harness.FDs(t, cmd.Process.Pid)
	for range harness.Long(2000, 10_000) {
		c := dial(t, a, t.Name())
		conns = append(conns, c)
	}
	for _, c := range conns {
		requireEcho(t, c)
	}
	require.LessOrEqual(t, harness.FDs(t, os.Getpid()), own)
	// The server's end of a segment's descriptor is closed once it is mapped.
	harness.Eventually(t, func() bool { return harness.FDs(t, cmd.Process.Pid) <= peer })
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	leakcheck.RequireBack(t, before)
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
	before := harness.MeasureIdle(t)
	apps := make([]*ctnet.App, 2)
	names := []string{t.Name() + "-0", t.Name() + "-1"}
	lns := make([]net.Listener, 2)
	for i := range apps {
		apps[i] = harness.NewApp(t)
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
	harness.RequireWithin(t, 20*time.Second, closed, "App.Close")
	for _, c := range pending {
		c.Close() // for those that the peer's Close had reset before
	}
	leakcheck.RequireBack(t, before)
}
