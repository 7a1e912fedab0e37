package services

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// restartNetworks are the networks on which a listener can be handed over.
func restartNetworks(t *testing.T) map[string]string {
	return map[string]string{
		"tcp":  "127.0.0.1:0",
		"unix": filepath.Join(t.TempDir(), "s"),
	}
}

// successor starts a process that has the listener of an old one, and does nothing
// with it yet.
func successor(old *puppet, label string) *puppet {
	old.t.Helper()
	f := old.file(label)
	defer f.Close()
	return startPuppet(old.t, func(cmd *exec.Cmd) { cmd.ExtraFiles = append(cmd.ExtraFiles, f) })
}

// leave ends a process that has nothing left to do.
func (p *puppet) leave() {
	p.t.Helper()
	require.Equal(p.t, "drained", p.answer())
	p.end()
	require.Zero(p.t, p.cmd.ProcessState.ExitCode())
}

// A crowd are clients that call a listener all the time. None of the calls may fail.
type crowd struct {
	t       *testing.T
	clients sync.WaitGroup
	ending  chan struct{} // closed when they are to end
	calls   []atomic.Int64

	mu      sync.Mutex
	ended   bool
	err     error          // the first one of all
	answers map[string]int // what calls have got
}

// newCrowd starts clients. Each makes its calls with a function of its own.
func newCrowd(t *testing.T, clients int, client func(i int) (call func() (answer string, err error), end func())) *crowd {
	w := &crowd{
		t:       t,
		ending:  make(chan struct{}),
		calls:   make([]atomic.Int64, clients),
		answers: make(map[string]int),
	}
	for i := range clients {
		call, end := client(i)
		w.clients.Go(func() {
			defer end()
			for {
				select {
				case <-w.ending:
					return
				default:
				}
				answer, err := call()
				if err != nil {
					w.finish(fmt.Errorf("client %d after %d calls: %w", i, w.calls[i].Load(), err))
					return
				}
				w.mu.Lock()
				w.answers[answer]++
				w.mu.Unlock()
				w.calls[i].Add(1)
			}
		})
	}
	t.Cleanup(func() {
		w.finish(nil)
		w.clients.Wait()
	})
	return w
}

// finish ends the clients, unless that was done.
func (w *crowd) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended, w.err = true, err
		close(w.ending)
	}
}

// end ends the clients and returns what their calls have got.
func (w *crowd) end() map[string]int {
	w.t.Helper()
	w.finish(nil)
	harness.RequireWithin(w.t, 20*time.Second, harness.AllDone(&w.clients), "a call")
	require.NoError(w.t, w.err)
	w.t.Logf("%v", w.answers)
	return w.answers
}

// proceed waits until each client has made this number of further calls.
func (w *crowd) proceed(calls int64) {
	w.t.Helper()
	was := make([]int64, len(w.calls))
	for i := range was {
		was[i] = w.calls[i].Load()
	}
	harness.Eventually(w.t, func() bool {
		select {
		case <-w.ending:
			w.end()
		default:
		}
		for i := range was {
			if w.calls[i].Load() < was[i]+calls {
				return false
			}
		}
		return true
	})
}

const crowdSize = 16

