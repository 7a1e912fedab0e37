package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

// A limit is a limit of an AppConfig that allows n connections, each of which needs a segment of
// its own, as its fifos have the largest size.
type limit struct {
	name   string
	config func(t *testing.T, n int) ctnet.AppConfig
	text   func(n int) string
}

var limits = []limit{
	{
		"MaxSegments",
		func(t *testing.T, n int) ctnet.AppConfig { return ctnet.AppConfig{MaxSegments: n} },
		func(n int) string { return fmt.Sprintf("limit of %d segments reached", n) },
	},
	{
		"MaxBytes",
		func(t *testing.T, n int) ctnet.AppConfig {
			return ctnet.AppConfig{MaxBytes: largeSegments(t, n) + 1<<20}
		},
		func(n int) string { return "bytes of segments reached" },
	},
}

// listenLarge listens with the largest fifos.
func listenLarge(t *testing.T, a *ctnet.App) *ctnet.Listener {
	return listenOn(t, ctnet.ListenConfig{App: a, ReadBuffer: ctnet.MaxBuffer, WriteBuffer: ctnet.MaxBuffer})
}

// largeSegment returns the size of a segment with the largest fifos, of which
// there are two in each.
var largeSegment = sync.OnceValues(func() (int64, error) {
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		return 0, err
	}
	defer a.Close()
	const name = "large segment"
	lc := ctnet.ListenConfig{App: a}
	if _, err = lc.Listen(context.Background(), "ct", name); err != nil {
		return 0, err
	}
	d := ctnet.Dialer{App: a, ReadBuffer: ctnet.MaxBuffer, WriteBuffer: ctnet.MaxBuffer}
	if _, err = d.Dial("ct", name); err != nil {
		return 0, err
	}
	s := a.Snapshot()
	if s.Segments != 1 || s.Bytes < 2*ctnet.MaxBuffer || s.Bytes > 3*ctnet.MaxBuffer {
		return 0, fmt.Errorf("%d segments, %d bytes", s.Segments, s.Bytes)
	}
	return s.Bytes, nil
})

func largeSegments(t *testing.T, n int) int64 {
	t.Helper()
	size, err := largeSegment()
	require.NoError(t, err)
	return int64(n) * size
}

