package ctnet

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/internal/pair"
	"github.com/stretchr/testify/require"
)

// waiting returns how many connections are in the backlog.
func (m meeting) waiting() int { return m.Listener.(*Listener).backlog.waiting() }

// TestGivenUp gives up Dials to a full backlog, answered and not, in one application and
// between two. Nothing stays in the backlog, even if another goroutine is in the dialing end
// just then, as Snapshot is: the last goroutine that leaves tells the listener.
func TestGivenUp(t *testing.T) {
	server := newTestApp(t, AppConfig{})
	for name, app := range map[string]*App{"alone": server, "apart": newTestApp(t, AppConfig{})} {
		t.Run(name, func(t *testing.T) {
			ln, err := (&ListenConfig{App: server, Backlog: 1}).Listen(t.Context(), "ct", t.Name())
			require.NoError(t, err)
			m := meeting{ln, Dialer{App: app}}
			first, err := m.dialer.Dial("ct", t.Name())
			require.NoError(t, err)

			ctx, cancel := context.WithCancel(t.Context())
			gaveUp := make(chan error)
			go func() {
				_, err := m.dialer.DialContext(ctx, "ct", t.Name())
				gaveUp <- err
			}()
			require.Eventually(t, func() bool { return m.waiting() == 2 }, 10*time.Second, time.Millisecond)
			var halfOpen *conn
			for _, c := range dialing(app) {
				if c.halfOpen {
					halfOpen = c.conn
				}
			}
			require.NotNil(t, halfOpen)
			require.True(t, halfOpen.end.Enter())
			cancel()
			require.ErrorIs(t, <-gaveUp, context.Canceled)
			halfOpen.end.Leave()
			require.Eventually(t, func() bool { return m.waiting() == 1 }, 10*time.Second, time.Millisecond)
			s, err := m.Accept()
			require.NoError(t, err)
			require.Equal(t, first.LocalAddr().String(), s.RemoteAddr().String())
		})
	}
}

// dialing returns the dialing ends of an application's connections.
func dialing(a *App) (conns []seen) {
	a.a.mu.Lock()
	defer a.a.mu.Unlock()
	for p := range a.a.local {
		conns = append(conns, seen{conn: &p.client, halfOpen: p.halfOpen()})
	}
	a.a.remote.Each(func(owner any, _ pair.Spot, halfOpen bool) {
		if d, ok := owner.(*dialedConn); ok {
			conns = append(conns, seen{conn: &d.conn, halfOpen: halfOpen})
		}
	})
	return conns
}

// TestGivenUpAtRandom lets many Dials give up at random moments beside a busy connection and
// Snapshots. In the end the backlog is empty. Every connection that Accept returned was dialed,
// or was given up just as it was accepted, and the next Dial is served.
func TestGivenUpAtRandom(t *testing.T) {
	eachMeeting(t, ListenConfig{Backlog: 1}, func(t *testing.T, m meeting) {
		l := m.Listener.(*Listener)
		c, s := m.connect(t)
		stop := make(chan struct{})
		var wg, accepting sync.WaitGroup
		wg.Go(func() {
			b := make([]byte, 1)
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.Write(b)
				s.Read(b)
				l.app.snapshot()
			}
		})
		var dialed, accepted atomic.Int32
		accepting.Go(func() {
			for {
				c, err := m.Accept()
				if err != nil {
					return
				}
				accepted.Add(1)
				c.Close()
			}
		})
		var dials sync.WaitGroup
		for range 4 {
			dials.Go(func() {
				for range 500 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(50+rand.IntN(200))*time.Microsecond)
					if c, err := m.dialer.DialContext(ctx, "ct", m.Addr().String()); err == nil {
						dialed.Add(1)
						c.Close()
					}
					cancel()
				}
			})
		}
		dials.Wait()
		require.Eventually(t, func() bool { return m.waiting() == 0 }, 10*time.Second, time.Millisecond)
		last, err := m.dialer.Dial("ct", m.Addr().String())
		require.NoError(t, err)
		last.Close()
		require.NoError(t, m.Close())
		accepting.Wait()
		require.GreaterOrEqual(t, accepted.Load(), dialed.Load())
		close(stop)
		wg.Wait()
	})
}

// TestCloseBeforeTheAnswer closes a listener when there is room in the backlog for a Dial, just
// before the Dial is answered. The Dial must not wait for ever.
func TestCloseBeforeTheAnswer(t *testing.T) {
	eachMeeting(t, ListenConfig{Backlog: 1}, func(t *testing.T, m meeting) {
		first, err := m.dialer.Dial("ct", m.Addr().String())
		require.NoError(t, err)
		defer first.Close()
		dialed := make(chan struct{})
		go func() {
			defer close(dialed)
			if c, err := m.dialer.Dial("ct", m.Addr().String()); err == nil {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v", err)
				}
				c.Close()
			}
		}()
		require.Eventually(t, func() bool { return m.waiting() == 2 }, 10*time.Second, time.Millisecond)
		b := &m.Listener.(*Listener).backlog
		b.mu.Lock()
		b.size = 2
		b.mu.Unlock()
		require.NoError(t, m.Close())
		select {
		case <-dialed:
		case <-time.After(10 * time.Second):
			t.Fatal("the Dial still waits")
		}
	})
}

