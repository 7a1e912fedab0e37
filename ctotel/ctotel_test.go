package ctotel_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctotel"
	"cutthrough.example/internal/metrics"
)

// TestMain gives the tests a directory of their own, in which no other process listens.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctotel-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func newApp(t *testing.T) *ctnet.App {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { app.Close() })
	return app
}

// collect returns the metrics of each scope.
func collect(t *testing.T, reader sdk.Reader) (scopes []map[string]metricdata.Metrics) {
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	for _, scope := range all.ScopeMetrics {
		found := make(map[string]metricdata.Metrics)
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
		scopes = append(scopes, found)
	}
	return scopes
}

// value returns the value with the given attribute, of a metric that is a sum.
func value(t *testing.T, m metricdata.Metrics, key, is string) float64 {
	t.Helper()
	for _, p := range m.Data.(metricdata.Sum[float64]).DataPoints {
		if v, ok := p.Attributes.Value(attribute.Key(key)); ok && v.AsString() == is {
			return p.Value
		}
	}
	t.Fatal(m.Name, "has no", key, is)
	return 0
}

// TestObserve has values of all kinds of instruments, and their descriptions.
func TestObserve(t *testing.T) {
	app := newApp(t)
	lc, d := ctnet.ListenConfig{App: app}, ctnet.Dialer{App: app}
	ln, err := lc.Listen(t.Context(), "ct", "")
	require.NoError(t, err)
	defer ln.Close()
	c, err := d.Dial("ct", ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 4))
	require.NoError(t, err)

	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	defer provider.Shutdown(t.Context())
	r, err := ctotel.Observe(app, provider.Meter("test"))
	require.NoError(t, err)
	all := collect(t, reader)[0]
	for _, m := range metrics.All {
		got, ok := all[m.OTel]
		if !ok && m.OTel == "ctnet.memory.resident" {
			continue // there is not always time to count it
		}
		require.True(t, ok, m.OTel)
		require.Equal(t, m.Unit, got.Unit, m.OTel)
		require.Equal(t, m.Help, got.Description)
		switch data := got.Data.(type) {
		case metricdata.Sum[float64]:
			require.NotEqual(t, metrics.Level, m.Kind, m.OTel)
			require.Equal(t, m.Kind == metrics.Counter, data.IsMonotonic, m.OTel)
		case metricdata.Gauge[float64]:
			require.Equal(t, metrics.Level, m.Kind, m.OTel)
		default:
			t.Fatalf("%s is a %T", m.OTel, data)
		}
	}
	require.EqualValues(t, 5, value(t, all["ctnet.io"], "network.io.direction", "transmit"))
	require.EqualValues(t, 4, value(t, all["ctnet.io"], "network.io.direction", "receive"))
	require.EqualValues(t, 2, value(t, all["ctnet.connection.count"], "network.connection.state", "established"))
	require.EqualValues(t, 1, value(t, all["ctnet.queue.usage"], "network.io.direction", "receive"))

	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
	all = collect(t, reader)[0]
	require.EqualValues(t, 5, value(t, all["ctnet.io"], "network.io.direction", "transmit"))
	require.EqualValues(t, 0, value(t, all["ctnet.connection.count"], "network.connection.state", "established"))

	require.NoError(t, r.Unregister())
	require.Empty(t, collect(t, reader))
}

// TestObserveTwo has two applications, told apart by their meters.
func TestObserveTwo(t *testing.T) {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	defer provider.Shutdown(t.Context())
	for _, name := range []string{"a", "b"} {
		_, err := ctotel.Observe(newApp(t), provider.Meter("test", metric.WithInstrumentationAttributes(attribute.String("app", name))))
		require.NoError(t, err)
	}
	require.Len(t, collect(t, reader), 2)
}

// TestConventions has names and units as OpenTelemetry wants them.
func TestConventions(t *testing.T) {
	names := make(map[string]bool)
	for _, m := range metrics.All {
		require.Regexp(t, `^ctnet(\.[a-z][a-z_]*[a-z])+$`, m.OTel)
		require.NotRegexp(t, `total$`, m.OTel)
		require.Regexp(t, `^(By|s|1|\{[a-z]+\})$`, m.Unit)
		require.False(t, names[m.OTel], m.OTel)
		names[m.OTel] = true
		for other := range names {
			require.False(t, strings.HasPrefix(m.OTel, other+".") || strings.HasPrefix(other, m.OTel+"."), "%s is a name and a namespace", m.OTel)
		}
		for _, l := range m.Labels {
			require.Regexp(t, `^(ctnet|network)\.[a-z.]+$`, l.OTel)
		}
	}
}