// warmProcess makes the process's own application have what it keeps.
func warmProcess(t *testing.T) {
	t.Helper()
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	ln, err := (&ctnet.ListenConfig{App: a}).Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	c, err := ctnet.Dial("ct", ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	// After a fault it has the socket on which others can ask it for a snapshot.
	forbids := ctnet.ListenConfig{App: a, Allow: func(ctnet.Cred) bool { return false }}
	ln, err = forbids.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err = ctnet.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	require.Equal(t, "kernel", wayOf(c))
	hangUp(c)
	require.NoError(t, a.Close())
}

// echoCrowd starts clients that dial, have bytes come back, and close. A quarter of
// them are applications of their own, and a quarter use the kernel's socket.
func echoCrowd(t *testing.T, network, address string) *crowd {
	return newCrowd(t, crowdSize, func(i int) (func() (string, error), func()) {
		dial := ctnet.Dial
		switch i % 4 {
		case 1:
			dial = (&ctnet.Dialer{App: harness.NewApp(t)}).Dial
		case 2:
			dial = (&ctnet.Dialer{Path: ctnet.Kernel}).Dial
		}
		return func() (string, error) {
			c, err := dial(network, address)
			if err != nil {
				return "", err
			}
			defer hangUp(c)
			return answerOf(c)
		}, func() {}
	})
}

// hangUp closes a connection, so that the kernel keeps nothing of it: there would
// be no ports left soon.
func hangUp(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// A streamer is a connection on which bytes go to and fro until it is ended.
type streamer struct {
	ending chan struct{}
	rounds atomic.Int64
	done   chan error
}

func newStreamer(c net.Conn) *streamer {
	s := &streamer{ending: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		defer c.Close()
		for {
			select {
			case <-s.ending:
				// Nothing follows the end of the last echo but the end.
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					s.done <- err
				} else if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					s.done <- fmt.Errorf("at the end %d bytes, %v", n, err)
				} else {
					s.done <- nil
				}
				return
			default:
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := exchange(c); err != nil {
				s.done <- fmt.Errorf("%T after %d rounds: %w", c, s.rounds.Load(), err)
				return
			}
			s.rounds.Add(1)
		}
	}()
	return s
}

// streams are some to one listener, half of them through the kernel's socket.
type streams struct {
	t   *testing.T
	all []*streamer
}

func newStreams(t *testing.T, network, address, label string) *streams {
	t.Helper()
	ss := &streams{t: t}
	a := harness.NewApp(t)
	for _, path := range []ctnet.Path{ctnet.AnyPath, ctnet.AnyPath, ctnet.Kernel, ctnet.Kernel} {
		d := ctnet.Dialer{App: a, Path: path}
		harness.Eventually(t, func() bool { // as in requireCutSoon
			c, err := d.Dial(network, address)
			require.NoError(t, err)
			answer, err := answerOf(c)
			require.NoError(t, err)
			if path == ctnet.AnyPath && answer == "kernel "+label {
				hangUp(c)
				return false
			}
			require.Contains(t, answer, label)
			ss.all = append(ss.all, newStreamer(c))
			return true
		})
	}
	return ss
}

// proceed waits until there were some rounds on each.
func (ss *streams) proceed() {
	ss.t.Helper()
	for _, s := range ss.all {
		was := s.rounds.Load()
		harness.Eventually(ss.t, func() bool {
			select {
			case err := <-s.done:
				require.NoError(ss.t, err)
			default:
			}
			return s.rounds.Load() > was+3
		})
	}
}

func (ss *streams) end() {
	ss.t.Helper()
	for _, s := range ss.all {
		close(s.ending)
	}
	for _, s := range ss.all {
		select {
		case err := <-s.done:
			require.NoError(ss.t, err)
		case <-time.After(10 * time.Second):
			ss.t.Fatal("a stream has no end")
		}
	}
}

// hold returns a connection that an application has dialed and used, and that got
// this answer.
func hold(t *testing.T, want string, a *ctnet.App, network, address string) net.Conn {
	t.Helper()
	c, err := (&ctnet.Dialer{App: a}).Dial(network, address)
	require.NoError(t, err)
	answer, err := answerOf(c)
	require.NoError(t, err)
	require.Equal(t, want, answer)
	return c
}

// requireReaches requires that a Dial gets this answer.
func requireReaches(t *testing.T, want string, dial func(network, address string) (net.Conn, error), network, address string) {
	t.Helper()
	c, err := dial(network, address)
	require.NoError(t, err)
	defer hangUp(c)
	answer, err := answerOf(c)
	require.NoError(t, err)
	require.Equal(t, want, answer)
}

// requireCutSoon requires that Dials reach this listener, and by the cut-through: at
// once, unless the machine is so busy that one Dial took too long, which an application remembers
// for some seconds.
func requireCutSoon(t *testing.T, label string, dial func(network, address string) (net.Conn, error), network, address string) {
	t.Helper()
	harness.Eventually(t, func() bool {
		c, err := dial(network, address)
		require.NoError(t, err)
		defer hangUp(c)
		answer, err := answerOf(c)
		require.NoError(t, err)
		way, reached, _ := strings.Cut(answer, " ")
		require.Equal(t, label, reached)
		return way == "cut"
	})
}

// TestRestart replaces a server by another process again and again, while clients call it all
// the time. No call fails. The connections that a server has stay until their clients end
// them.
func TestRestart(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			warmProcess(t)
			leaveNothing(t)
			old := startPuppet(t, nil)
			address := old.do("listen", "kept", network, address, "0", "echo")
			clients := echoCrowd(t, network, address)
			for i := range harness.Long(4, 100) {
				label, next := fmt.Sprint(i), fmt.Sprint(i+1)
				ss := newStreams(t, network, address, label)
				clients.proceed(2)
				own := successor(old, label)
				ss.proceed()
				require.Equal(t, "*ctnet.Listener", own.do("inherit", next, "echo"))
				clients.proceed(2)
				require.Equal(t, "closed", old.do("close", label))
				old.send([]string{"drain", label}, nil)
				clients.proceed(2)
				ss.proceed()
				ss.end()
				old.leave()
				requireCutSoon(t, next, (&ctnet.Dialer{App: harness.NewApp(t)}).Dial, network, address)
				requireCutSoon(t, next, ctnet.Dial, network, address)
				requireReaches(t, "kernel "+next, net.Dial, network, address)
				clients.proceed(2)
				old = own
			}
			clients.end()
		})
	}
}

