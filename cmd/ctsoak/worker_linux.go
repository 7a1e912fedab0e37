package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/pattern"
)

// roleEnv is the environment variable with the plan of a process that ctsoak starts.
const roleEnv = "CTSOAK_PLAN"

// A plan is what a process does.
type plan struct {
	Name            string
	Index           int    // the last byte of its address
	Dir             string // for all files
	Net             [2]int // of the addresses: 127.a.b.0/24
	Steady, Victims []string
	Victim, Hostile bool
	Seed            uint64
}

// counts are what a process has done, and what was wrong.
type counts struct {
	Ops        map[string]int64
	Bytes      int64
	Wrong      []string
	More       int
	Goroutines int
}

// began is when the process did.
var began = time.Now()

// A worker is a process that is used and uses others.
type worker struct {
	plan
	clients, servers sync.WaitGroup
	stopping         atomic.Bool

	mu     sync.Mutex
	counts counts
}

// playRole does what a process that ctsoak started is to do.
func playRole() bool {
	env := os.Getenv(roleEnv)
	if env == "" {
		return false
	}
	w := &worker{counts: counts{Ops: make(map[string]int64)}}
	if err := json.Unmarshal([]byte(env), &w.plan); err != nil {
		panic(err)
	}
	if w.Hostile {
		w.scribble()
		return true
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "listen":
			w.listen()
		case "go":
			w.dial()
		case "stop":
			w.stopping.Store(true)
			w.clients.Wait()
		case "end":
		}
		w.mu.Lock()
		c := w.counts
		c.Ops = maps.Clone(c.Ops)
		w.mu.Unlock()
		c.Goroutines = runtime.NumGoroutine()
		if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
			return true
		}
	}
	return true
}

func (w *worker) done(kind string, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Ops[kind]++
	w.counts.Bytes += bytes
}

func (w *worker) fail(what string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.counts.Wrong) < 20 {
		w.counts.Wrong = append(w.counts.Wrong, fmt.Sprintf("%v: %s: %v", time.Since(began).Round(time.Millisecond), what, err))
	} else {
		w.counts.More++
	}
}

// patience is the longest that anything takes, with a peer that is stopped for a while.
const patience = time.Minute

// watch says that something takes too long, unless the returned function is called.
func (w *worker) watch(what string) (stop func() bool) {
	return time.AfterFunc(patience, func() {
		b := make([]byte, 64<<10)
		w.fail(what, fmt.Errorf("takes more than %v\n%s", patience, b[:runtime.Stack(b, true)]))
	}).Stop
}

// napper is the process that is stopped and goes on.
const napper = "napper"

var networks = []string{"ct", "tcp", "unix"}

// listen listens at all addresses: strict ones, where nothing may go wrong, loose ones for
// those that are killed, and one for those that do what they want.
func (w *worker) listen() {
	for _, network := range networks {
		for _, kind := range []string{"strict", "loose"} {
			address := w.address(network, w.Name, w.Index, kind)
			if network == "unix" {
				os.Remove(address)
			}
			ln, err := ctnet.Listen(network, address)
			if err != nil {
				w.fail("listen", err)
				continue
			}
			w.servers.Go(func() { w.accept(ln, kind == "strict") })
		}
	}
	ln, err := ctnet.Listen("tcp", w.address("tcp", w.Name, w.Index, "http"))
	if err != nil {
		w.fail("listen", err)
	} else {
		go http.Serve(ln, http.HandlerFunc(w.handle))
	}
	lc := ctnet.ListenConfig{ReadBuffer: ctnet.MinBuffer, WriteBuffer: ctnet.MinBuffer}
	hostile, err := lc.Listen(context.Background(), "ct", w.address("ct", w.Name, w.Index, "hostile"))
	if err != nil {
		w.fail("listen", err)
		return
	}
	w.servers.Go(func() { w.endure(hostile) })
}

func (w *worker) accept(ln net.Listener, strict bool) {
	for {
		c, err := ln.Accept()
		if err != nil {
			w.fail("accept", err)
			return
		}
		w.servers.Go(func() {
			defer c.Close()
			stop := w.watch("a served flow")
			defer stop()
			f, err := pattern.ReadHeader(c)
			if errors.Is(err, syscall.ECONNRESET) && ln.Addr().Network() != "ct" {
				w.done("Dial given up for the kernel", 0) // as this process was late
				return
			}
			if err != nil {
				w.judge("the header", c, strict, err)
				return
			}
			rnd := rand.New(rand.NewPCG(f.Number, 1))
			right, readErr, writeErr := f.Run(c.(pattern.Stream), pattern.Acceptor, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) })
			w.judge("Read", c, strict, readErr)
			w.judge("Write", c, strict, writeErr)
			w.done("flow served", right)
		})
	}
}

