package conformance

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
)

func init() { roles["dial once"] = dialOnce }

// dialOnce dials the name of the test that has started this process.
func dialOnce() {
	c, err := ctnet.Dial("ct", os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	harness.Check(c.Close())
}

// TestPeerLimits has one process reach each limit of what a peer may hold of a listener. Another
// process, and the same one at another listener, get in all the same; and what was given up can
// be had again.
func TestPeerLimits(t *testing.T) {
	for name, limits := range map[string]ctnet.PeerLimits{
		"Conns":    {Conns: 2},
		"Segments": {Segments: 2},
		"Bytes":    {Bytes: 2 * largeSegments(t, 1)},
		"Attached": {Attached: 2},
		"Memory":   {Memory: 4 * ctnet.MinBuffer}, // two fifos a connection
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Check(t)
			server := harness.NewApp(t)
			listen := func(name string) *ctnet.Listener {
				lc := ctnet.ListenConfig{App: server, Peer: limits}
				if limits.Segments+int(limits.Bytes) > 0 {
					lc.ReadBuffer, lc.WriteBuffer = ctnet.MaxBuffer, ctnet.MaxBuffer // a segment each
				}
				ln, err := lc.Listen(t.Context(), "ct", name)
				require.NoError(t, err)
				go func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						go func() {
							defer c.Close()
							c.Read(make([]byte, 1))
						}()
					}
				}()
				t.Cleanup(func() { ln.Close() })
				return ln.(*ctnet.Listener)
			}
			listen(t.Name())
			listen(t.Name() + "other")
			// Applications of one process are one peer.
			clients := []*ctnet.App{harness.NewApp(t), harness.NewApp(t), harness.NewApp(t)}
			dial := func(i int, name string) (*ctnet.Conn, error) {
				d := ctnet.Dialer{App: clients[i]}
				c, err := d.Dial("ct", name)
				if err != nil {
					return nil, err
				}
				return c.(*ctnet.Conn), nil
			}
			var held []*ctnet.Conn
			for i := range 2 {
				c, err := dial(i, t.Name())
				require.NoError(t, err)
				held = append(held, c)
			}
			_, err := dial(2, t.Name())
			require.ErrorIs(t, err, syscall.ENOBUFS)
			c, err := dial(2, t.Name()+"other")
			require.NoError(t, err)
			require.NoError(t, c.Close())
			inOtherProcess(t, "dial once")
			for _, c := range held {
				require.NoError(t, c.Close())
			}
			require.NoError(t, clients[0].Close())
			harness.Eventually(t, func() bool {
				c, err := dial(2, t.Name())
				if err == nil {
					c.Close()
				}
				return err == nil
			})
		})
	}
}

// TestPeerHalfOpens has one application ask for more connections than it may have half-open. They
// wait, another application's do not, and all are served in the end.
func TestPeerHalfOpens(t *testing.T) {
	leakcheck.Check(t)
	server, greedy, other := harness.NewApp(t), harness.NewApp(t), harness.NewApp(t)
	lc := ctnet.ListenConfig{App: server, Backlog: 1000, Peer: ctnet.PeerLimits{HalfOpens: 1}}
	ln, err := lc.Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	defer ln.Close()
	const n = 500
	dialed := make(chan error, n)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range n {
		go func() {
			d := ctnet.Dialer{App: greedy}
			c, err := d.DialContext(ctx, "ct", t.Name())
			if err == nil {
				c.Close()
			}
			dialed <- err
		}()
	}
	waiting := func() int { return server.Snapshot().Listeners[0].Waiting }
	harness.Eventually(t, func() bool { return waiting() > 0 })
	// A turn admits whole words of the bitmap.
	require.Never(t, func() bool { return waiting() > 64+1 }, 50*time.Millisecond, time.Millisecond)
	d := ctnet.Dialer{App: other, Timeout: 20 * time.Second}
	c, err := d.Dial("ct", t.Name())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	var accepted atomic.Int32
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			c.Close()
		}
	}()
	for range n {
		require.NoError(t, <-dialed)
	}
	harness.Eventually(t, func() bool { return accepted.Load() == n+1 })
}