// TestRestartWaiting has connections wait to be accepted when the listener is handed
// over and closed: none is lost. The process that was asked for a connection serves it.
func TestRestartWaiting(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			inner, err := net.Listen(network, address)
			require.NoError(t, err)
			if u, ok := inner.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			old, err := (&ctnet.ListenConfig{App: harness.NewApp(t)}).NewListener(inner)
			require.NoError(t, err)
			defer old.Close()
			var conns []net.Conn
			client := harness.NewApp(t)
			for i := range 20 {
				d := ctnet.Dialer{App: client, Path: []ctnet.Path{ctnet.CutThrough, ctnet.Kernel}[i%2]}
				c, err := d.Dial(network, old.Addr().String())
				require.NoError(t, err)
				defer hangUp(c)
				conns = append(conns, c)
			}
			f, err := old.(*ctnet.Listener).File()
			require.NoError(t, err)
			heir, err := net.FileListener(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			own, err := (&ctnet.ListenConfig{App: harness.NewApp(t)}).NewListener(heir)
			require.NoError(t, err)
			defer own.Close()
			require.NoError(t, old.Close())
			serve(old, "old", "echo")
			serve(own, "new", "echo")
			for i, c := range conns {
				answer, err := answerOf(c)
				require.NoError(t, err, "%d", i)
				if i%2 == 0 {
					require.Equal(t, "cut old", answer)
				}
			}
		})
	}
}

// TestListenerMadeBlocking makes the socket blocking in a process that shares it. Neither Accept
// nor Close is affected.
func TestListenerMadeBlocking(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			ln, err := (&ctnet.ListenConfig{App: harness.NewApp(t)}).Listen(t.Context(), network, address)
			require.NoError(t, err)
			f, err := ln.(*ctnet.Listener).File()
			require.NoError(t, err)
			defer f.Close()
			for range 3 {
				f.Fd()
				c, err := net.Dial(network, ln.Addr().String())
				require.NoError(t, err)
				defer hangUp(c)
				own, err := ln.Accept()
				require.NoError(t, err)
				require.NoError(t, own.Close())
			}
			closed := make(chan error)
			go func() { closed <- ln.Close() }()
			select {
			case err := <-closed:
				require.NoError(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("Close waits")
			}
			_, err = ln.Accept()
			require.ErrorIs(t, err, net.ErrClosed)
		})
	}
}

// TestRestartOfStopped replaces a server that is stopped. The new one has the address within a
// moment, and when the old one goes on, its connections do too.
func TestRestartOfStopped(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			warmProcess(t)
			leaveNothing(t)
			old := startPuppet(t, nil)
			address := old.do("listen", "kept", network, address, "old", "echo")
			known := harness.NewApp(t) // one that has a connection to the old one
			held := hold(t, "cut old", known, network, address)
			defer held.Close()
			own := successor(old, "old")
			old.freeze()

			start := time.Now()
			require.Equal(t, "*ctnet.Listener", own.do("inherit", "new", "echo"))
			require.Less(t, time.Since(start), patience+slack)
			clients := echoCrowd(t, network, address)
			// In a directory the new one has put its file in the place of the old one's. In
			// the network namespace the old one has the name as long as it is stopped.
			inDirectory := os.Getenv("CTNET_DIR") != ""
			if inDirectory {
				requireCutSoon(t, "new", (&ctnet.Dialer{App: harness.NewApp(t)}).Dial, network, address)
			}
			start = time.Now()
			requireReaches(t, "kernel new", (&ctnet.Dialer{App: known}).Dial, network, address)
			require.Less(t, time.Since(start), patience+slack)
			clients.proceed(3)

			answers := clients.end()
			require.Equal(t, inDirectory, answers["cut new"] != 0)
			require.NotZero(t, answers["kernel new"])
			require.Zero(t, answers["cut old"]+answers["kernel old"])

			old.thaw()
			clients = echoCrowd(t, network, address)
			require.NoError(t, exchange(held))
			require.Equal(t, "closed", old.do("close", "old"))
			old.send([]string{"drain", "old"}, nil)
			require.NoError(t, exchange(held))
			require.NoError(t, held.Close())
			old.leave()
			clients.proceed(3)
			require.Zero(t, clients.end()["cut old"])
			own.do("listen", "ctnet", "ct", t.Name(), "other", "echo") // changes the directory
			requireCutSoon(t, "new", (&ctnet.Dialer{App: known}).Dial, network, address)
		})
	}
}