// judge looks at an error of a connection. What a process that is killed may cause is a reset,
// and on the kernel's sockets also an early end.
func (w *worker) judge(what string, c net.Conn, strict bool, err error) {
	if err == nil {
		return
	}
	_, cut := c.(*ctnet.Conn)
	var short *pattern.ShortError
	switch {
	case strict:
	case errors.Is(err, syscall.ECONNRESET):
		return
	case !cut && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)):
		return
	case !cut && (errors.As(err, &short) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return
	case !cut && errors.Is(err, net.ErrClosed): // after the early end
		return
	}
	w.fail(fmt.Sprintf("%s, %v to %v", what, c.LocalAddr(), c.RemoteAddr()), err)
}

// endure serves processes that overwrite the memory: any error is right, but each call ends.
func (w *worker) endure(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			w.fail("accept", err)
			return
		}
		w.servers.Go(func() {
			defer c.Close()
			for b := make([]byte, 1000); ; {
				for _, call := range []func([]byte) (int, error){c.Read, c.Write} {
					stop := w.watch("a call with a hostile peer")
					c.SetDeadline(time.Now().Add(10 * time.Millisecond))
					_, err := call(b)
					stop()
					w.done("call with a hostile peer", 0)
					if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						return
					}
				}
			}
		})
	}
}

// A peer is who is dialed.
type peer struct {
	name   string
	index  int
	strict bool
}

func (w *worker) peers() (steady, victims []peer) {
	for i, name := range w.Steady {
		steady = append(steady, peer{name, i + 1, true})
	}
	for i, name := range w.Victims {
		victims = append(victims, peer{name, 100 + i, false})
	}
	return
}

// dial dials others in all ways until it is stopped.
func (w *worker) dial() {
	steady, victims := w.peers()
	again := func(stream uint64, f func(rnd *rand.Rand)) {
		rnd := rand.New(rand.NewPCG(w.Seed, stream))
		w.clients.Go(func() {
			for !w.stopping.Load() {
				f(rnd)
			}
		})
	}
	to := func(rnd *rand.Rand) peer {
		p := steady[rnd.IntN(len(steady))]
		p.strict = !w.Victim // a victim's flows come to the loose address
		return p
	}
	plain := func(rnd *rand.Rand, bits int) pattern.Flow {
		size := func() int64 { return int64(pattern.RandomSize(rnd, bits)) }
		return pattern.Flow{Seed: w.Seed, Number: rnd.Uint64(), Size: [2]int64{size(), size()}}
	}
	for i := range 2 {
		again(uint64(i), func(rnd *rand.Rand) { w.flow("flow", to(rnd), plain(rnd, 22), rnd, 0) })
	}
	again(10, func(rnd *rand.Rand) { w.flow("slow flow", to(rnd), plain(rnd, 21), rnd, 2*time.Millisecond) })
	again(11, func(rnd *rand.Rand) {
		f := plain(rnd, 20)
		f.Size[rnd.IntN(2)] = 0 // that direction ends before it begins
		w.flow("half-closed flow", to(rnd), f, rnd, 0)
	})
	again(12, func(rnd *rand.Rand) {
		var storm sync.WaitGroup
		p := to(rnd)
		for range 2 + rnd.IntN(99) {
			f, own := plain(rnd, 10), rand.New(rand.NewPCG(rnd.Uint64(), 0))
			storm.Go(func() { w.flow("flow of a dial storm", p, f, own, 0) })
		}
		storm.Wait()
		w.sleep(rnd, 200*time.Millisecond)
	})
	if w.Victim {
		return
	}
	again(13, func(rnd *rand.Rand) {
		if len(victims) > 0 {
			w.flow("flow to a victim", victims[rnd.IntN(len(victims))], plain(rnd, 20), rnd, 0)
		}
		w.sleep(rnd, 10*time.Millisecond)
	})
	client := &http.Client{Transport: &http.Transport{
		DialContext:     (&ctnet.Dialer{}).DialContext,
		MaxConnsPerHost: 8,
	}}
	for i := range 2 {
		again(20+uint64(i), func(rnd *rand.Rand) { w.request(client, to(rnd), rnd) })
	}
}

func (w *worker) sleep(rnd *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(rnd.Int64N(int64(most))))
}

// flow has a flow. With a delay this end is a slow reader.
func (w *worker) flow(kind string, p peer, f pattern.Flow, rnd *rand.Rand, delay time.Duration) {
	stop := w.watch(kind)
	defer stop()
	network := networks[rnd.IntN(len(networks))]
	where := map[bool]string{true: "strict", false: "loose"}[p.strict]
	var d ctnet.Dialer
	if rnd.IntN(8) == 0 { // it attaches anew
		a, err := ctnet.NewApp(ctnet.AppConfig{})
		if err != nil {
			w.fail(kind, err)
			return
		}
		defer a.Close()
		d.App = a
	}
	c, err := d.Dial(network, w.address(network, p.name, p.index, where))
	if err != nil {
		if (p.name == napper || w.Name == napper) && network == "ct" && errors.Is(err, syscall.ECONNREFUSED) {
			// A listener waits for a second for a hello, and takes it for late if either
			// process was stopped for that long, even if it is there by then.
			w.done("known: refused, one was stopped", 0)
			return
		}
		gone := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, fs.ErrNotExist)
		if p.strict || w.Victim || !gone {
			w.fail(kind+": Dial", err)
		} else {
			w.done("Dial that finds a victim dead", 0)
		}
		return
	}
	defer c.Close()
	strict := p.strict || w.Victim // of a victim that lives nothing may go wrong either
	if err := f.WriteHeader(c); err != nil {
		w.judge(kind+": Write", c, strict, err)
		return
	}
	right, readErr, writeErr := f.Run(c.(pattern.Stream), pattern.Dialer, rnd, func(to *pattern.Sink) error {
		if delay == 0 {
			return pattern.ReadAll(c, to, rnd)
		}
		return pattern.ReadAll(&slowReader{Reader: c, rnd: rnd, delay: delay}, to, rnd)
	})
	w.judge(kind+": Read", c, strict, readErr)
	w.judge(kind+": Write", c, strict, writeErr)
	w.done(kind, right)
	if _, cut := c.(*ctnet.Conn); !cut {
		w.done("of these through the kernel", 0)
	}
}

