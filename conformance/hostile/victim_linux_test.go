package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
)

// Names of the victim's listeners, which are of one application.
const (
	goodName = "good" // returns what it reads, to all that come
	badName  = "bad"  // does everything that one can do with a connection
	readName = "read" // reads until the end
	evilName = "evil" // the attacker's, which the victim dials
)

// A victimPlan says what the victim does.
type victimPlan struct {
	Dials   int    // connections at a time to the hostile listener
	Threads int    // the most that it may have; 0 is Go's own limit
	TCP     string // where it returns what it reads, too, on the kernel's network
}

// A toll is what a victim has, and has done.
type toll struct {
	leakcheck.Usage
	Threads  int
	Heap     uint64 // in use after a collection, with stacks
	RSS      uint64
	CPU      time.Duration
	Conns    int64
	Segments int64
	Bytes    int64
	Pairs    int // with another application
	Waiting  int // in backlogs
}

func (u toll) String() string {
	return fmt.Sprintf("CPU %v, %d threads, %d goroutines, %d descriptors, %d mappings, %d connections, %d waiting, heap %d KiB, RSS %d KiB",
		u.CPU.Round(time.Millisecond), u.Threads, u.Goroutines, u.FDs, u.Mappings, u.Conns, u.Waiting, u.Heap>>10, u.RSS>>10)
}

// A victim's deeds are how often it has done what, and how long the longest of it took.
type deeds struct {
	Count   map[string]int
	Longest map[string]time.Duration
	Wrong   []string
}

// readsEnded are the Reads of the connections to readName.
type readsEnded struct {
	Waiting, Ended int
	Last           time.Time // when the last one of them ended
	Errors         map[string]int
}

type victim struct {
	app     *ctnet.App
	over    atomic.Bool
	serving sync.WaitGroup
	running sync.Map // of *deed
	mu      sync.Mutex
	deeds   deeds
	reads   readsEnded
}

// A deed is a call that is under way.
type deed struct {
	what  string
	start time.Time
}

// hang is when a call is taken for one that never returns. All of them are meant to return
// within milliseconds.
const hang = 20 * time.Second

// playVictim is a program that uses ctnet.
func playVictim() {
	plan := args[victimPlan]()
	if plan.Threads > 0 {
		debug.SetMaxThreads(plan.Threads)
	}
	debug.SetPanicOnFault(false)
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	v := &victim{app: app, deeds: deeds{Count: make(map[string]int), Longest: make(map[string]time.Duration)}}
	v.reads.Errors = make(map[string]int)
	theVictim.Store(app)
	go v.watch()
	v.listen(goodName, echo)
	v.listen(badName, v.use)
	v.listen(readName, v.readOn)
	v.warm()
	if plan.TCP != "" {
		ln, err := net.Listen("tcp", plan.TCP)
		harness.Check(err)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					continue // out of descriptors
				}
				go echo(c)
			}
		}()
		plan.TCP = ln.Addr().String()
	}
	answer("ready", plan.TCP)
	var dialing sync.WaitGroup
	commands(func(word, rest string) {
		switch word {
		case "toll":
			answer(word, v.toll())
		case "deeds":
			answer(word, v.done())
		case "reads":
			v.mu.Lock()
			answer(word, v.reads)
			v.mu.Unlock()
		case "storm":
			for range plan.Dials {
				dialing.Go(v.dialOn)
			}
			dialing.Go(v.inspectOn)
			fmt.Println(word)
		case "calm":
			v.over.Store(true)
			dialing.Wait()
			fmt.Println(word)
		case "end":
			v.over.Store(true)
			v.timed("App.Close", func() error { return app.Close() })
			v.serving.Wait()
			left := leakcheck.Mappings("ctnet")
			v.must(left == 0, "%d mappings are left by the application", left)
			answer(word, v.done())
		}
	})
}

// watch ends the victim, with all stacks, if a call hangs.
func (v *victim) watch() {
	for range time.Tick(time.Second) {
		v.running.Range(func(_, d any) bool {
			if d := d.(*deed); time.Since(d.start) > hang {
				debug.SetTraceback("all")
				panic(fmt.Sprintf("%s hangs", d.what))
			}
			return true
		})
	}
}

// timed does something, and notes how long it took.
func (v *victim) timed(what string, f func() error) error {
	d := &deed{what, time.Now()}
	v.running.Store(d, d)
	err := f()
	v.running.Delete(d)
	took := time.Since(d.start)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deeds.Count[what]++
	v.deeds.Longest[what] = max(v.deeds.Longest[what], took)
	return err
}

