package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

var (
	kills = flag.Int("crash.kills", 100/slower, "how many processes TestKills kills")
	stops = flag.Int("crash.stops", 8/slower, "how often TestStops stops a process")
)

func init() {
	roles["victim"] = victim
	roles["bystander"] = bystander
}

// died reaps a process that was killed, and keeps nothing of it: there may be thousands.
func (p *process) died(t *testing.T) {
	t.Helper()
	p.in.Close()
	reap(t, p.cmd)
	*p = process{}
}

// A crashPlan is what a victim does, and how the survivor treats it.
type crashPlan struct {
	Seed   uint64
	Listen map[string]string // addresses by network
	Dial   map[string]string
}

var crashNetworks = []string{"ct", "tcp", "unix"}

// crashAddresses returns addresses that stay the same from one victim to the next. The one of
// network tcp is not among those that the kernel gives away.
func crashAddresses(t *testing.T, name string) map[string]string {
	dir, err := os.MkdirTemp("", "ctnet-test-") // t.TempDir's is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return map[string]string{
		"ct":   t.Name() + name,
		"tcp":  fmt.Sprintf("127.%d.%d.%d:7411", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250)),
		"unix": filepath.Join(dir, "s"),
	}
}

// listenAll listens on all networks. A unix socket's file may be left.
func listenAll(a *ctnet.App, addresses map[string]string) (lns []net.Listener, err error) {
	for network, address := range addresses {
		if network == "unix" {
			os.Remove(address)
		}
		// With a small backlog Dials wait to be answered.
		lc := ctnet.ListenConfig{App: a, Path: ctnet.CutThrough, Backlog: 2}
		ln, err := lc.Listen(context.Background(), network, address)
		if err != nil {
			return lns, err
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// newFlow returns a flow, small or large, with a number that its dialer has for itself.
func newFlow(seed uint64, rnd *rand.Rand) pattern.Flow {
	size := func() int64 { return int64(pattern.RandomSize(rnd, 22)) }
	return pattern.Flow{Seed: seed, Number: rnd.Uint64() >> 1, Size: [2]int64{size(), size()}}
}

// victim accepts flows, and dials others, until it is killed.
func victim() {
	var p crashPlan
	harness.Check(json.Unmarshal([]byte(os.Getenv("CTNET_TEST_PLAN")), &p))
	lns, err := listenAll(nil, p.Listen)
	harness.Check(err)
	both := func(_ int64, readErr, writeErr error) { harness.Check(errors.Join(readErr, writeErr)) }
	for _, ln := range lns {
		go func() {
			for {
				c, err := ln.Accept()
				harness.Check(err)
				go func() {
					defer c.Close()
					f, err := pattern.ReadHeader(c)
					harness.Check(err)
					rnd := rand.New(rand.NewPCG(f.Number, 0))
					both(f.Run(c.(pattern.Stream), pattern.Acceptor, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) }))
				}()
			}
		}()
	}
	for i := range 4 {
		rnd := rand.New(rand.NewPCG(p.Seed, uint64(i)))
		go func() {
			for {
				d := ctnet.Dialer{Path: ctnet.CutThrough}
				if i == 0 { // it attaches each time
					d.App, err = ctnet.NewApp(ctnet.AppConfig{})
					harness.Check(err)
				}
				network := crashNetworks[rnd.IntN(3)]
				c, err := d.Dial(network, p.Dial[network])
				harness.Check(err)
				f := newFlow(p.Seed, rnd)
				harness.Check(f.WriteHeader(c))
				both(f.Run(c.(pattern.Stream), pattern.Dialer, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) }))
				harness.Check(c.Close())
				if d.App != nil {
					harness.Check(d.App.Close())
				}
			}
		}()
	}
	untilStdinCloses()
}

// A bystander's numbers have the highest bit. Nothing that happens to victims is to harm it.
const bystanders = 1 << 63

// A bystanding is what a bystander has seen since it was asked last.
type bystanding struct {
	Flows, Trips  int
	Median, Worst time.Duration // of round trips
}

