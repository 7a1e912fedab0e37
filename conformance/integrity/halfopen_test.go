package integrity

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// waiting returns how many connections are in the backlog.
func (p place) waiting() int { return p.apps[0].Snapshot().Listeners[0].Waiting }

// giveUp has four goroutines dial with too little time, and calls dialed for each Dial that
// succeeds all the same. It returns how many did not.
func (p place) giveUp(t *testing.T, dialed func(net.Conn)) int64 {
	var gaveUp atomic.Int64
	var dials sync.WaitGroup
	for range 4 {
		dials.Go(func() {
			for range tries(500, 250_000) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(50+rand.IntN(200))*time.Microsecond)
				c, err := p.dialer.DialContext(ctx, "ct", p.ln.Addr().String())
				cancel()
				if err == nil {
					dialed(c)
					continue
				}
				gaveUp.Add(1)
				if e, ok := err.(net.Error); !ok || !e.Timeout() {
					t.Error(err)
				}
			}
		})
	}
	dials.Wait()
	return gaveUp.Load()
}

// keepBusy has a byte go to and fro on a connection until the returned function is called.
func (p place) keepBusy(t *testing.T) (stop func()) {
	c, s := p.connect(t)
	var using sync.WaitGroup
	for _, end := range []*ctnet.Conn{c, s} {
		using.Go(func() { io.Copy(struct{ io.Writer }{end}, struct{ io.Reader }{end}) })
	}
	_, err := c.Write([]byte{1})
	require.NoError(t, err)
	return func() {
		c.Close()
		s.Close()
		using.Wait()
	}
}

// requireServed has a Dial succeed and be accepted.
func (p place) requireServed(t *testing.T) {
	within(t, "a Dial, and Accept", func() {
		c, err := p.dialer.Dial("ct", p.ln.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		s, err := p.ln.AcceptConn()
		if err != nil {
			t.Error(err)
			return
		}
		if s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("dialed by %v, accepted from %v", c.LocalAddr(), s.RemoteAddr())
		}
		c.Close()
		s.Close()
	})
}

// TestDialsGivenUp has Dials give up, all the time, while the backlog has no room for them.
// Nothing stays of them.
func TestDialsGivenUp(t *testing.T) {
	crowd(t)
	eachPlace(t, ctnet.ListenConfig{Backlog: 1}, func(t *testing.T, p place) {
		defer p.keepBusy(t)()
		first, err := p.dialer.Dial("ct", p.ln.Addr().String())
		require.NoError(t, err)
		gaveUp := p.giveUp(t, func(c net.Conn) {
			t.Error("a Dial succeeded, and there is no room")
			c.Close()
		})
		defer func() { t.Logf("%d Dials given up, %d left", gaveUp, p.waiting()) }()
		harness.Eventually(t, func() bool { return p.waiting() == 1 })
		s, err := p.ln.Accept()
		require.NoError(t, err)
		require.Equal(t, first.LocalAddr().String(), s.RemoteAddr().String())
		first.Close()
		s.Close()
		p.requireServed(t)
	})
}

// TestDialsGivenUpAndAccepted is the same while they are accepted. Every Dial that succeeds
// is accepted once. One that gives up may have been accepted before.
func TestDialsGivenUpAndAccepted(t *testing.T) {
	crowd(t)
	eachPlace(t, ctnet.ListenConfig{Backlog: 1}, func(t *testing.T, p place) {
		defer p.keepBusy(t)()
		var mu sync.Mutex
		accepted := map[string]int{} // by the client's address
		var accepting sync.WaitGroup
		accepting.Go(func() {
			for {
				s, err := p.ln.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				accepted[s.RemoteAddr().String()]++
				mu.Unlock()
				s.Close()
			}
		})
		var dialed []string
		gaveUp := p.giveUp(t, func(c net.Conn) {
			mu.Lock()
			defer mu.Unlock()
			dialed = append(dialed, c.LocalAddr().String())
			c.Close()
		})
		harness.Eventually(t, func() bool { return p.waiting() == 0 })
		require.NoError(t, p.ln.SetDeadline(time.Unix(1, 0))) // ends accepting
		within(t, "Accept", accepting.Wait)
		require.NoError(t, p.ln.SetDeadline(time.Time{}))

		for _, a := range dialed {
			require.Equal(t, 1, accepted[a], "%s", a)
		}
		dead := len(accepted) - len(dialed)
		t.Logf("%d Dials succeeded, %d given up, %d of these had been accepted", len(dialed), gaveUp, dead)
		require.LessOrEqual(t, int64(dead), gaveUp)
		p.requireServed(t)
	})
}
