package alerttest

import (
	"context"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctprom"
)

// TestMain gives the tests a directory of their own, in which no other process listens.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctprom-alerttest-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func newApp(t *testing.T, maxConns int) *ctnet.App {
	app, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: maxConns})
	require.NoError(t, err)
	t.Cleanup(func() { app.Close() })
	return app
}

// interval is the time between scrapes and evaluations.
const interval = 15 * time.Second

// A history has what was scraped of an application.
type history struct {
	t        *testing.T
	registry *prometheus.Registry
	now      time.Time // of the last scrape
	series   map[string]*promql.Series
}

func newHistory(t *testing.T, app *ctnet.App) *history {
	h := &history{t, prometheus.NewRegistry(), time.Unix(1_800_000_000, 0), make(map[string]*promql.Series)}
	h.registry.MustRegister(ctprom.NewCollector(app))
	h.scrape(1)
	return h
}

// scrape scrapes n times. The clock is the history's own.
func (h *history) scrape(n int) {
	for range n {
		h.now = h.now.Add(interval)
		families, err := h.registry.Gather()
		require.NoError(h.t, err)
		for _, f := range families {
			for _, m := range f.Metric {
				l := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, f.GetName(), "job", "ctnet", "instance", "host"))
				for _, pair := range m.Label {
					l.Set(pair.GetName(), pair.GetValue())
				}
				value := m.GetGauge().GetValue()
				if f.GetType() == dto.MetricType_COUNTER {
					value = m.GetCounter().GetValue()
				}
				key := l.Labels().String()
				if h.series[key] == nil {
					h.series[key] = &promql.Series{Metric: l.Labels()}
				}
				s := h.series[key]
				s.Floats = append(s.Floats, promql.FPoint{T: h.now.UnixMilli(), F: value})
			}
		}
	}
}

// A seriesSet is a storage.SeriesSet.
type seriesSet struct {
	storage.SeriesSet // that is empty
	left              []storage.Series
	at                storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.left) == 0 {
		return false
	}
	s.at, s.left = s.left[0], s.left[1:]
	return true
}

func (s *seriesSet) At() storage.Series { return s.at }

// selected returns the series that match.
func (h *history) selected(matchers []*labels.Matcher) storage.SeriesSet {
	set := &seriesSet{SeriesSet: storage.EmptySeriesSet()}
next:
	for _, s := range h.series {
		for _, m := range matchers {
			if !m.Matches(s.Metric.Get(m.Name)) {
				continue next
			}
		}
		set.left = append(set.left, promql.NewStorageSeries(*s))
	}
	return set
}

// query evaluates an expression at a time.
func (h *history) query(expr string, at time.Time) promql.Vector {
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: promQL})
	defer engine.Close()
	stored := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, m ...*labels.Matcher) storage.SeriesSet { return h.selected(m) },
	}}
	q, err := engine.NewInstantQuery(context.Background(), stored, nil, expr, at)
	require.NoError(h.t, err, expr)
	defer q.Close()
	v, err := q.Exec(context.Background()).Vector()
	require.NoError(h.t, err, expr)
	return v
}

// firing returns the alerts that fire at the last scrape, each with the labels of one of its series: their
// expressions have been true since the time that they say.
func (h *history) firing() map[string]labels.Labels {
	all := make(map[string]labels.Labels)
	for _, r := range rules(h.t) {
		v := h.query(r.Expr, h.now)
		for at := h.now; len(v) > 0 && at.After(h.now.Add(-time.Duration(r.For))); {
			at = at.Add(-interval)
			if len(h.query(r.Expr, at)) == 0 {
				v = nil
			}
		}
		if len(v) > 0 {
			all[r.Alert] = v[0].Metric
		}
	}
	return all
}

// requireOnly requires that one alert fires.
func (h *history) requireOnly(alert string) labels.Labels {
	h.t.Helper()
	all := h.firing()
	require.Contains(h.t, all, alert)
	require.Len(h.t, all, 1, all)
	return all[alert]
}

