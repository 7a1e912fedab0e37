package integrity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// lanes is how many connections there are at a time. About half of them have the same
// sizes, and so need more slots than a segment has.
const lanes = 150

// A crossing is where the ends of TestTraffic's connections are. It returns the client's
// application, and the address of the server, whose ends tell x what they do.
type crossing func(t *testing.T, seed uint64, network, address string, x *exchange) (*ctnet.App, string)

var crossings = map[string]crossing{
	"one app": func(t *testing.T, seed uint64, network, address string, x *exchange) (*ctnet.App, string) {
		a := harness.NewApp(t)
		return a, serveHere(t, a, seed, network, address, x)
	},
}

// TestTraffic has many connections of all shapes at once.
func TestTraffic(t *testing.T) {
	seed := newSeed(t)
	while := 300 * time.Millisecond
	if *goOn > 0 {
		while = *goOn / time.Duration(3*len(crossings))
	}
	for where, cross := range crossings {
		for _, network := range []string{"ct", "tcp", "unix"} {
			t.Run(where+"/"+network, func(t *testing.T) {
				r := &run{seed: seed, network: network, x: newExchange(), hung: make(chan *plan, 1)}
				r.app, r.address = cross(t, seed, network, newAddress(t, network), r.x)
				r.goOn(t, while)
				r.report(t)
				requireNoConns(t, r.app)
			})
		}
	}
}

func newAddress(t *testing.T, network string) string {
	switch network {
	case "tcp":
		return "127.0.0.1:0"
	case "unix":
		dir, err := os.MkdirTemp("", "ctnet-test-") // t.TempDir's is too long for a socket
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		return filepath.Join(dir, "s")
	}
	return t.Name()
}

// A run is TestTraffic on one network between two places.
type run struct {
	seed             uint64
	network, address string
	app              *ctnet.App
	x                *exchange

	number atomic.Uint64 // of the last connection
	over   atomic.Bool
	hung   chan *plan

	mu             sync.Mutex
	conns, failed  int // the latter by context
	ops            int
	bytes, spoiled int64
	wrong          []string
}

// goOn makes connections for a while.
func (r *run) goOn(t *testing.T, while time.Duration) {
	time.AfterFunc(while, func() { r.over.Store(true) })
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() {
			for !r.over.Load() {
				r.one(newPlan(r.seed, r.number.Add(1)))
			}
		})
	}
	finished := harness.AllDone(&wg)
	select {
	case <-finished:
	case p := <-r.hung:
		r.report(t)
		harness.RequireWithin(t, 0, finished, fmt.Sprintf("%v; -integrity.seed=%d;", p, r.seed))
	}
}

// one makes a connection, uses it, and looks at what came of it.
func (r *run) one(p *plan) {
	watchdog := time.AfterFunc(limit, func() {
		select {
		case r.hung <- p:
		default:
		}
	})
	defer watchdog.Stop()
	c, err := r.dial(p)
	if err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() && p.patience > 0 {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.failed++
			return
		}
		r.add(p, []string{"Dial: " + err.Error()})
		return
	}
	own := use(p, client, c, r.x)
	other := r.x.wait(p.number, server, done)
	r.x.forget(p.number)
	ends := [2]report{own, *other}
	r.add(p, judge(r.network, ends), ends[:]...)
}

func (r *run) dial(p *plan) (*ctnet.Conn, error) {
	d := ctnet.Dialer{App: r.app, WriteBuffer: p.fifo[client], ReadBuffer: p.fifo[server], Path: ctnet.CutThrough}
	ctx := context.Background()
	if p.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.patience)
		defer cancel()
	}
	c, err := d.DialContext(ctx, r.network, r.address)
	if err != nil {
		return nil, err
	}
	_, err = c.Write(binary.BigEndian.AppendUint64(make([]byte, headerSize-8), p.number))
	return c.(*ctnet.Conn), err
}

// add counts a connection.
func (r *run) add(p *plan, wrong []string, ends ...report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	for _, e := range ends {
		r.ops += e.Writes + e.Reads
		r.bytes += e.Read
		r.spoiled += e.WrongBytes
	}
	if len(wrong) > 0 {
		r.wrong = append(r.wrong, fmt.Sprintf("%v:\n\t%q\n\t%+v", p, wrong, ends))
	}
}

func (r *run) report(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d connections, %d Dials given up, %d operations, %d bytes; wrong: %d connections, %d bytes",
		r.conns, r.failed, r.ops, r.bytes, len(r.wrong), r.spoiled)
	for _, w := range r.wrong[:min(3, len(r.wrong))] {
		t.Error(w)
	}
	if len(r.wrong) > 3 {
		t.Errorf("and %d connections more", len(r.wrong)-3)
	}
}

// A serving is the other side of a run, in this process or another.
type serving struct {
	seed uint64
	ln   net.Listener
	x    *exchange
	wg   sync.WaitGroup
}

func serve(a *ctnet.App, seed uint64, network, address string, x *exchange) *serving {
	lc := ctnet.ListenConfig{App: a, Path: ctnet.CutThrough}
	ln, err := lc.Listen(context.Background(), network, address)
	harness.Check(err)
	s := &serving{seed: seed, ln: ln, x: x}
	for range 2 {
		s.wg.Go(s.accept)
	}
	return s
}

// serveHere serves in this process until the test's end.
func serveHere(t *testing.T, a *ctnet.App, seed uint64, network, address string, x *exchange) string {
	s := serve(a, seed, network, address, x)
	t.Cleanup(func() { within(t, "the server", s.end) })
	return s.ln.Addr().String()
}

func (s *serving) accept() {
	for {
		c, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		harness.Check(err)
		s.wg.Go(func() { s.one(c.(*ctnet.Conn)) })
	}
}

// one uses the accepting end of the connection that it says it is.
func (s *serving) one(c *ctnet.Conn) {
	var header [headerSize]byte
	if n, err := io.ReadFull(c, header[:]); err != nil {
		if n > 0 {
			harness.Check(err)
		}
		c.Close() // of a Dial that was given up
		return
	}
	number := binary.BigEndian.Uint64(header[headerSize-8:])
	r := use(newPlan(s.seed, number), server, c, s.x)
	s.x.tell(note{key{number, server, done}, &r})
	if s.x.send != nil {
		s.x.forget(number) // the other process has another exchange
	}
}

// end stops listening and waits for the connections.
func (s *serving) end() {
	s.ln.Close()
	s.wg.Wait()
}