// TestHandedOn hands a listener's socket on and never calls Accept: the process that got
// it, which is this one, serves all connections. When Accept is called they come here.
func TestHandedOn(t *testing.T) {
	server := newTestApp(t, AppConfig{})
	ln, err := (&ListenConfig{App: server}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := ln.(*Listener).File()
	require.NoError(t, err)
	defer f.Close()
	inner, err := net.FileListener(f)
	require.NoError(t, err)
	defer inner.Close()
	connect := func(d Dialer, ln net.Listener) (cut bool) {
		c, err := d.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		s, err := ln.Accept()
		require.NoError(t, err)
		s.Close()
		_, cut = c.(*Conn)
		return cut
	}
	client := Dialer{App: newTestApp(t, AppConfig{})}
	require.False(t, connect(Dialer{App: server}, inner))
	require.False(t, connect(client, inner))
	require.NoError(t, ln.(*Listener).SetDeadline(time.Unix(1, 0)))
	_, err = ln.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, ln.(*Listener).SetDeadline(time.Time{}))
	require.True(t, connect(Dialer{App: server}, ln))
	require.True(t, connect(client, ln))

	// Accept ends the handing on.
	g, err := ln.(*Listener).File()
	require.NoError(t, err)
	g.Close()
	require.True(t, connect(client, ln))
}

// TestAppCloseOvertaken closes an application with two listeners on one address, of which
// the second has taken over.
func TestAppCloseOvertaken(t *testing.T) {
	a := newTestApp(t, AppConfig{})
	lc := ListenConfig{App: a}
	first, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := first.(*Listener).File()
	require.NoError(t, err)
	inner, err := net.FileListener(f)
	require.NoError(t, err)
	f.Close()
	second, err := lc.NewListener(inner)
	require.NoError(t, err)
	require.Len(t, a.Snapshot().Listeners, 2)
	require.NoError(t, a.Close())
	for _, ln := range []net.Listener{first, second} {
		_, err := ln.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
	_, err = net.Dial("tcp", first.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// TestAcceptNotGivenUp calls Accept when the first connection's dialer has given up, and the
// listener was not notified yet.
func TestAcceptNotGivenUp(t *testing.T) {
	b := newBacklog(10)
	hs := offerMany(b, 2)
	hs[0].givenUp.Store(true)
	c, err := b.accept()
	require.NoError(t, err)
	require.Same(t, &hs[1].conn, c.(*Conn).c)
	requireFates(t, hs[:1], fateReset)
}

// TestLocalAcceptNotGivenUp is the same with a dialer of the same application, which
// finds that the connection has left the backlog: Accept is about to return it.
func TestLocalAcceptNotGivenUp(t *testing.T) {
	a := newTestApp(t, AppConfig{})
	ln, err := (&ListenConfig{App: a}).Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	require.NoError(t, a.a.account.AddConn())
	p, err := a.a.newLocalPair(ln.(*Listener), ctTarget(t.Name()), sizes{})
	require.NoError(t, err)
	require.True(t, p.decide(givenUp))
	p.client.end.Abort()
	require.Nil(t, p.accept())
	require.Zero(t, a.a.account.Usage().Conns)
}

// TestLastAccept has two Accepts wait when the listener is closed while one connection
// can still be accepted. Two rings while no goroutine waits are one ring. It wakes one Accept,
// which must wake the other.
func TestLastAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(10)
		var errs [2]error
		for i := range errs {
			go func() { _, errs[i] = b.accept() }()
		}
		synctest.Wait()
		h := newFakeIncoming()
		h.answer()
		b.mu.Lock()
		b.queue = append(b.queue, queued{incoming: h})
		b.closed = true
		b.mu.Unlock()
		b.bell.Ring()
		synctest.Wait()
		require.ElementsMatch(t, []error{nil, net.ErrClosed}, errs)
	})
}

// TestControlHasASay dials with a Control that forbids the address, as a guard against
// forged requests does, in each way to dial. It is called, and its error counts.
func TestControlHasASay(t *testing.T) {
	app := newTestApp(t, AppConfig{})
	dir := shortDir(t)
	errForbidden := errors.New("forbidden")
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": dir + "/s"} {
		ln, err := (&ListenConfig{App: app}).Listen(t.Context(), network, address)
		require.NoError(t, err)
		defer ln.Close()
		var asked int
		for _, result := range []error{errForbidden, nil} {
			control := func(network, address string, rc syscall.RawConn) error {
				asked++
				return result
			}
			for _, kernel := range []net.Dialer{
				{Control: control},
				{ControlContext: func(_ context.Context, network, address string, rc syscall.RawConn) error {
					return control(network, address, rc)
				}},
			} {
				asked = 0
				c, err := (&Dialer{App: app, Kernel: kernel}).Dial(network, ln.Addr().String())
				require.Equal(t, 1, asked)
				if result != nil {
					require.ErrorIs(t, err, result)
					continue
				}
				require.NoError(t, err)
				require.IsType(t, &Conn{}, c)
				c.Close()
			}
		}
	}
}