// bystander dials flows, one after the other, and beside that sends a byte forth and back all
// the time. It answers each line with what it has seen.
func bystander() {
	address := os.Getenv("CTNET_TEST_NAME")
	var mu sync.Mutex
	var flows int
	var trips []time.Duration
	go func() {
		rnd := rand.New(rand.NewPCG(bystanders, 0))
		for {
			c, err := ctnet.Dial("ct", address)
			harness.Check(err)
			f := newFlow(0, rnd)
			f.Number |= bystanders
			harness.Check(f.WriteHeader(c))
			_, readErr, writeErr := f.Run(c.(pattern.Stream), pattern.Dialer, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) })
			harness.Check(errors.Join(readErr, writeErr))
			harness.Check(c.Close())
			mu.Lock()
			flows++
			mu.Unlock()
		}
	}()
	go func() {
		c, err := ctnet.Dial("ct", address+"-trips")
		harness.Check(err)
		for b := make([]byte, 1); ; {
			start := time.Now()
			_, err := c.Write(b)
			harness.Check(err)
			_, err = c.Read(b)
			harness.Check(err)
			mu.Lock()
			trips = append(trips, time.Since(start))
			mu.Unlock()
			time.Sleep(time.Millisecond) // it is to measure, and not to load the machine
		}
	}()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		mu.Lock()
		slices.Sort(trips)
		b := bystanding{Flows: flows, Trips: len(trips)}
		if len(trips) > 0 {
			b.Median, b.Worst = trips[len(trips)/2], trips[len(trips)-1]
		}
		flows, trips = 0, trips[:0]
		mu.Unlock()
		harness.Check(json.NewEncoder(os.Stdout).Encode(b))
	}
}

func (p *process) bystanding(t *testing.T) (b bystanding) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(p.ask(t, "")), &b))
	return b
}

// A survivor is what a victim dials, and what dials it.
type survivor struct {
	app     *ctnet.App
	lns     []net.Listener
	serving sync.WaitGroup

	mu     sync.Mutex
	victim *victimRun
	dead   map[int]*victimRun // the last ones, by PID
	wrong  []string
	totals struct {
		Flows, Cut, Refused, Held int
		Right, Left               int64 // bytes: all, and those that the dead had left
	}
	bystanders atomic.Int64 // their flows
}

// A victimRun is a survivor's dealings with one victim.
type victimRun struct {
	mayRefuse atomic.Bool // it may not listen yet
	doomed    atomic.Bool // it may be dead
	dead      chan struct{}
	flows     atomic.Int64
	calls     atomic.Int64 // those that use its connections, or dial
	held      atomic.Int64 // those of them that wait for its death, and not in a call
}

func newSurvivor(t *testing.T, addresses map[string]string) *survivor {
	s := &survivor{app: harness.NewApp(t), dead: make(map[int]*victimRun)}
	lns, err := listenAll(s.app, addresses)
	require.NoError(t, err)
	s.lns = lns
	lc := ctnet.ListenConfig{App: s.app}
	trips, err := lc.Listen(t.Context(), "ct", addresses["ct"]+"-trips")
	require.NoError(t, err)
	s.serving.Go(func() {
		for {
			c, err := trips.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	s.lns = append(s.lns, trips)
	for _, ln := range lns {
		s.serving.Go(func() { s.accept(ln) })
	}
	return s
}

func (s *survivor) close(t *testing.T) {
	for _, ln := range s.lns {
		require.NoError(t, ln.Close())
	}
	require.NoError(t, s.app.Close())
	harness.RequireWithin(t, time.Second, harness.AllDone(&s.serving), "the survivor")
}

func (s *survivor) fail(what string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(what, args...))
}

func (s *survivor) requireNothingWrong(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.wrong)
}

// begin begins with a victim.
func (s *survivor) begin(v *victimRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.victim = v
}

// end is called when a victim with a PID is about to die. Connections that it has made may be
// accepted later, and are not the next one's.
func (s *survivor) end(v *victimRun, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.dead)
	s.dead[pid] = v
	v.doomed.Store(true)
}

