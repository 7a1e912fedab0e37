package integrations

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// github.com/coder/websocket. The server is an http.Handler. In place of
//
//	c, _, err := websocket.Dial(ctx, "ws://localhost:8080/", nil)
//
// write
//
//	c, _, err := websocket.Dial(ctx, "ws://localhost:8080/", &websocket.DialOptions{
//		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: ctnet.DialContext}},
//	})
//
// or, if the server listens on a name,
//
//	c, _, err := websocket.Dial(ctx, "ws://localhost/", &websocket.DialOptions{
//		HTTPClient: &http.Client{Transport: &http.Transport{
//			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
//				return ctnet.DialContext(ctx, "ct", "svc/web")
//			},
//		}},
//	})

// websocketHandler echoes messages.
func websocketHandler(mode websocket.CompressionMode) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: mode})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "go away" {
				c.Close(websocket.StatusGoingAway, "as you wish")
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})
}

func dialWebsocket(ctx context.Context, client *http.Client, host string, mode websocket.CompressionMode) (*websocket.Conn, error) {
	c, _, err := websocket.Dial(ctx, "ws://"+host, &websocket.DialOptions{HTTPClient: client, CompressionMode: mode})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return c, nil
}

func TestWebsocket(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		for _, mode := range []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover} {
			ln := n.listen(t)
			serveHTTP(t, ln, &http.Server{Handler: websocketHandler(mode)})
			requireWebsocket(t, newClient(t, &http.Transport{DialContext: ln.dial}), ln.host, mode)
		}
	})
}

func TestWebsocketThroughProxy(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		client, host := serveProxy(t, n, websocketHandler(websocket.CompressionDisabled))
		requireWebsocket(t, client, host, websocket.CompressionDisabled)
	})
}

func requireWebsocket(t testing.TB, client *http.Client, host string, mode websocket.CompressionMode) {
	t.Helper()
	inParallel(t, 4, func(i int) error {
		c, err := dialWebsocket(t.Context(), client, host, mode)
		if err != nil {
			return err
		}
		defer c.CloseNow()
		for _, n := range []int{0, 1, 125, 126, 70_000, 150_000} {
			want := randomBytes(fmt.Sprint(i, n), n)
			if err := c.Write(t.Context(), websocket.MessageBinary, want); err != nil {
				return err
			}
			kind, got, err := c.Read(t.Context())
			if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, want) {
				return fmt.Errorf("message of %d bytes: got %d, %v", n, len(got), err)
			}
		}
		pinged := make(chan error)
		go func() { pinged <- c.Ping(t.Context()) }()
		// The pong comes before the echo of what was sent after it.
		reader := c.CloseRead(t.Context())
		if err := <-pinged; err != nil {
			return err
		}
		if reader.Err() != nil {
			return fmt.Errorf("closed: %v", reader.Err())
		}
		return c.Close(websocket.StatusNormalClosure, "")
	})

	c, err := dialWebsocket(t.Context(), client, host, mode)
	require.NoError(t, err)
	defer c.CloseNow()
	require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte("go away")))
	_, _, err = c.Read(t.Context())
	var closed websocket.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, websocket.CloseError{Code: websocket.StatusGoingAway, Reason: "as you wish"}, closed)
}

// TestWebsocketNetConn copies a stream through the net.Conn that a websocket can be.
func TestWebsocketNetConn(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: websocketHandler(websocket.CompressionDisabled)})
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		c, err := dialWebsocket(t.Context(), client, ln.host, websocket.CompressionDisabled)
		require.NoError(t, err)
		conn := websocket.NetConn(t.Context(), c, websocket.MessageBinary)
		defer conn.Close()
		const size = 2 << 20
		go io.Copy(conn, random("stream", size))
		require.NoError(t, checkSum(io.LimitReader(conn, size), "stream", size))
	})
}

// TestWebsocketCut has a client that goes without a word.
func TestWebsocketCut(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		gone := make(chan struct{})
		echo := websocketHandler(websocket.CompressionDisabled)
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			echo.ServeHTTP(w, r)
			close(gone)
		})})
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		c, err := dialWebsocket(t.Context(), client, ln.host, websocket.CompressionDisabled)
		require.NoError(t, err)
		require.NoError(t, c.CloseNow())
		<-gone
	})
}
