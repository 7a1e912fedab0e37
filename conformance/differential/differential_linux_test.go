// Package differential compares ctnet with package net's sockets: scripts that are made
// at random are run on both, and what each call returns, and whether it blocks, must be
// the same.
//
//	go test ./conformance/differential                        # some thousand scripts
//	go test ./conformance/differential -for 10m               # as many as ten minutes allow
//	go test ./conformance/differential -seed 7 -scripts 1000  # the same ones again
//
// A script that fails is made smaller, and printed as text for TestScripts.
//
// A model says which calls block (see model), as a test can't see that without waiting; the
// kernel's sockets must agree with it. The results are compared with the kernel's. One table has
// all points in which ctnet promises more, or differs: see rules.
package differential

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

var (
	seed    = flag.Uint64("seed", 0, "`number` that the scripts are made from; 0 is another one each time")
	scripts = flag.Int("scripts", defaultScripts, "`number` of scripts")
	howLong = flag.Duration("for", 0, "how `long` to make scripts, in place of a number of them")
)

func TestMain(m *testing.M) { harness.Main(m, nil) }

// patience is how long a call may take that should return at once.
const patience = 10 * time.Second

// TestRandom makes scripts and runs them. Nothing is left of them.
func TestRandom(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the runtime opens its network poller
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	before := leakcheck.Now()
	t.Cleanup(func() { leakcheck.RequireBack(t, before) })
	from := *seed
	if from == 0 {
		from = rand.Uint64()>>32 + 1
	}
	var tally tally
	var next atomic.Uint64
	var end time.Time
	if *howLong > 0 {
		end = time.Now().Add(*howLong)
	}
	more := func() (rnd *rand.Rand, ok bool) {
		i := next.Add(1)
		ok = i <= uint64(*scripts)
		if !end.IsZero() {
			ok = time.Now().Before(end)
		}
		return rand.New(rand.NewPCG(from, i)), ok
	}
	var wg sync.WaitGroup
	start := time.Now()
	for range min(runtime.GOMAXPROCS(0), 4) {
		b := newBench(t)
		wg.Go(func() {
			for tally.differences.Load() == 0 {
				rnd, ok := more()
				if !ok {
					return
				}
				s := randomScript(rnd)
				d := b.check(s, patience, &tally)
				if d == "" {
					continue
				}
				if tally.differences.Add(1) == 1 {
					small, why := b.shrink(s, d)
					t.Errorf("-seed %d: %s\n%v\nmade smaller: %s\n%v", from, d, s, why, small)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("seed %d: %d scripts of %d steps, in %d of them two at the same time, %d runs in %v; the kernel was asked again %d times; %d differences",
		from, tally.scripts.Load(), tally.steps.Load(), tally.pairs.Load(), tally.runs.Load(), time.Since(start).Round(time.Millisecond), tally.again.Load(), tally.differences.Load())
	for _, name := range slices.Sorted(maps.Keys(tally.used)) {
		t.Logf("%6d results by the rule %q", tally.used[name], name)
	}
}

// TestScripts runs scripts that are known by name.
func TestScripts(t *testing.T) {
	b := newBench(t)
	for _, text := range knownScripts {
		title, text, _ := strings.Cut(strings.TrimSpace(text), "\n")
		t.Run(strings.Trim(title, "# "), func(t *testing.T) {
			s, err := parse(text)
			require.NoError(t, err)
			kept := makePlan(s).steps
			for _, st := range s.steps {
				require.Contains(t, fmt.Sprintln(kept), st.String(), "this step makes no sense")
			}
			times := 1
			if strings.Contains(text, "&") { // what that comes to is a matter of luck
				times = 100
			}
			for range times {
				require.Empty(t, b.check(s, patience, new(tally)))
			}
		})
	}
}
