package integrations

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// net/http. In place of
//
//	ln, err := net.Listen("tcp", "localhost:8080")
//	err = server.Serve(ln) // or ServeTLS
//
//	client := &http.Client{Transport: &http.Transport{}}
//	resp, err := client.Get("http://localhost:8080/")
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:8080")
//	err = server.Serve(ln) // or ServeTLS
//
//	client := &http.Client{Transport: &http.Transport{DialContext: ctnet.DialContext}}
//	resp, err := client.Get("http://localhost:8080/")
//
// or, without a port,
//
//	ln, err := ctnet.Listen("ct", "svc/web")
//	err = server.Serve(ln) // or ServeTLS
//
//	client := &http.Client{Transport: &http.Transport{
//		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
//			return ctnet.DialContext(ctx, "ct", "svc/web")
//		},
//	}}
//	resp, err := client.Get("http://localhost/") // any host

// serveHTTP serves until the test ends. It counts connections.
func serveHTTP(t testing.TB, ln net.Listener, server *http.Server) (conns *atomic.Int64) {
	conns = new(atomic.Int64)
	server.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(ln net.Listener) error { return server.ServeTLS(ln, "", "") }
	}
	background(t, func() error { return serve(ln) }, server.Close)
	return conns
}

// newClient returns a client that has no idle connections left when the test ends.
func newClient(t testing.TB, tr *http.Transport) *http.Client {
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// handler is a server's as it might be on any network.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s", r.Proto)
	})
	mux.HandleFunc("GET /addr", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	})
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, sum(r.Body))
	})
	mux.HandleFunc("GET /random", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		w.Header().Set("Trailer", "Sum")
		io.Copy(w, random(r.FormValue("seed"), n))
		w.Header().Set("Sum", sum(random(r.FormValue("seed"), n)))
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		b := make([]byte, 32<<10)
		for {
			n, err := r.Body.Read(b)
			w.Write(b[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	return mux
}

// exchange has many requests at the same time, with bodies of all sizes.
func exchange(t testing.TB, client *http.Client, base string) {
	t.Helper()
	inParallel(t, 6, func(i int) error {
		for _, n := range []int{0, 1, 1000, 100_000 * i} {
			seed := fmt.Sprint(i, n)
			resp, err := client.Post(base+"/sum", "application/octet-stream", random(seed, n))
			if err != nil {
				return err
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := sum(random(seed, n)); err != nil || string(got) != want {
				return fmt.Errorf("upload of %d bytes: %q, %v, want %q", n, got, err, want)
			}

			resp, err = client.Get(fmt.Sprintf("%s/random?seed=%s&n=%d", base, strings.ReplaceAll(seed, " ", "+"), n))
			if err != nil {
				return err
			}
			err = checkSum(resp.Body, seed, n)
			resp.Body.Close()
			if err != nil {
				return err
			}
			if got, want := resp.Trailer.Get("Sum"), sum(random(seed, n)); got != want {
				return fmt.Errorf("trailer %q, want %q", got, want)
			}
		}
		return nil
	})
}

// converse sends parts of one request's body, each after the answer to the part
// before, then a large part.
func converse(t testing.TB, client *http.Client, base string) {
	t.Helper()
	pr, pw := io.Pipe()
	defer pw.Close()
	resp, err := client.Post(base+"/echo", "application/octet-stream", pr)
	require.NoError(t, err)
	defer resp.Body.Close()
	for i := range 10 {
		message := fmt.Sprintf("message %d", i)
		io.WriteString(pw, message)
		answer := make([]byte, len(message))
		_, err := io.ReadFull(resp.Body, answer)
		require.NoError(t, err)
		require.Equal(t, message, string(answer))
	}
	const n = 2 << 20
	go func() {
		io.Copy(pw, random("large", n))
		pw.Close()
	}()
	require.NoError(t, checkSum(resp.Body, "large", n))
}

func get(t testing.TB, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return string(b)
}

func TestHTTP1(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		conns := serveHTTP(t, ln, &http.Server{Handler: handler()})
		client := newClient(t, &http.Transport{DialContext: ln.dial})

		addr := get(t, client, "http://"+ln.host+"/addr")
		if n.kind != "unix" {
			_, _, err := net.SplitHostPort(addr)
			require.NoError(t, err)
		}
		for range 100 {
			require.Equal(t, "hello over HTTP/1.1", get(t, client, "http://"+ln.host+"/hello"))
		}
		require.Equal(t, addr, get(t, client, "http://"+ln.host+"/addr"))
		require.EqualValues(t, 1, conns.Load()) // all on one connection
		exchange(t, client, "http://"+ln.host)
		converse(t, client, "http://"+ln.host)
	})
}

// TestHTTPExpectContinue waits for the server's word before it sends the body.
func TestHTTPExpectContinue(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: handler()})
		client := newClient(t, &http.Transport{DialContext: ln.dial, ExpectContinueTimeout: time.Minute})
		r, err := http.NewRequest("POST", "http://"+ln.host+"/sum", random("body", 1<<20))
		require.NoError(t, err)
		r.Header.Set("Expect", "100-continue")
		resp, err := client.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, sum(random("body", 1<<20)), string(got))
	})
}

// TestHTTPFile has a server that sends from a file.
func TestHTTPFile(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		dir := t.TempDir()
		want := randomBytes("file", 1<<20)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), want, 0o600))
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: http.FileServer(http.Dir(dir))})
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		require.Equal(t, sum(random("file", 1<<20)), sum(strings.NewReader(get(t, client, "http://"+ln.host+"/file"))))

		r, err := http.NewRequest("GET", "http://"+ln.host+"/file", nil)
		require.NoError(t, err)
		r.Header.Set("Range", "bytes=500000-999999")
		resp, err := client.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusPartialContent, resp.StatusCode)
		require.Equal(t, sum(strings.NewReader(string(want[500_000:1_000_000]))), sum(resp.Body))
	})
}