func listen(t *testing.T, app *ctnet.App, backlog int) net.Listener {
	lc := ctnet.ListenConfig{App: app, Backlog: backlog}
	ln, err := lc.Listen(t.Context(), "ct", "")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// open makes a connection inside the application.
func open(t *testing.T, app *ctnet.App, ln net.Listener) (c, s net.Conn) {
	d := ctnet.Dialer{App: app}
	c, err := d.Dial("ct", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	s, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return c, s
}

// TestHealthy has connections that come and go, and Dials to what is no ctnet listener: no alert.
func TestHealthy(t *testing.T) {
	app := newApp(t, 0)
	h := newHistory(t, app)
	ln := listen(t, app, 0)
	kernel, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer kernel.Close()
	for range 50 {
		c, s := open(t, app, ln)
		_, err := c.Write(make([]byte, 1000))
		require.NoError(t, err)
		d := ctnet.Dialer{App: app}
		k, err := d.Dial("tcp", kernel.Addr().String())
		require.NoError(t, err)
		require.NoError(t, k.Close())
		h.scrape(1)
		require.Empty(t, h.firing())
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	}
	require.EqualValues(t, 50, app.Snapshot().Totals.DialFallbacks[ctnet.ReasonAbsent])
}

// TestFallback has one Dial that takes the kernel's socket, as a limit is reached.
func TestFallback(t *testing.T) {
	app := newApp(t, 1)
	lc, d := ctnet.ListenConfig{App: app}, ctnet.Dialer{App: app}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	h := newHistory(t, app)
	dial := func() (net.Conn, net.Conn) {
		c, err := d.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		return c, s
	}
	c, s := dial()
	h.scrape(4)
	require.Empty(t, h.firing())
	kc, ks := dial()
	require.IsType(t, new(net.TCPConn), kc)
	for _, end := range []net.Conn{c, s, kc, ks} {
		require.NoError(t, end.Close())
	}
	h.scrape(1)
	require.Equal(t, "limit-reached", h.requireOnly("CtnetFallback").Get("reason"))
	h.scrape(50)
	h.requireOnly("CtnetFallback") // for a quarter of an hour, of one Dial
	h.scrape(15)
	require.Empty(t, h.firing())
}

// TestListener has a listener that could not offer shared memory.
func TestListener(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("applications meet on Linux only")
	}
	app := newApp(t, 0)
	t.Setenv("CTNET_DIR", "/dev/null")
	lc := ctnet.ListenConfig{App: app}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	h := newHistory(t, app)
	require.Equal(t, "unusable", h.requireOnly("CtnetListenerWithoutCutThrough").Get("reason"))
}

// TestRefused has an application that wants more of a listener than it may have, again and again.
func TestRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("applications meet on Linux only")
	}
	app, client := newApp(t, 0), newApp(t, 0)
	lc := ctnet.ListenConfig{App: app, Peer: ctnet.PeerLimits{Conns: 1}}
	ln, err := lc.Listen(t.Context(), "ct", "")
	require.NoError(t, err)
	defer ln.Close()
	open(t, client, ln)
	h := newHistory(t, app)
	refused := func() {
		d := ctnet.Dialer{App: client}
		_, err := d.Dial("ct", ln.Addr().String())
		require.ErrorIs(t, err, syscall.ENOBUFS)
		h.scrape(1)
	}
	for range 40 {
		refused()
		require.Empty(t, h.firing())
	}
	refused()
	h.requireOnly("CtnetConnectionsRefused")
	h.scrape(20)
	require.Empty(t, h.firing())
}

// TestStalledReader has a peer that does not read, and then does. The bubble's clock gives the time that
// a Write has slept.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newApp(t, 0)
		ln := listen(t, app, 0)
		c, s := open(t, app, ln)
		h := newHistory(t, app)
		scrape := func(n int) {
			for range n {
				time.Sleep(interval)
				h.scrape(1)
			}
		}
		wrote := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 4*ctnet.DefaultBuffer))
			wrote <- err
		}()
		synctest.Wait()
		scrape(4) // 60 s
		require.Empty(t, h.firing())
		scrape(4)
		require.Empty(t, h.firing())
		scrape(1)
		h.requireOnly("CtnetReaderStalled")
		for left := 4 * ctnet.DefaultBuffer; left > 0; {
			n, err := s.Read(make([]byte, left))
			require.NoError(t, err)
			left -= n
		}
		require.NoError(t, <-wrote)
		require.NoError(t, c.Close()) // in a bubble a Snapshot takes no lock, and so sees no end of a sleep
		require.NoError(t, s.Close())
		scrape(1)
		require.Empty(t, h.firing())
		require.NoError(t, ln.Close())
	})
}

// TestLevels has faults that are levels: a program that does not accept, that does not close, and that comes
// near a limit.
func TestLevels(t *testing.T) {
	t.Run("accept", func(t *testing.T) {
		app := newApp(t, 0)
		ln := listen(t, app, 10)
		d := ctnet.Dialer{App: app}
		for range 9 {
			go func() {
				if c, err := d.Dial("ct", ln.Addr().String()); err == nil {
					c.Close()
				}
			}()
		}
		require.Eventually(t, func() bool { return app.Snapshot().Listeners[0].Waiting == 9 }, 10*time.Second, time.Millisecond)
		h := newHistory(t, app)
		h.scrape(3)
		require.Empty(t, h.firing())
		h.scrape(1)
		h.requireOnly("CtnetBacklogFull")
	})
	t.Run("close", func(t *testing.T) {
		app := newApp(t, 0)
		ln := listen(t, app, 0)
		for range 101 {
			c, _ := open(t, app, ln)
			require.NoError(t, c.Close())
		}
		h := newHistory(t, app)
		h.scrape(39)
		require.Empty(t, h.firing())
		h.scrape(1)
		h.requireOnly("CtnetConnectionsNotClosed")
	})
	t.Run("limit", func(t *testing.T) {
		app := newApp(t, 10)
		ln := listen(t, app, 0)
		for range 9 {
			open(t, app, ln)
		}
		h := newHistory(t, app)
		h.scrape(19)
		require.Empty(t, h.firing())
		h.scrape(1)
		require.Equal(t, "connections", h.requireOnly("CtnetLimitNear").Get("resource"))
	})
}