// patience is how long a Dial waits for a listener that does not answer, and slack is how much
// longer it may take on a busy machine.
const (
	patience = 250 * time.Millisecond
	slack    = time.Second
)

// serveHTTP prepares a server that answers with a label and the digest of the
// request's body. Shutdown drops the connections whose first request has not been
// read, so these are counted among the connections to wait for before.
func (l *served) serveHTTP(label string) {
	l.fresh = make(map[net.Conn]bool)
	known := func(c net.Conn) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.fresh[c] {
			delete(l.fresh, c)
			l.conns.Done()
		}
	}
	type connKey struct{}
	l.web = &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				l.mu.Lock()
				defer l.mu.Unlock()
				l.fresh[c] = true
				l.conns.Add(1)
			case http.StateClosed:
				known(c)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			known(r.Context().Value(connKey{}).(net.Conn))
			h := sha256.New()
			if _, err := io.Copy(h, r.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprintf(w, "%s %x", label, h.Sum(nil))
		}),
	}
}

// webCrowd starts clients of HTTP. Half of them keep their connections, with
// requests that may be repeated, as the other side may close a connection that is
// not in use at any time. The others have a new connection for each request.
func webCrowd(t *testing.T, network, address string) *crowd {
	return newCrowd(t, crowdSize, func(i int) (func() (string, error), func()) {
		d := &ctnet.Dialer{}
		switch i % 4 {
		case 1:
			d.App = harness.NewApp(t)
		case 2, 3:
			d.Path = ctnet.Kernel
		}
		tr := &http.Transport{
			DisableKeepAlives: i%2 == 0,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, network, address)
			},
		}
		hc := &http.Client{Transport: tr, Timeout: 10 * time.Second}
		kind := "kept"
		if tr.DisableKeepAlives {
			kind = "new"
		}
		return func() (string, error) {
			method, body := http.MethodGet, []byte(nil)
			if tr.DisableKeepAlives {
				method, body = http.MethodPost, make([]byte, rand.IntN(10_000))
				for i := range body {
					body[i] = byte(rand.Uint32())
				}
			}
			req, err := http.NewRequest(method, "http://server/", bytes.NewReader(body))
			if err != nil {
				return "", err
			}
			resp, err := hc.Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				return "", err
			}
			label, digest, _ := strings.Cut(string(got), " ")
			if resp.StatusCode != http.StatusOK || digest != fmt.Sprintf("%x", sha256.Sum256(body)) {
				return "", errors.New(resp.Status + ": " + string(got))
			}
			return kind + " " + label, nil
		}, tr.CloseIdleConnections
	})
}

// TestRestartHTTP replaces servers of net/http. No request fails.
func TestRestartHTTP(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			warmProcess(t)
			leaveNothing(t)
			old := startPuppet(t, nil)
			address := old.do("listen", "kept", network, address, "0", "http")
			clients := webCrowd(t, network, address)
			for i := range harness.Long(3, 50) {
				label, next := fmt.Sprint(i), fmt.Sprint(i+1)
				clients.proceed(3)
				own := successor(old, label)
				require.Equal(t, "*ctnet.Listener", own.do("inherit", next, "http"))
				old.send([]string{"drain", label}, nil)
				old.leave()
				clients.proceed(3)
				harness.Eventually(t, func() bool { // as in requireCutSoon
					c, err := ctnet.Dial(network, address)
					require.NoError(t, err)
					defer hangUp(c)
					return harness.IsCut(c)
				})
				old = own
			}
			clients.end()
		})
	}
}