// of returns whose a connection is.
func (s *survivor) of(c *ctnet.Conn) *victimRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.dead[c.PeerCred().PID]; v != nil {
		return v
	}
	return s.victim
}

func (s *survivor) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.fail("Accept: %v", err)
			return
		}
		v := s.of(c.(*ctnet.Conn))
		v.calls.Add(1)
		s.serving.Go(func() { s.serve(c.(*ctnet.Conn), v) })
	}
}

func (s *survivor) serve(c *ctnet.Conn, v *victimRun) {
	done := sync.OnceFunc(func() { v.calls.Add(-1) })
	defer done()
	defer c.Close()
	f, err := pattern.ReadHeader(c)
	if err != nil {
		s.judge(v, "the header", err)
		return
	}
	if f.Number >= bystanders {
		done()
		rnd := rand.New(rand.NewPCG(f.Number, 0))
		_, readErr, writeErr := f.Run(c, pattern.Acceptor, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) })
		if err := errors.Join(readErr, writeErr); err != nil {
			s.fail("a bystander: %v", err)
		}
		s.bystanders.Add(1)
		return
	}
	s.run(c, f, pattern.Acceptor, v, 16)
}

// run does an end's part of a flow. One of so many is held: it is not read from some position
// on before the victim is dead.
func (s *survivor) run(c *ctnet.Conn, f pattern.Flow, end int, v *victimRun, oneOf int) {
	rnd := rand.New(rand.NewPCG(f.Number, uint64(end)))
	hold := rnd.IntN(oneOf) == 0
	right, readErr, writeErr := f.Run(c, end, rnd, func(to *pattern.Sink) error {
		if hold {
			return s.readHeld(c, to, v, rnd)
		}
		return pattern.ReadAll(c, to, rnd)
	})
	s.judge(v, "Read", readErr)
	s.judge(v, "Write", writeErr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals.Right += right
	if readErr == nil && writeErr == nil {
		s.totals.Flows++
		v.flows.Add(1)
	} else {
		s.totals.Cut++
	}
}

// readHeld reads some bytes, waits until the victim is dead, and then finds as many as have
// come before that, and no more.
func (s *survivor) readHeld(c *ctnet.Conn, to *pattern.Sink, v *victimRun, rnd *rand.Rand) error {
	some := int64(pattern.RandomSize(rnd, 20))
	n, err := io.CopyN(struct{ io.Writer }{to}, struct{ io.Reader }{c}, some)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	v.held.Add(1)
	<-v.dead
	have := c.Buffered() // the process is dead, so this is all that there will be
	at := to.At
	switch rnd.IntN(3) {
	case 0:
		err = pattern.ReadAll(c, to, rnd)
	case 1:
		_, err = c.WriteTo(to)
	case 2:
		var b []byte
		if b, err = c.Peek(min(have+1, ctnet.DefaultBuffer)); err == io.EOF || have == ctnet.DefaultBuffer {
			err = nil
		}
		if _, wrong := to.Write(b); wrong != nil {
			return wrong
		}
		if _, discardErr := c.Discard(len(b)); discardErr != nil {
			s.fail("Discard: %v", discardErr)
		}
		if err == nil {
			err = pattern.ReadAll(c, to, rnd)
		}
	}
	if to.At-at != int64(have) {
		s.fail("%d bytes were there after %d and %d were read: %v", have, n, to.At-at, err)
	}
	for range 2 {
		if n, again := c.Read(make([]byte, 1)); n != 0 || (again == io.EOF) != (err == nil) {
			s.fail("after %v: %d bytes, %v", err, n, again)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals.Held++
	s.totals.Left += int64(have)
	return err
}

// judge looks at how a call has ended.
func (s *survivor) judge(v *victimRun, call string, err error) {
	switch {
	case err == nil:
	case !v.doomed.Load():
		s.fail("%s before the victim was killed: %v", call, err)
	case !errors.Is(err, syscall.ECONNRESET):
		s.fail("%s after the victim was killed: %v", call, err)
	}
}

// dial dials flows to the victim, one after the other, until it is dead.
func (s *survivor) dial(v *victimRun, p crashPlan, rnd *rand.Rand, oneOf int, ownApp bool) {
	for {
		d := ctnet.Dialer{App: s.app, Path: ctnet.CutThrough}
		if ownApp {
			var err error
			if d.App, err = ctnet.NewApp(ctnet.AppConfig{}); err != nil {
				s.fail("%v", err)
				return
			}
		}
		network := crashNetworks[rnd.IntN(len(crashNetworks))]
		doomed := v.doomed.Load()
		c, err := d.Dial(network, p.Listen[network])
		if err == nil {
			f := newFlow(p.Seed, rnd)
			if err := f.WriteHeader(c); err == nil {
				s.run(c.(*ctnet.Conn), f, pattern.Dialer, v, oneOf)
			} else {
				s.judge(v, "Write", err)
			}
			c.Close()
		} else if !errors.Is(err, syscall.ECONNREFUSED) && !(network == "unix" && errors.Is(err, syscall.ENOENT)) {
			s.fail("Dial: %v", err)
		} else if !v.doomed.Load() && !v.mayRefuse.Load() {
			s.fail("Dial before the victim was killed: %v", err)
		}
		if ownApp {
			d.App.Close()
		}
		if err != nil && v.doomed.Load() {
			s.mu.Lock()
			s.totals.Refused++
			s.mu.Unlock()
			if doomed {
				return
			}
		}
	}
}

// kernelUsage is what the kernel says of this process, beside what leakcheck counts.
type kernelUsage struct{ Threads, SharedKB int }

func readKernelUsage(t *testing.T) (u kernelUsage) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "Threads: %d", &u.Threads)
		fmt.Sscanf(line, "RssShmem: %d", &u.SharedKB)
	}
	return u
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers have let go of
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestKills kills processes at random moments: while they start, listen, dial, are dialed,
// and while flows of all sizes go both ways on all networks. The survivor's calls return
// within a second, with ECONNRESET, or ECONNREFUSED from Dial; what had arrived can be read;
// the addresses are the next process's at once; nothing is left; and a process beside, which
// uses the same listeners, sees nothing of it.
func TestKills(t *testing.T) {
	rnd := newSeed(t)
	own, addresses := crashAddresses(t, "-survivor"), crashAddresses(t, "-victim")
	leakcheck.Check(t)
	s := newSurvivor(t, own)
	var slowest, slowestDeath, startup time.Duration
	proc := new(process)
	t.Cleanup(func() { proc.end() })
	round := func() {
		t.Helper()
		p := crashPlan{rnd.Uint64(), addresses, own}
		v := &victimRun{dead: make(chan struct{})}
		early := startup > 0 && rnd.IntN(5) == 0
		v.mayRefuse.Store(early)
		s.begin(v)
		plan, err := json.Marshal(p)
		require.NoError(t, err)
		start := time.Now()
		proc = startRole(t, "victim", "CTNET_TEST_PLAN="+string(plan))
		if !early {
			require.Equal(t, "ready", proc.line(t))
			startup = time.Since(start)
		}
		for i := range 6 {
			rnd := rand.New(rand.NewPCG(p.Seed, 100+uint64(i)))
			v.calls.Add(1)
			go func() {
				defer v.calls.Add(-1)
				s.dial(v, p, rnd, []int{1, 2, 16}[i%3], i == 5)
			}()
		}
		// When it is killed is at random, and most often soon.
		switch {
		case early:
			time.Sleep(time.Duration(rnd.Int64N(2*int64(startup) + 1)))
		case rnd.IntN(2) == 0:
			time.Sleep(time.Duration(rnd.Int64N(1 << (14 + rnd.IntN(11))))) // up to 17 ms
		default:
			n := int64(pattern.RandomSize(rnd, 7))
			for start := time.Now(); v.flows.Load() < n && time.Since(start) < time.Second; {
				time.Sleep(10 * time.Microsecond)
			}
		}
		s.end(v, proc.cmd.Process.Pid)
		kill(t, proc.cmd)
		killed := time.Now()
		proc.died(t)
		slowestDeath = max(slowestDeath, time.Since(killed))
		// The process is dead now, and what it had sent can't be more any more.
		dead := time.Now()
		for v.calls.Load() > v.held.Load() {
			if time.Since(dead) > slower*time.Second {
				t.Fatalf("a call takes more than %d s after the victim was killed\n%s", slower, leakcheck.Stacks())
			}
			time.Sleep(100 * time.Microsecond)
		}
		slowest = max(slowest, time.Since(dead))
		close(v.dead)
		harness.Eventually(t, func() bool { return v.calls.Load() == 0 })
		s.requireNothingWrong(t)
	}
	round() // the application has what it keeps
	harness.MeasureIdle(t)
	quiet, quietKernel := leakcheck.Now(), readKernelUsage(t)

	beside := launch(t, "bystander", "CTNET_TEST_NAME="+own["ct"])
	require.Equal(t, "ready", beside.line(t))
	harness.Eventually(t, func() bool { return s.bystanders.Load() > 3 })
	for range min(20, *kills/5) {
		round()
	}
	// The bystander's flows come and go, so nothing that a round leaves is noticed in the
	// first rounds perhaps, but all of it is in the end.
	withBystander, before, heapBefore := leakcheck.Now(), readKernelUsage(t), heap()
	for n := min(20, *kills/5) + 1; n < *kills; n++ {
		round()
		leakcheck.RequireBack(t, withBystander)
	}
	heapAfter, after := heap(), readKernelUsage(t)
	b := beside.bystanding(t)
	kill(t, beside.cmd)
	beside.died(t)
	harness.MeasureIdle(t)
	leakcheck.RequireBack(t, quiet)
	atEnd := readKernelUsage(t)
	s.mu.Lock()
	t.Logf("%d kills: %+v; the slowest death took %v, and the slowest call %v more; the bystander: %+v, %d flows here", *kills, s.totals, slowestDeath, slowest, b, s.bystanders.Load())
	s.mu.Unlock()
	t.Logf("threads %d, %d in the end; heap %d, %d; shared memory %d KB in the end", before.Threads, after.Threads, heapBefore, heapAfter, atEnd.SharedKB)
	require.LessOrEqual(t, atEnd.SharedKB, quietKernel.SharedKB+64) // the kernel counts in batches
	require.LessOrEqual(t, after.Threads, before.Threads+10)        // those of one busy moment stay
	require.Less(t, heapAfter, heapBefore+1<<20)
	require.Positive(t, b.Flows)
	s.close(t)
}

// TestStops stops a process again and again, at random moments and for longer each time, while
// flows go both ways. Meanwhile a process beside goes on as before, and deadlines pass on time.
// When it goes on so do its flows, and no byte is wrong.
func TestStops(t *testing.T) {
	rnd := newSeed(t)
	own, addresses := crashAddresses(t, "-survivor"), crashAddresses(t, "-victim")
	leakcheck.Check(t)
	s := newSurvivor(t, own)
	p := crashPlan{rnd.Uint64(), addresses, own}
	v := &victimRun{dead: make(chan struct{})}
	s.begin(v)
	plan, err := json.Marshal(p)
	require.NoError(t, err)
	proc := launch(t, "victim", "CTNET_TEST_PLAN="+string(plan))
	require.Equal(t, "ready", proc.line(t))
	beside := launch(t, "bystander", "CTNET_TEST_NAME="+own["ct"])
	require.Equal(t, "ready", beside.line(t))
	for i := range 6 {
		rnd := rand.New(rand.NewPCG(p.Seed, 100+uint64(i)))
		v.calls.Add(1)
		go func() {
			defer v.calls.Add(-1)
			s.dial(v, p, rnd, math.MaxInt, i == 5)
		}()
	}
	progress := func(what *atomic.Int64) {
		t.Helper()
		n := what.Load()
		harness.Eventually(t, func() bool { return what.Load() > n+2 })
	}
	var late time.Duration
	var running, stopped []bystanding
	for round := range *stops {
		progress(&v.flows)
		progress(&s.bystanders)
		running = append(running, beside.bystanding(t))
		var conns []*ctnet.Conn
		for _, network := range crashNetworks {
			d := ctnet.Dialer{App: s.app, Path: ctnet.CutThrough}
			c, err := d.Dial(network, addresses[network])
			require.NoError(t, err)
			conns = append(conns, c.(*ctnet.Conn))
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Millisecond)))) // a random moment
		stop(t, proc.cmd)
		beside.bystanding(t)

		// Calls that only the stopped process could end.
		wait := time.Duration(20+rnd.IntN(50*(round+1))) * time.Millisecond
		start := time.Now()
		var waiting sync.WaitGroup
		var mu sync.Mutex
		expire := func(call string, do func() error) {
			waiting.Go(func() {
				err := do()
				took := time.Since(start)
				mu.Lock()
				defer mu.Unlock()
				late = max(late, took-wait)
				if !errors.Is(err, os.ErrDeadlineExceeded) || took < wait {
					s.fail("a %s whose deadline was in %v took %v: %v", call, wait, took, err)
				}
			})
		}
		for i, c := range conns {
			require.NoError(t, c.SetDeadline(start.Add(wait)))
			expire("Read", func() error {
				_, err := c.Read(make([]byte, 1))
				return err
			})
			expire("Dial", func() error {
				ctx, cancel := context.WithDeadline(t.Context(), start.Add(wait))
				defer cancel()
				d := ctnet.Dialer{App: s.app, Path: ctnet.CutThrough}
				_, err := d.DialContext(ctx, crashNetworks[i], addresses[crashNetworks[i]])
				return err
			})
		}
		harness.RequireWithin(t, wait+time.Second, harness.AllDone(&waiting), "a call with a deadline")
		// As many flows of the bystander as there have been, and no fewer than that.
		progress(&s.bystanders)
		stopped = append(stopped, beside.bystanding(t))
		s.requireNothingWrong(t)
		require.NoError(t, proc.cmd.Process.Signal(syscall.SIGCONT))
		for _, c := range conns { // they carry on
			require.NoError(t, c.SetDeadline(time.Time{}))
			f := newFlow(p.Seed, rnd)
			require.NoError(t, f.WriteHeader(c))
			s.run(c, f, pattern.Dialer, v, math.MaxInt)
			require.NoError(t, c.Close())
		}
		s.requireNothingWrong(t)
	}
	progress(&v.flows)
	s.end(v, proc.cmd.Process.Pid)
	kill(t, proc.cmd)
	proc.died(t)
	close(v.dead)
	harness.Eventually(t, func() bool { return v.calls.Load() == 0 })
	s.requireNothingWrong(t)
	kill(t, beside.cmd) // its flow is reset
	beside.died(t)
	t.Logf("%d stops; a deadline was %v late at most; the bystander, running: %v; beside a stopped process: %v", *stops, late, sumUp(running), sumUp(stopped))
	require.Less(t, late, time.Second)
	// A process that is stopped takes no CPU, so the bystander has more of it than before.
	require.Less(t, sumUp(stopped).Median, 10*sumUp(running).Median+10*time.Millisecond)
	require.Less(t, sumUp(stopped).Worst, time.Second)
	s.close(t)
}

// sumUp returns all flows and trips, the median of the medians, and the worst.
func sumUp(all []bystanding) (sum bystanding) {
	slices.SortFunc(all, func(a, b bystanding) int { return int(a.Median - b.Median) })
	for _, b := range all {
		sum.Flows += b.Flows
		sum.Trips += b.Trips
		sum.Worst = max(sum.Worst, b.Worst)
	}
	sum.Median = all[len(all)/2].Median
	return sum
}
