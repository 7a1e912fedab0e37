package ctprom_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctprom"
	"cutthrough.example/internal/leakcheck"
)

// TestMain gives the tests a directory of their own, in which no other process listens.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctprom-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func newApp(tb testing.TB) *ctnet.App {
	app, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: 20_000})
	require.NoError(tb, err)
	tb.Cleanup(func() { app.Close() })
	return app
}

// connect makes n connections from client to server.
func connect(tb testing.TB, server, client *ctnet.App, n int) (c, s []net.Conn) {
	lc := ctnet.ListenConfig{App: server}
	ln, err := lc.Listen(tb.Context(), "ct", "")
	require.NoError(tb, err)
	tb.Cleanup(func() { ln.Close() })
	d := ctnet.Dialer{App: client}
	for range n {
		dialed, err := d.Dial("ct", ln.Addr().String())
		require.NoError(tb, err)
		tb.Cleanup(func() { dialed.Close() })
		accepted, err := ln.Accept()
		require.NoError(tb, err)
		tb.Cleanup(func() { accepted.Close() })
		c, s = append(c, dialed), append(s, accepted)
	}
	return c, s
}

// TestCollector has values, as Prometheus reads them, and stay when connections are gone.
func TestCollector(t *testing.T) {
	app := newApp(t)
	c, s := connect(t, app, app, 3)
	for i := range c {
		_, err := c[i].Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(s[i], make([]byte, 5))
		require.NoError(t, err)
	}
	collector := ctprom.NewCollector(app)
	check := func(open int) {
		t.Helper()
		require.NoError(t, testutil.CollectAndCompare(collector, strings.NewReader(fmt.Sprintf(`
# HELP ctnet_io_bytes_total Bytes that ends of connections have read and written.
# TYPE ctnet_io_bytes_total counter
ctnet_io_bytes_total{direction="receive"} 15
ctnet_io_bytes_total{direction="transmit"} 15
# HELP ctnet_connections_opened_total Connections through shared memory that Dial and Accept have returned.
# TYPE ctnet_connections_opened_total counter
ctnet_connections_opened_total{side="accepted"} 3
ctnet_connections_opened_total{side="dialed"} 3
# HELP ctnet_connections Ends of connections; both ends, of connections inside the application.
# TYPE ctnet_connections gauge
ctnet_connections{state="close_wait"} 0
ctnet_connections{state="closed"} 0
ctnet_connections{state="closing"} 0
ctnet_connections{state="established"} %d
ctnet_connections{state="fin_wait"} 0
ctnet_connections{state="half_open"} 0
ctnet_connections{state="reset"} 0
`, open)), "ctnet_io_bytes_total", "ctnet_connections_opened_total", "ctnet_connections"))
	}
	check(6)
	for i := range c {
		require.NoError(t, c[i].Close())
		require.NoError(t, s[i].Close())
	}
	check(0)
}

// TestConventions has what Prometheus' own linter and its strict registry say, and the same number of
// series however many connections there are.
func TestConventions(t *testing.T) {
	if runtime.GOOS == "linux" {
		leakcheck.Check(t)
	}
	app := newApp(t)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(ctprom.NewCollector(app)))
	series := func() int {
		all, err := testutil.GatherAndCount(registry)
		require.NoError(t, err)
		resident, err := testutil.GatherAndCount(registry, "ctnet_resident_bytes")
		require.NoError(t, err)
		return all - resident // there is not always time to count it
	}
	few := series()
	connect(t, app, app, 100)
	require.Equal(t, few, series())
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Less(t, few, 100)
}

// BenchmarkCollect collects of an application with that many ends of connections.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("conns=%d", n), func(b *testing.B) {
			server, client := newApp(b), newApp(b)
			if runtime.GOOS != "linux" {
				server, n = client, n/2 // applications meet on Linux only
			}
			connect(b, server, client, n)
			registry := prometheus.NewRegistry()
			registry.MustRegister(ctprom.NewCollector(client))
			b.ReportAllocs()
			for b.Loop() {
				_, err := registry.Gather()
				require.NoError(b, err)
			}
		})
	}
}
