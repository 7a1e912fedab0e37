package ctexpvar_test

import (
	"encoding/json"
	"expvar"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctnet/ctexpvar"
	"cutthrough.example/internal/metrics"
)

// TestVar has what a reader of /debug/vars gets.
func TestVar(t *testing.T) {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	defer app.Close()
	lc, d := ctnet.ListenConfig{App: app}, ctnet.Dialer{App: app}
	ln, err := lc.Listen(t.Context(), "ct", "")
	require.NoError(t, err)
	defer ln.Close()
	c, err := d.Dial("ct", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	expvar.Publish(t.Name(), ctexpvar.Var(app))

	server := httptest.NewServer(http.DefaultServeMux)
	defer server.Close()
	answer, err := http.Get(server.URL + "/debug/vars")
	require.NoError(t, err)
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	var vars map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(b, &vars))
	for _, name := range []string{"ctnet", t.Name()} {
		var all map[string]any
		require.NoError(t, json.Unmarshal(vars[name], &all), name)
		for _, m := range metrics.All {
			if m.Name != "ctnet_resident_bytes" { // there is not always time to count it
				require.Contains(t, all, m.Name)
			}
		}
		sent := 0.0
		if name != "ctnet" {
			sent = 5
		}
		require.Equal(t, map[string]any{"receive": 0.0, "transmit": sent}, all["ctnet_io_bytes_total"])
		require.Equal(t, 0.0, all["ctnet_fallbacks_total"].(map[string]any)["dial"].(map[string]any)["silent"])
		require.Contains(t, all["ctnet_fallbacks_total"], "listen")
		require.Equal(t, 0.0, all["ctnet_connections_refused_total"])
	}
}