func (v *victim) must(ok bool, format string, args ...any) {
	if ok {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.deeds.Wrong) < 5 {
		v.deeds.Wrong = append(v.deeds.Wrong, fmt.Sprintf(format, args...))
	}
}

func (v *victim) done() deeds {
	v.mu.Lock()
	defer v.mu.Unlock()
	return deeds{maps.Clone(v.deeds.Count), maps.Clone(v.deeds.Longest), v.deeds.Wrong}
}

// toll measures after a collection.
func (v *victim) toll() toll {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := toll{Usage: leakcheck.Now(), Heap: m.HeapInuse + m.StackInuse, Pairs: leakcheck.Mappings("ctnet events")}
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "Threads: %d", &u.Threads)
		if n, _ := fmt.Sscanf(line, "VmRSS: %d", &u.RSS); n == 1 {
			u.RSS <<= 10
		}
	}
	s := v.app.Snapshot()
	u.Conns, u.Segments, u.Bytes = s.Conns, s.Segments, s.Bytes
	for _, l := range s.Listeners {
		u.Waiting += l.Waiting
	}
	return u
}

// listen has handle called for each connection to a name.
func (v *victim) listen(name string, handle func(net.Conn)) {
	lc := ctnet.ListenConfig{App: v.app, ReadBuffer: ctnet.MinBuffer, WriteBuffer: ctnet.MinBuffer}
	if name == goodName {
		lc.ReadBuffer, lc.WriteBuffer = 64<<10, 64<<10
	}
	ln, err := lc.Listen(context.Background(), "ct", name)
	harness.Check(err)
	v.serving.Go(func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			harness.Check(err)
			v.serving.Go(func() { handle(c) })
		}
	})
}

// warm has this process make what stays after its first connection.
func (v *victim) warm() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	d := ctnet.Dialer{App: app}
	for _, name := range []string{goodName, badName} {
		c, err := d.Dial("ct", name)
		harness.Check(err)
		c.Close()
	}
	app.Close()
	for start := time.Now(); leakcheck.Mappings("ctnet events") > 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > limit {
			panic("a pair without applications stays")
		}
	}
}

// echo returns what it reads.
func echo(c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

// readOn reads until the end.
func (v *victim) readOn(c net.Conn) {
	defer c.Close()
	v.mu.Lock()
	v.reads.Waiting++
	v.mu.Unlock()
	b := make([]byte, 64)
	for {
		_, err := c.Read(b)
		if err == nil {
			continue
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.reads.Waiting--
		v.reads.Ended++
		v.reads.Last = time.Now()
		var errno syscall.Errno
		errors.As(err, &errno)
		v.reads.Errors[errno.Error()]++
		return
	}
}

// dialOn dials the hostile listener again and again.
func (v *victim) dialOn() {
	d := ctnet.Dialer{App: v.app, Timeout: 300 * time.Millisecond, ReadBuffer: ctnet.MinBuffer, WriteBuffer: ctnet.MinBuffer}
	for !v.over.Load() {
		var c net.Conn
		err := v.timed("Dial", func() (err error) {
			c, err = d.Dial("ct", evilName)
			return err
		})
		if err != nil {
			var op *net.OpError
			v.must(errors.As(err, &op), "Dial: %v", err)
			pause()
			continue
		}
		v.use(c)
	}
}

// inspectOn looks at all applications again and again.
func (v *victim) inspectOn() {
	for !v.over.Load() {
		v.timed("Inspect", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, err := ctnet.Inspect(ctx)
			return err
		})
		time.Sleep(20 * time.Millisecond)
	}
}

// patience is for how long a call on a hostile connection waits.
const patience = 20 * time.Millisecond

// opsPerConn is the most calls of one side of a connection.
const opsPerConn = 40

// use does everything with a connection, of which the peer may be hostile.
func (v *victim) use(nc net.Conn) {
	c := nc.(*ctnet.Conn)
	var both sync.WaitGroup
	for _, ops := range [][]op{readOps, writeOps} {
		both.Go(func() {
			for range opsPerConn {
				if v.over.Load() || !v.do(c, ops[rand.IntN(len(ops))]) {
					return
				}
			}
		})
	}
	both.Wait()
	v.do(c, op{"Close", func(c *ctnet.Conn) error { return c.Close() }})
	v.do(c, op{"Read", readOps[0].call}) // also ends the last Peek
}

// do does one thing, and reports whether the connection can be used on.
func (v *victim) do(c *ctnet.Conn, o op) bool {
	c.SetDeadline(time.Now().Add(patience))
	err := v.timed(o.name, func() error { return o.call(c) })
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errEnough):
		return true
	case err == io.EOF:
		return false
	}
	var oe *net.OpError
	v.must(errors.As(err, &oe) && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)), "%s: %v", o.name, err)
	return false
}