func newLimitedApp(t *testing.T, config ctnet.AppConfig) *ctnet.App {
	t.Helper()
	a, err := ctnet.NewApp(config)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// requireLimit dials, and requires that a limit forbids it.
func requireLimit(t *testing.T, client *ctnet.App, text string) {
	t.Helper()
	d := ctnet.Dialer{App: client, Timeout: 10 * time.Second}
	c, err := d.Dial("ct", t.Name())
	require.Nil(t, c)
	requireLimitError(t, err, text)
}

func requireLimitError(t *testing.T, err error, text string) {
	t.Helper()
	e := opErrorOf(t, err)
	require.ErrorIs(t, err, syscall.ENOBUFS)
	require.Equal(t, "dial", e.Op)
	require.Equal(t, "ct", e.Net)
	require.Equal(t, t.Name(), e.Addr.String())
	require.False(t, e.Timeout())
	require.Contains(t, err.Error(), text)
}

// What the account of an application says.
type account struct{ Conns, Segments int64 }

func accountOf(a *ctnet.App) account {
	s := a.Snapshot()
	return account{s.Conns, s.Segments}
}

// requireAccounts requires these accounts of the applications, which may be the same one. The
// server learns of a segment that is not used any more after the client; until then it has
// one more.
func requireAccounts(t *testing.T, want account, server, client *ctnet.App) {
	t.Helper()
	require.Equal(t, want, accountOf(client))
	harness.Eventually(t, func() bool { return accountOf(server) == want })
	for _, a := range []*ctnet.App{server, client} {
		require.Equal(t, largeSegments(t, int(want.Segments)), a.Snapshot().Bytes)
	}
	if server != client {
		harness.Eventually(t, func() bool { return leakcheck.Mappings("ctnet segment") == 2*int(want.Segments) })
	}
}

// onLimits runs a test for each limit, on either side and inside one application.
// The server's error only says that it has a limit.
func onLimits(t *testing.T, n int, f func(t *testing.T, server, client *ctnet.App, text string)) {
	for _, l := range limits {
		t.Run(l.name, func(t *testing.T) {
			t.Run("in process", func(t *testing.T) {
				a := newLimitedApp(t, l.config(t, n))
				f(t, a, a, l.text(n))
			})
			t.Run("client", func(t *testing.T) {
				f(t, harness.NewApp(t), newLimitedApp(t, l.config(t, n)), l.text(n))
			})
			t.Run("server", func(t *testing.T) {
				f(t, newLimitedApp(t, l.config(t, n)), harness.NewApp(t), "the listener's application has reached a limit")
			})
		})
	}
}

// requireGone closes the applications and requires that nothing is left.
func requireGone(t *testing.T, before leakcheck.Usage, apps ...*ctnet.App) {
	t.Helper()
	for i, a := range apps {
		if i == 0 || a != apps[0] {
			require.NoError(t, a.Close())
		}
	}
	for _, a := range apps {
		harness.Eventually(t, func() bool { return accountOf(a) == account{} })
		require.Zero(t, a.Snapshot().Bytes)
	}
	leakcheck.RequireBack(t, before)
}

// TestLimits reaches a limit, gets below it, and reaches it again.
func TestLimits(t *testing.T) {
	const n = 3
	onLimits(t, n, func(t *testing.T, server, client *ctnet.App, text string) {
		before := harness.MeasureIdle(t)
		ln := listenLarge(t, server)
		type pair struct{ c, s *ctnet.Conn }
		var pairs []pair
		connect := func() {
			t.Helper()
			c, s := connectTo(t, ln, client)
			pairs = append(pairs, pair{c, s})
		}
		closeOne := func(i int, serverFirst bool) {
			t.Helper()
			if serverFirst {
				require.NoError(t, pairs[i].s.Close())
				require.NoError(t, pairs[i].c.Close())
			} else {
				require.NoError(t, pairs[i].c.Close())
				require.NoError(t, pairs[i].s.Close())
			}
			pairs = append(pairs[:i], pairs[i+1:]...)
		}
		for round := range 3 {
			for range n {
				connect()
			}
			full := leakcheck.Now()
			for range 3 {
				requireLimit(t, client, text)
			}
			requireAccounts(t, account{n, n}, server, client)
			leakcheck.RequireBack(t, full)
			for _, p := range pairs {
				writeString(t, p.c, "not harmed")
				readString(t, p.s, "not harmed")
			}
			// As many as are closed can be dialed.
			closeOne(round, round%2 == 0)
			connect()
			requireLimit(t, client, text)
			closeOne(0, false)
			closeOne(0, true)
			connect()
			connect()
			requireLimit(t, client, text)
			requireAccounts(t, account{n, n}, server, client)
			for range n {
				closeOne(0, true)
			}
			// An empty segment is kept.
			requireAccounts(t, account{0, 1}, server, client)
		}
		requireGone(t, before, client, server)
	})
}

// TestLimitForbidsAll sets a limit that allows no connection.
func TestLimitForbidsAll(t *testing.T) {
	forbidAll := ctnet.AppConfig{MaxBytes: 1}
	try := func(t *testing.T, server, client *ctnet.App, text string) {
		before := harness.MeasureIdle(t)
		ln := listenLarge(t, server)
		for range 5 {
			requireLimit(t, client, text)
			requireAccounts(t, account{}, server, client)
		}
		// Nothing came to the listener.
		require.Zero(t, server.Snapshot().Listeners[0].Waiting)
		require.NoError(t, ln.SetDeadline(time.Now().Add(time.Millisecond)))
		_, err := ln.Accept()
		require.True(t, opErrorOf(t, err).Timeout())
		requireGone(t, before, client, server)
	}
	t.Run("in process", func(t *testing.T) {
		a := newLimitedApp(t, forbidAll)
		try(t, a, a, "limit of 1 bytes of segments reached")
	})
	t.Run("client", func(t *testing.T) {
		try(t, harness.NewApp(t), newLimitedApp(t, forbidAll), "limit of 1 bytes of segments reached")
	})
	t.Run("server", func(t *testing.T) {
		try(t, newLimitedApp(t, forbidAll), harness.NewApp(t), "the listener's application has reached a limit")
	})
}

// TestLimitOfOneClient lets a client reach its limit, which does not affect another client of the
// same listener. The server's limit is for all clients together.
func TestLimitOfOneClient(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		before := harness.MeasureIdle(t)
		server, limited, other := harness.NewApp(t), newLimitedApp(t, ctnet.AppConfig{MaxSegments: 1}), harness.NewApp(t)
		ln := listenLarge(t, server)
		connectTo(t, ln, limited)
		for range 3 {
			requireLimit(t, limited, "limit of 1 segments reached")
			c, s := connectTo(t, ln, other)
			writeString(t, c, "hello")
			readString(t, s, "hello")
		}
		harness.Eventually(t, func() bool { return accountOf(server) == account{4, 4} })
		requireGone(t, before, limited, other, server)
	})
	t.Run("server", func(t *testing.T) {
		before := harness.MeasureIdle(t)
		server, client, other := newLimitedApp(t, ctnet.AppConfig{MaxSegments: 2}), harness.NewApp(t), harness.NewApp(t)
		ln := listenLarge(t, server)
		const text = "the listener's application has reached a limit"
		c, s := connectTo(t, ln, client)
		connectTo(t, ln, other)
		requireLimit(t, client, text)
		requireLimit(t, other, text)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		_, s = connectTo(t, ln, client) // on the segment that it has kept
		requireLimit(t, other, text)
		// What a client that has gone had is there for the other.
		require.NoError(t, client.Close())
		require.NoError(t, s.Close())
		harness.Eventually(t, func() bool { return server.Snapshot().Segments == 1 })
		connectTo(t, ln, other)
		requireLimit(t, other, text)
		requireGone(t, before, other, server)
	})
}

