//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cutthrough.example/ctnet"
)

// growths tell what grows with the number of connections, and with that of pairs. docs/scale.md calculates
// with their figures.

// connsOf and pairsOf are the numbers of each.
var (
	connsOf = []int{100, 1000, 10_000, 100_000}
	pairsOf = []int{1, 10, 100, 1000}
)

// connsOfPair is how many connections each pair has at most. The protocol has places for 65,536.
const connsOfPair = 50_000

// roomy is the process's application, with limits that leave room for what is dialed beside the connections
// that stay.
var roomy = sync.OnceValues(func() (*ctnet.App, error) {
	return ctnet.NewApp(ctnet.AppConfig{MaxConns: 2 * slices.Max(connsOf)})
})

var growths = func() (all []*workload) {
	for _, n := range connsOf {
		all = append(all, growing(fmt.Sprintf("conns-of-%d", n), fmt.Sprintf("%d idle connections", n),
			(n+connsOfPair-1)/connsOfPair, n))
	}
	for _, n := range pairsOf {
		all = append(all, growing(fmt.Sprintf("pairs-of-%d", n), fmt.Sprintf("%d listeners, and a pair and a connection to each", n),
			n, n))
	}
	return all
}()

// growing opens some connections, to each of some listeners as many, and divides what it finds by their
// number.
func growing(name, title string, listeners, conns int) *workload {
	return &workload{
		name:  name,
		title: title,
		columns: []string{"p50", "dial", "attach", "private", "shared", "tables", "mappings", "fds", "goroutines",
			"snapshot", "answer", "lprivate", "lfds", "lgoroutines"},
		over: []string{ct},
		// Otherwise the runtime chooses larger first stacks for all goroutines as it sees more of them.
		env:     []string{"GODEBUG=adaptivestackstart=0"},
		serve:   func(s *server) error { s.address = filepath.Base(s.Dir); return nil },
		run:     func(c *client) (sample, error) { return grow(c, listeners, conns) },
		long:    name != "pairs-of-10",
		atLeast: float64(1 + conns/10_000), // it has a minute and five times this
	}
}

func nth(address string, i int) string { return fmt.Sprint(address, "-", i) }

// Listen has the server listen at n names, and says what the listeners take.
func (c *control) Listen(n int, reply *Footprint) error {
	app, err := roomy()
	if err != nil {
		return err
	}
	before, err := footprint()
	if err != nil {
		return err
	}
	config := ctnet.ListenConfig{App: app, Peer: ctnet.PeerLimits{Conns: 2 * connsOfPair}}
	for i := range n {
		ln, err := config.Listen(context.Background(), "ct", nth(c.server.address, i))
		if err != nil {
			return err
		}
		go accept(ln, echoUntilEnd)
	}
	after, err := footprint()
	*reply = after.minus(before)
	reply.Goroutines -= n // which accept
	return err
}

func grow(c *client, listeners, conns int) (s sample, err error) {
	app, err := roomy()
	if err != nil {
		return s, err
	}
	growGoroutines(conns)
	if err := c.control.Call("Control.Grow", conns, new(Nothing)); err != nil {
		return s, err
	}
	var ofListeners Footprint
	if err := c.control.Call("Control.Listen", listeners, &ofListeners); err != nil {
		return s, err
	}
	before, err := c.footprints()
	if err != nil {
		return s, err
	}
	begin := time.Now()
	all, err := dialSome(c, listeners, 0, listeners, 1)
	defer func() { closeAll(all) }()
	if err != nil {
		return s, err
	}
	s.Metrics = map[string]float64{"attach": micros(time.Since(begin), listeners)}
	// Many at once, as a program that has this many would do it.
	more, err := dialSome(c, listeners, listeners, conns, 16)
	all = append(all, more...)
	if err != nil {
		return s, err
	}
	open, err := c.footprints()
	if err != nil {
		return s, err
	}
	took := open.minus(before)
	const dials = 1000
	begin = time.Now()
	for i := range dials {
		conn, err := dialNth(c, i%listeners)
		if err != nil {
			return s, err
		}
		conn.Close()
	}
	dial := micros(time.Since(begin), dials)
	trips, err := c.drive(1, func() (func() error, func(), error) { return echoOn(all[0]), func() {}, nil })
	if err != nil {
		return s, err
	}
	// What the client's process is asked by ctss and for metrics.
	begin = time.Now()
	snapshot := app.Snapshot()
	seen := time.Since(begin)
	answer, err := json.Marshal(snapshot)
	if err != nil {
		return s, err
	}
	units := float64(conns)
	s.Metrics["snapshot"] = micros(seen, conns)
	s.Metrics["answer"] = float64(len(answer)) / units
	s.Metrics["p50"] = trips.Metrics["p50"]
	s.Metrics["dial"] = dial
	s.Metrics["private"] = took.Private / units
	s.Metrics["shared"] = took.Shared / units
	s.Metrics["tables"] = took.PageTables / units
	s.Metrics["mappings"] = float64(took.Mappings) / units
	s.Metrics["fds"] = float64(took.FDs) / units
	// The server has one for each connection of its own will.
	s.Metrics["goroutines"] = float64(took.Goroutines-conns) / units
	s.Metrics["lprivate"] = ofListeners.Private / float64(listeners)
	s.Metrics["lfds"] = float64(ofListeners.FDs) / float64(listeners)
	s.Metrics["lgoroutines"] = float64(ofListeners.Goroutines) / float64(listeners)
	return s, nil
}

// dialSome dials connections from the one number up to the other, several at once. The caller closes those
// that it returns, also with an error.
func dialSome(c *client, listeners, from, to, atOnce int) (all []net.Conn, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for k := range atOnce {
		wg.Go(func() {
			for i := from + k; i < to; i += atOnce {
				conn, failed := dialNth(c, i%listeners)
				mu.Lock()
				if failed == nil {
					all = append(all, conn)
				} else if err == nil {
					err = fmt.Errorf("connection %d: %w", i+1, failed)
				}
				stop := err != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	return all, err
}

// dialNth dials a listener and has one echo.
func dialNth(c *client, i int) (net.Conn, error) {
	app, err := roomy()
	if err != nil {
		return nil, err
	}
	d := ctnet.Dialer{App: app}
	conn, err := d.Dial("ct", nth(c.served.Address, i))
	if err != nil {
		return nil, err
	}
	if err := echoOn(conn)(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func micros(d time.Duration, n int) float64 { return d.Seconds() * 1e6 / float64(n) }