// An op is something that one can do with a connection.
type op struct {
	name string
	call func(c *ctnet.Conn) error
}

// errEnough is what a writer says that takes no more.
var errEnough = errors.New("enough")

type tiredWriter struct{ left int }

func (w *tiredWriter) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	if w.left -= n; n < len(b) {
		return n, errEnough
	}
	return n, nil
}

func inRange(n, most int) {
	if n < 0 || n > most {
		panic(fmt.Sprintf("%d bytes of %d", n, most))
	}
}

// readOps and writeOps may be done at the same time.
var readOps = []op{
	{"Read", func(c *ctnet.Conn) error {
		b := make([]byte, rand.IntN(6000)+1)
		n, err := c.Read(b)
		inRange(n, len(b))
		return err
	}},
	{"WriteTo", func(c *ctnet.Conn) error {
		_, err := c.WriteTo(&tiredWriter{rand.IntN(5000)})
		if err == nil {
			return io.EOF
		}
		return err
	}},
	{"Peek", func(c *ctnet.Conn) error {
		want := rand.IntN(ctnet.MinBuffer) + 1
		b, err := c.Peek(want)
		inRange(len(b), want)
		var sum byte
		for i := range b {
			sum += b[i] // none of it may be a fault
		}
		_ = sum
		if _, discardErr := c.Discard(len(b)); err == nil {
			err = discardErr
		}
		return err
	}},
	{"Discard", func(c *ctnet.Conn) error {
		want := rand.IntN(6000)
		n, err := c.Discard(want)
		inRange(n, want)
		return err
	}},
	{"Buffered", func(c *ctnet.Conn) error {
		inRange(c.Buffered(), ctnet.MinBuffer)
		return nil
	}},
	{"SetReadDeadline", func(c *ctnet.Conn) error { return c.SetReadDeadline(time.Now().Add(time.Millisecond)) }},
	{"CloseRead", func(c *ctnet.Conn) error { return seldom(c.CloseRead) }},
	{"SetLinger", func(c *ctnet.Conn) error { return seldom(func() error { return c.SetLinger(0) }) }},
}

var writeOps = []op{
	{"Write", func(c *ctnet.Conn) error {
		b := make([]byte, rand.IntN(6000)+1)
		n, err := c.Write(b)
		inRange(n, len(b))
		return err
	}},
	{"ReadFrom", func(c *ctnet.Conn) error {
		size := rand.IntN(6000)
		n, err := c.ReadFrom(bytes.NewReader(make([]byte, size)))
		inRange(int(n), size)
		return err
	}},
	{"Reserve", func(c *ctnet.Conn) error {
		want := rand.IntN(ctnet.MinBuffer)
		b, err := c.Reserve(want)
		if err != nil {
			return err
		}
		inRange(len(b), ctnet.MaxBuffer) // a listener chooses the size
		b = b[:min(len(b), ctnet.MinBuffer)]
		clear(b)
		return c.Commit(rand.IntN(len(b) + 1))
	}},
	{"SetWriteDeadline", func(c *ctnet.Conn) error { return c.SetWriteDeadline(time.Now().Add(time.Millisecond)) }},
	{"CloseWrite", func(c *ctnet.Conn) error { return seldom(c.CloseWrite) }},
	{"CloseEarly", func(c *ctnet.Conn) error { return seldom(c.Close) }},
	{"Snapshot", func(c *ctnet.Conn) error {
		if rand.IntN(4) > 0 {
			return nil
		}
		// The connection is the application's that it came through; others look as well.
		for _, info := range theVictim.Load().Snapshot().Connections {
			inRange(info.RecvQueue, info.RecvBuffer)
			inRange(info.SendQueue, info.SendBuffer)
		}
		return nil
	}},
}

// theVictim is the application of this process, for what is not done with a connection.
var theVictim atomic.Pointer[ctnet.App]

// seldom calls f now and then, as not much can be done after it.
func seldom(f func() error) error {
	if rand.IntN(8) > 0 {
		return nil
	}
	return f()
}

// allOps are the names of all that the victim does with a connection.
func allOps() (names []string) {
	for _, ops := range [][]op{readOps, writeOps} {
		for _, o := range ops {
			names = append(names, o.name)
		}
	}
	return append(names, "Close")
}