// TestLimitStress has more goroutines dial than the limit allows connections.
func TestLimitStress(t *testing.T) {
	const n, dialers, cycles = 3, 4, 20
	onLimits(t, n, func(t *testing.T, server, client *ctnet.App, text string) {
		before := harness.MeasureIdle(t)
		ln := listenLarge(t, server)
		var accepting, dialing sync.WaitGroup
		accepting.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("Accept: %v", err)
					}
					return
				}
				accepting.Go(func() {
					defer c.Close()
					io.Copy(c, c)
				})
			}
		})
		d := ctnet.Dialer{App: client, Timeout: 10 * time.Second}
		var refused atomic.Int64
		use := func(dialed *sync.WaitGroup) error {
			c, err := d.Dial("ct", t.Name())
			dialed.Done()
			dialed.Wait()
			if errors.Is(err, syscall.ENOBUFS) {
				refused.Add(1)
				return nil
			}
			if err != nil {
				return err
			}
			defer c.Close()
			b := []byte("hello")
			if _, err := c.Write(b); err != nil {
				return err
			}
			_, err = io.ReadFull(c, b)
			return err
		}
		for range dialers {
			dialing.Go(func() {
				for range cycles {
					// More at a time than there can be.
					var using, dialed sync.WaitGroup
					dialed.Add(n + 1)
					for range n + 1 {
						using.Go(func() {
							if err := use(&dialed); err != nil {
								t.Error(err)
							}
						})
					}
					using.Wait()
				}
			})
		}
		harness.RequireWithin(t, 20*time.Second, harness.AllDone(&dialing), "the dialers")
		require.GreaterOrEqual(t, int(refused.Load()), dialers*cycles)
		// All can be had again.
		harness.Eventually(t, func() bool { return accountOf(client).Conns == 0 && accountOf(server).Conns == 0 })
		var conns []net.Conn
		for range n {
			conns = append(conns, dial(t, client, t.Name()))
		}
		requireLimit(t, client, text)
		for _, c := range conns {
			requireEcho(t, c)
			require.NoError(t, c.Close())
		}
		require.NoError(t, ln.Close())
		harness.RequireWithin(t, 5*time.Second, harness.AllDone(&accepting), "the server")
		requireGone(t, before, client, server)
	})
}