// A slowReader sleeps after each few KiB.
type slowReader struct {
	io.Reader
	rnd   *rand.Rand
	delay time.Duration
	since int // bytes, since it slept
}

func (s *slowReader) Read(b []byte) (int, error) {
	const few = 8 << 10
	if s.since >= few {
		s.since = 0
		time.Sleep(time.Duration(s.rnd.Int64N(int64(s.delay))))
	}
	n, err := s.Reader.Read(b[:min(len(b), few)])
	s.since += n
	return n, err
}

// request posts a body to an HTTP server and reads another one.
func (w *worker) request(client *http.Client, p peer, rnd *rand.Rand) {
	stop := w.watch("a request")
	defer stop()
	f := pattern.Flow{Seed: w.Seed, Number: rnd.Uint64(), Size: [2]int64{int64(pattern.RandomSize(rnd, 18)), int64(pattern.RandomSize(rnd, 18))}}
	url := fmt.Sprintf("http://%s/%d/%d/%d/%d", w.address("tcp", p.name, p.index, "http"), f.Seed, f.Number, f.Size[0], f.Size[1])
	r, err := client.Post(url, "application/octet-stream", &pattern.Source{Pattern: f.Of(0), End: f.Size[0]})
	if err != nil {
		w.fail("a request", err)
		return
	}
	defer r.Body.Close()
	sink := &pattern.Sink{Pattern: f.Of(1)}
	if _, err := io.Copy(sink, r.Body); err != nil {
		w.fail("a response", err)
	} else if sink.At != f.Size[1] || r.StatusCode != http.StatusOK {
		w.fail("a response", fmt.Errorf("%s, %d of %d bytes", r.Status, sink.At, f.Size[1]))
	}
	w.done("HTTP request", sink.At)
}

func (w *worker) handle(rw http.ResponseWriter, r *http.Request) {
	var n [4]uint64
	for i, s := range strings.Split(strings.Trim(r.URL.Path, "/"), "/") {
		n[i%4], _ = strconv.ParseUint(s, 10, 64)
	}
	f := pattern.Flow{Seed: n[0], Number: n[1], Size: [2]int64{int64(n[2]), int64(n[3])}}
	sink := &pattern.Sink{Pattern: f.Of(0)}
	if _, err := io.Copy(sink, r.Body); err != nil {
		w.fail("a request's body", err)
	} else if sink.At != f.Size[0] {
		w.fail("a request's body", &pattern.ShortError{At: sink.At, Size: f.Size[0]})
	}
	if _, err := io.Copy(rw, &pattern.Source{Pattern: f.Of(1), End: f.Size[1]}); err != nil {
		w.fail("a response's body", err)
	}
	w.done("HTTP request served", sink.At)
}

// scribble connects to the processes that endure it, and overwrites all that it shares with
// them, until it is killed or dies of it.
func (w *worker) scribble() {
	steady, _ := w.peers()
	rnd := rand.New(rand.NewPCG(w.Seed, 0))
	for range 10 {
		p := steady[rnd.IntN(len(steady))]
		d := ctnet.Dialer{Timeout: 5 * time.Second}
		if c, err := d.Dial("ct", w.address("ct", p.name, p.index, "hostile")); err == nil {
			go io.Copy(io.Discard, c)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	self, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	random := rand.NewChaCha8([32]byte{byte(w.Seed), byte(w.Seed >> 8)})
	for b := make([]byte, 64<<10); ; {
		for line := range strings.Lines(string(maps)) {
			if !strings.Contains(line, "memfd:ctnet segment") && !strings.Contains(line, "memfd:ctnet events") {
				continue
			}
			var start, end int64
			fmt.Sscanf(line, "%x-%x", &start, &end)
			for at := start; at < end; {
				// All of it, or some words here and there.
				n := min(int64(1)<<rnd.IntN(17), int64(len(b)), end-at)
				random.Read(b[:n])
				self.WriteAt(b[:n], at)
				at += n + rnd.Int64N(1<<(1+rnd.IntN(16)))
			}
		}
	}
}
