package integrations

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// net/http/httputil. In place of
//
//	proxy := httputil.NewSingleHostReverseProxy(backend)
//
// write
//
//	proxy := httputil.NewSingleHostReverseProxy(backend)
//	proxy.Transport = &http.Transport{DialContext: ctnet.DialContext}
//
// or, if the backend listens on a name,
//
//	proxy.Transport = &http.Transport{
//		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
//			return ctnet.DialContext(ctx, "ct", "svc/backend")
//		},
//	}

// serveProxy returns a client of a proxy before a server, with the network on both
// sides of the proxy, and the proxy's host.
func serveProxy(t testing.TB, n *place, backend http.Handler) (client *http.Client, host string) {
	back := n.listen(t)
	serveHTTP(t, back, &http.Server{Handler: backend})

	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: back.host})
	tr := &http.Transport{DialContext: back.dial}
	t.Cleanup(tr.CloseIdleConnections)
	proxy.Transport = tr
	proxy.ErrorLog = log.New(io.Discard, "", 0)

	front := n.listen(t)
	serveHTTP(t, front, &http.Server{Handler: proxy})
	return newClient(t, &http.Transport{DialContext: front.dial}), front.host
}

func TestReverseProxy(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		client, host := serveProxy(t, n, handler())
		require.Equal(t, "hello over HTTP/1.1", get(t, client, "http://"+host+"/hello"))
		exchange(t, client, "http://"+host)
	})
}

func TestReverseProxyStreaming(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		events := make(chan string)
		client, host := serveProxy(t, n, eventHandler(events))
		requireEvents(t, client, "http://"+host, events)
	})
}

func TestReverseProxyUpgrade(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		client, host := serveProxy(t, n, upgradeHandler)
		requireUpgrade(t, client, "http://"+host)
	})
}

// TestReverseProxyBackendDies aborts the backend's answer in its midst.
func TestReverseProxyBackendDies(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		client, host := serveProxy(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, random("half", 100_000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		resp, err := client.Get("http://" + host)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
