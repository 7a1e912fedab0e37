// Package integrity tests that no byte is wrong, none is lost, and no call hangs.
//
// TestTraffic makes connections of every shape from a seed, lets both ends use them in all
// ways, and checks the outcome by rules (rules_test.go). Every byte depends on its
// connection, direction and position (pattern_test.go), so that stale, zero, swapped and
// repeated bytes all show. The other tests try single moments again and again.
//
// Each test takes a second or so, and with -integrity.time as long as that says:
//
//	go test ./conformance/integrity -run Traffic -timeout 0 -integrity.time=10m
package integrity

import (
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

var (
	goOn     = flag.Duration("integrity.time", 0, "how long each test goes on")
	seedFlag = flag.Uint64("integrity.seed", 0, "what TestTraffic makes its connections from; 0 is a new one")
)

// roles are what other processes do.
var roles = map[string]func(){}

func TestMain(m *testing.M) { harness.Main(m, roles) }

// limit is the longest time of any try, on a busy machine too, if nothing hangs.
const limit = time.Minute

// briefly is the longest that a test tries something without -integrity.time. Under the
// race detector fewer tries are made in it.
const briefly = time.Second

// tries yields 0, 1, 2 and so on: few times, or as many as there is time for; if
// -integrity.time is given, many times, or as many as that allows. A try that takes too long
// ends the process with all stacks.
func tries(few, many int) iter.Seq[int] {
	return func(yield func(int) bool) {
		n, end := few, time.Now().Add(briefly)
		if *goOn > 0 {
			n, end = many, time.Now().Add(*goOn)
		}
		watchdog := time.AfterFunc(2*limit, func() {
			debug.SetTraceback("all")
			panic(fmt.Sprintf("a try takes more than %v", 2*limit))
		})
		defer watchdog.Stop()
		for i := range n {
			watchdog.Reset(2 * limit)
			if time.Now().After(end) || !yield(i) {
				return
			}
		}
	}
}

// within calls f and fails with all stacks if it takes longer than limit.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	harness.RequireWithin(t, limit, done, what)
}

// crowd runs more threads than there are CPUs until the test's end, so that the kernel stops
// threads at any point while others go on.
func crowd(t *testing.T) {
	before := runtime.GOMAXPROCS(16)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// pause lets others run for a random while.
func pause(most int) {
	for range rand.IntN(most) {
		runtime.Gosched()
	}
}

// A place is a listener and a dialer that reaches it.
type place struct {
	ln     *ctnet.Listener
	dialer ctnet.Dialer
	apps   []*ctnet.App
}

// eachPlace runs a test within one application and between two.
func eachPlace(t *testing.T, lc ctnet.ListenConfig, test func(t *testing.T, p place)) {
	for _, name := range placeNames {
		t.Run(name, func(t *testing.T) {
			p := place{apps: []*ctnet.App{harness.NewApp(t)}}
			if name == twoApps {
				p.apps = append(p.apps, harness.NewApp(t))
			}
			lc.App = p.apps[0]
			ln, err := lc.Listen(t.Context(), "ct", t.Name())
			require.NoError(t, err)
			t.Cleanup(func() { ln.Close() })
			p.ln, p.dialer.App = ln.(*ctnet.Listener), p.apps[len(p.apps)-1]
			test(t, p)
			p.requireEmpty(t)
		})
	}
}

const twoApps = "two apps"

// placeNames are the places of eachPlace.
var placeNames = []string{"one app"}

// connect returns both ends of a new connection.
func (p place) connect(t testing.TB) (client, server *ctnet.Conn) {
	t.Helper()
	c, err := p.dialer.Dial("ct", p.ln.Addr().String())
	require.NoError(t, err)
	s, err := p.ln.AcceptConn()
	require.NoError(t, err)
	return c.(*ctnet.Conn), s
}

// requireEmpty waits until no application has a connection, accepted or not.
func (p place) requireEmpty(t testing.TB) {
	t.Helper()
	for _, a := range p.apps {
		requireNoConns(t, a)
	}
}

func requireNoConns(t testing.TB, a *ctnet.App) {
	t.Helper()
	empty := func() bool { return left(a) == 0 }
	harness.Eventually(t, empty)
}

// left counts the connections that an application has, accepted or not.
func left(a *ctnet.App) int {
	s := a.Snapshot()
	n := int(s.Conns)
	for _, l := range s.Listeners {
		n += l.Waiting
	}
	return max(n, -n)
}

// newSeed returns the seed of a run, and says it.
func newSeed(t testing.TB) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-integrity.seed=%d", s)
	return s
}
