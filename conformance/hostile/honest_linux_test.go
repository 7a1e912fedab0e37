package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// An honestPlan says what an honest client dials.
type honestPlan struct {
	Network, Address string
}

// A tally is what an honest client has done since it was asked last.
type tally struct {
	Dials    times // on a pair that is there
	Attaches times // by a new application each
	Trips    times // of 64 bytes there and back, on one connection
	Errors   []string
	Oldest   time.Duration // what is under way was begun that long ago
}

// times are how long something took.
type times struct {
	N             int
	P50, P99, Max time.Duration
}

func (s times) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(d / 100) }
	return fmt.Sprintf("%6d: p50 %8v, p99 %8v, max %8v", s.N, round(s.P50), round(s.P99), round(s.Max))
}

// A series is what times are made of.
type series struct {
	mu      sync.Mutex
	all     []time.Duration
	started atomic.Int64
}

// one times f.
func (s *series) one(f func() error) error {
	start := time.Now()
	s.started.Store(start.UnixNano())
	err := f()
	took := time.Since(start)
	s.started.Store(0)
	if err == nil {
		s.mu.Lock()
		s.all = append(s.all, took)
		s.mu.Unlock()
	}
	return err
}

func (s *series) age() time.Duration {
	if at := s.started.Load(); at != 0 {
		return time.Since(time.Unix(0, at))
	}
	return 0
}

// take returns the times since the last call.
func (s *series) take() (t times) {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	if len(all) == 0 {
		return t
	}
	slices.Sort(all)
	return times{len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1]}
}

// An honest client minds its business.
type honest struct {
	plan                   honestPlan
	dials, attaches, trips series
	number                 atomic.Uint64

	mu     sync.Mutex
	errors []string
}

// Honest clients wait that long for anything, and begin something new after these times.
const (
	honestPatience = 10 * time.Second
	betweenDials   = 2 * time.Millisecond
	betweenFresh   = 10 * time.Millisecond
	betweenTrips   = time.Millisecond
)

func playHonest() {
	h := &honest{plan: args[honestPlan]()}
	own, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	go h.again(betweenDials, func() error { return h.visit(own, &h.dials, 4) })
	go h.again(betweenFresh, func() error {
		fresh, err := ctnet.NewApp(ctnet.AppConfig{})
		if err != nil {
			return err
		}
		defer fresh.Close()
		return h.visit(fresh, &h.attaches, 1)
	})
	go h.again(betweenTrips, func() error { return h.stay(own) })
	fmt.Println("ready")
	commands(func(word, _ string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		answer(word, tally{h.dials.take(), h.attaches.take(), h.trips.take(), h.errors, max(h.dials.age(), h.attaches.age(), h.trips.age())})
		h.errors = nil
	})
}

// again does something again and again, with a pause.
func (h *honest) again(pause time.Duration, f func() error) {
	for range time.Tick(pause) {
		if err := f(); err != nil {
			h.mu.Lock()
			h.errors = append(h.errors, err.Error())
			h.mu.Unlock()
		}
	}
}

func (h *honest) dial(a *ctnet.App, s *series) (c net.Conn, err error) {
	err = s.one(func() error {
		if h.plan.Network == "ct" {
			d := ctnet.Dialer{App: a, Timeout: honestPatience}
			c, err = d.Dial(h.plan.Network, h.plan.Address)
		} else {
			c, err = net.DialTimeout(h.plan.Network, h.plan.Address, honestPatience)
		}
		return err
	})
	return c, err
}

// visit dials, has some bytes returned, and closes.
func (h *honest) visit(a *ctnet.App, s *series, trips int) error {
	c, err := h.dial(a, s)
	if err != nil {
		return err
	}
	defer c.Close()
	e := h.exchange(c)
	for range trips {
		if err := e.trip(64); err != nil {
			return err
		}
	}
	return e.trip(20_000)
}

// stay makes a connection and uses it until that fails.
func (h *honest) stay(a *ctnet.App) error {
	var unmeasured series
	c, err := h.dial(a, &unmeasured)
	if err != nil {
		return err
	}
	defer c.Close()
	e := h.exchange(c)
	for range time.Tick(betweenTrips) {
		if err := h.trips.one(func() error { return e.trip(64) }); err != nil {
			return err
		}
	}
	return nil
}

// An exchange is a connection's bytes, which depend on their position, and on which connection
// of which process it is.
type exchange struct {
	c         net.Conn
	seed, pos uint64
}

func (h *honest) exchange(c net.Conn) *exchange {
	return &exchange{c: c, seed: uint64(os.Getpid())<<32 + h.number.Add(1)}
}

// next returns the next n bytes.
func (e *exchange) next(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		e.pos++
		x := (e.seed*0x9e3779b97f4a7c15 + e.pos) * 0xbf58476d1ce4e5b9
		b = binary.LittleEndian.AppendUint64(b, x^x>>29)
	}
	return b[:n]
}

// trip sends n bytes and has them back.
func (e *exchange) trip(n int) error {
	e.c.SetDeadline(time.Now().Add(honestPatience))
	want := e.next(n)
	if _, err := e.c.Write(want); err != nil {
		return err
	}
	got := make([]byte, n)
	if n, err := io.ReadFull(e.c, got); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("WRONG BYTES: %x in place of %x", got[:64], want[:64])
	}
	return nil
}

// requireWell asks an honest client until it has done all that it does often enough, without
// an error, since it was asked last.
func requireWell(t testing.TB, h *process, often int) {
	t.Helper()
	var dials, attaches, trips int
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		now := ask[tally](h, "tally")
		require.Empty(t, now.Errors, "an honest client is hurt")
		dials, attaches, trips = dials+now.Dials.N, attaches+now.Attaches.N, trips+now.Trips.N
		if min(dials, attaches, trips) >= often {
			return
		}
		require.True(t, time.Now().Before(end), "an honest client has done only %d Dials, %d of new applications, %d round trips",
			dials, attaches, trips)
	}
}
