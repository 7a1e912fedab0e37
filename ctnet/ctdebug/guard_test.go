package ctdebug

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
)

// TestCrossSite has browsers ask for what another site's page wants.
func TestCrossSite(t *testing.T) {
	leakcheck.Check(t)
	s := newServer(t, Guarded(newApp(t), open))
	own := s.URL
	for _, test := range []struct {
		header map[string]string
		page   int // the status of the page
		data   int // and of the data
	}{
		{nil, 200, 200},
		{map[string]string{"Sec-Fetch-Site": "none"}, 200, 200},
		{map[string]string{"Sec-Fetch-Site": "same-origin"}, 200, 200},
		{map[string]string{"Sec-Fetch-Site": "same-site"}, 403, 403},
		{map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, 403},
		{map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403, 403},
		{map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403, 403},
		{map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200, 403},
		{map[string]string{"Origin": own}, 200, 200},
		{map[string]string{"Origin": "http://evil.example"}, 403, 403},
		{map[string]string{"Origin": "http://localhost:1"}, 403, 403},
		{map[string]string{"Origin": "null"}, 403, 403},
		{map[string]string{"Origin": own, "Sec-Fetch-Site": "cross-site"}, 403, 403},
	} {
		for name, want := range map[string]int{"": test.page, "snapshot": test.data} {
			resp, _ := get(t, s.URL+"/"+name, func(r *http.Request) {
				for k, v := range test.header {
					r.Header.Set(k, v)
				}
			})
			require.Equal(t, want, resp.StatusCode, "%q: %v", name, test.header)
		}
	}
}

func TestLocalName(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:80": true, "LOCALHOST.:80": true, "x.localhost": true, "127.0.0.1": true, "127.0.0.1:80": true,
		"[::1]:80": true, "[::1]": true, "192.0.2.1:80": true,
		"": false, "evil.example": false, "evil.example:80": false, "localhost.evil.example": false, "evillocalhost": false, "127.0.0.1.evil.example:80": false,
	} {
		require.Equal(t, want, isLocalName(host), host)
	}
}

// TestGuarded lets those pass whom the program lets.
func TestGuarded(t *testing.T) {
	leakcheck.Check(t)
	s := newServer(t, Guarded(newApp(t), func(r *http.Request) bool { return r.Header.Get("Authorization") == "yes" }))
	for _, name := range []string{"", "ctdebug.js", "snapshot", "events"} {
		resp, _ := get(t, s.URL+"/"+name, nil)
		require.Equal(t, 403, resp.StatusCode)
	}
	resp, _ := get(t, s.URL+"/", func(r *http.Request) {
		r.Header.Set("Authorization", "yes")
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		r.Host = "svc.example"
	})
	require.Equal(t, 200, resp.StatusCode)
}

// TestInside asks through ctnet, from inside this process: on networks ct and tcp the handler finds its
// application's connections by itself, and those of others with ConnContext.
func TestInside(t *testing.T) {
	leakcheck.Check(t)
	app, other := newApp(t), newApp(t)
	for _, test := range []struct {
		network, address string
		app              *ctnet.App
		connContext      func(context.Context, net.Conn) context.Context
		want             int
	}{
		{"ct", "svc/inside", app, nil, 200},
		{"ct", "svc/inside", other, nil, 403},
		{"ct", "svc/inside", other, ConnContext, 200},
		{"tcp", "127.0.0.1:0", app, nil, 200},
		{"tcp", "127.0.0.1:0", other, nil, 403},
		{"tcp", "127.0.0.1:0", other, ConnContext, 200},
	} {
		ln, err := (&ctnet.ListenConfig{App: app}).Listen(t.Context(), test.network, test.address)
		require.NoError(t, err)
		s := &http.Server{Handler: Handler(test.app), ConnContext: test.connContext}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Serve(ln)
		}()
		c, err := (&ctnet.Dialer{App: app, Path: ctnet.CutThrough}).Dial(test.network, ln.Addr().String())
		require.NoError(t, err)
		require.Equal(t, test.want, ask(t, c, "/"), test)
		c.Close()
		require.NoError(t, s.Close())
		<-done
	}
}

// ask asks for a path over a connection, and returns the status.
func ask(t *testing.T, c net.Conn, path string) int {
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

// TestConnUser asks for the users at the ends of connections of which the kernel tells nothing.
func TestConnUser(t *testing.T) {
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	_, ok := connUser(c)
	require.False(t, ok)
}

// TestSharedLook has many requests ask who they are: they share snapshots, each of which was begun
// after the request had come.
func TestSharedLook(t *testing.T) {
	leakcheck.Check(t)
	g := &ownUser{look: newApp(t).Snapshot}
	g.at = time.Now() // so all of them wait
	first := g.at
	var all sync.WaitGroup
	var late atomic.Int32
	for range 20 {
		all.Go(func() {
			asked := time.Now()
			if g.snapshot(t.Context()).App == "" || g.begun().Before(asked) {
				late.Add(1)
			}
		})
	}
	all.Wait()
	require.Zero(t, late.Load())
	require.GreaterOrEqual(t, g.at.Sub(first), lookGap)
	require.Less(t, g.at.Sub(first), 10*lookGap)
	require.Empty(t, g.last.App, "it keeps none")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Empty(t, g.snapshot(ctx).App)
}

// TestLateLook has a request come while a snapshot is being made, which may not have its connection.
func TestLateLook(t *testing.T) {
	leakcheck.Check(t)
	begun, goOn := make(chan struct{}, 2), make(chan struct{})
	g := &ownUser{look: func() ctnet.Snapshot {
		begun <- struct{}{}
		<-goOn
		return ctnet.Snapshot{App: "a"}
	}}
	var all sync.WaitGroup
	all.Go(func() { g.snapshot(t.Context()) })
	<-begun
	all.Go(func() { g.snapshot(t.Context()) })
	require.Eventually(t, func() bool { return g.waiting.Load() == 2 }, leakcheck.Patience, time.Millisecond)
	close(goOn)
	all.Wait()
	require.Len(t, begun, 1, "there is a second one")
}

func (g *ownUser) begun() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at
}