// TestHTTPStreaming has a server whose answer comes in pieces, each of which the
// client has before the next is there.
func TestHTTPStreaming(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		events := make(chan string)
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: eventHandler(events)})
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		requireEvents(t, client, "http://"+ln.host, events)
	})
}

func eventHandler(events <-chan string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		rc.Flush()
		for e := range events {
			fmt.Fprintf(w, "data: %s\n\n", e)
			rc.Flush()
		}
	})
}

func requireEvents(t testing.TB, client *http.Client, url string, events chan<- string) {
	t.Helper()
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for i := range 100 {
		e := fmt.Sprintf("event %d", i)
		events <- e
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: "+e+"\n", line)
		_, err = r.ReadString('\n')
		require.NoError(t, err)
	}
	close(events)
	_, err = r.ReadByte()
	require.Equal(t, io.EOF, err)
}

// TestHTTPTimeouts has a client that gives up, which the server notices, and a
// server that does.
func TestHTTPTimeouts(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		gone := make(chan struct{}, 1)
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			gone <- struct{}{}
		})})
		client := newClient(t, &http.Transport{DialContext: ln.dial, ResponseHeaderTimeout: 20 * time.Millisecond})
		_, err := client.Get("http://" + ln.host + "/")
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		<-gone

		ln = n.listen(t)
		serveHTTP(t, ln, &http.Server{ReadHeaderTimeout: 20 * time.Millisecond})
		conn := ln.connect(t)
		io.WriteString(conn, "GET / HTTP/1.1\r\nHo")
		io.Copy(io.Discard, conn) // until the server closes it
	})
}

// TestHTTPShutdown shuts a server down that has a request in flight.
func TestHTTPShutdown(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		events := make(chan string)
		ln := n.listen(t)
		server := &http.Server{Handler: eventHandler(events)}
		closed := make(chan struct{})
		server.RegisterOnShutdown(func() { close(closed) })
		serveHTTP(t, ln, server)
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		resp, err := client.Get("http://" + ln.host + "/")
		require.NoError(t, err)
		defer resp.Body.Close()

		shutdown := make(chan error)
		go func() { shutdown <- server.Shutdown(t.Context()) }()
		<-closed
		_, err = ln.dial(t.Context(), "tcp", ln.host)
		require.Error(t, err)
		events <- "last"
		close(events)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "data: last\n\n", string(b))
		require.NoError(t, <-shutdown)
	})
}

// TestHTTPReplaced has one client of several servers, one after the other.
func TestHTTPReplaced(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		client := newClient(t, &http.Transport{DialContext: ln.dial})
		for i := range 5 {
			server := &http.Server{Handler: handler()}
			served := make(chan error)
			go func() { served <- server.Serve(ln) }()
			get(t, client, "http://"+ln.host+"/hello")
			require.NoError(t, server.Close())
			require.True(t, errors.Is(<-served, http.ErrServerClosed))
			if i < 4 {
				ln = n.listenOn(t, ln.Addr().String())
			}
		}
	})
}

func TestHTTP2(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		serverTLS, clientTLS := certificate(t)
		ln := n.listen(t)
		conns := serveHTTP(t, ln, &http.Server{Handler: handler(), TLSConfig: serverTLS})
		client := newClient(t, &http.Transport{
			DialContext:       ln.dial,
			TLSClientConfig:   clientTLS,
			ForceAttemptHTTP2: true, // because of DialContext and TLSClientConfig, on any network
		})
		require.Equal(t, "hello over HTTP/2.0", get(t, client, "https://"+ln.host+"/hello"))
		exchange(t, client, "https://"+ln.host)
		converse(t, client, "https://"+ln.host)
		require.EqualValues(t, 1, conns.Load())
	})
}

// TestH2C is HTTP/2 without TLS.
func TestH2C(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		ln := n.listen(t)
		conns := serveHTTP(t, ln, &http.Server{Handler: handler(), Protocols: &protocols})
		client := newClient(t, &http.Transport{DialContext: ln.dial, Protocols: &protocols})
		require.Equal(t, "hello over HTTP/2.0", get(t, client, "http://"+ln.host+"/hello"))
		exchange(t, client, "http://"+ln.host)
		converse(t, client, "http://"+ln.host)
		require.EqualValues(t, 1, conns.Load())
	})
}

// upgradeHandler takes the connection over and echoes until the client ends its
// direction, then ends the other.
var upgradeHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	rw.Flush()
	io.Copy(conn, rw)
})

// TestHijack leaves HTTP on both ends, ends the client's direction and reads the
// rest of the other.
func TestHijack(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: upgradeHandler})
		conn := ln.connect(t)
		// The first bytes come with the request, and are in the server's buffer.
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		first := make([]byte, len("first"))
		_, err = io.ReadFull(r, first)
		require.NoError(t, err)
		require.Equal(t, "first", string(first))

		const size = 2 << 20
		go func() {
			io.Copy(conn, random("echo", size))
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		require.NoError(t, checkSum(r, "echo", size))
	})
}

// TestUpgrade is the same with an http.Client.
func TestUpgrade(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveHTTP(t, ln, &http.Server{Handler: upgradeHandler})
		requireUpgrade(t, newClient(t, &http.Transport{DialContext: ln.dial}), "http://"+ln.host+"/")
	})
}

func requireUpgrade(t testing.TB, client *http.Client, url string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	conn := resp.Body.(io.ReadWriteCloser)
	const size = 2 << 20
	go io.Copy(conn, random("upgrade", size))
	require.NoError(t, checkSum(io.LimitReader(conn, size), "upgrade", size))
}
