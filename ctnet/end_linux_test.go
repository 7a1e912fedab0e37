package ctnet

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A place to connect: a listener in one application and a dialer in the same or another.
type meeting struct {
	net.Listener
	dialer Dialer
}

// eachMeeting runs a test within one application and between two.
func eachMeeting(t *testing.T, lc ListenConfig, test func(t *testing.T, m meeting)) {
	for _, name := range []string{"alone", "apart"} {
		t.Run(name, func(t *testing.T) {
			server := newTestApp(t, AppConfig{})
			client := server
			if name == "apart" {
				client = newTestApp(t, AppConfig{})
			}
			lc.App = server
			ln, err := lc.Listen(t.Context(), "ct", t.Name())
			require.NoError(t, err)
			test(t, meeting{ln, Dialer{App: client}})
		})
	}
}

func (m meeting) connect(t *testing.T) (c, s *Conn) {
	t.Helper()
	dialed, err := m.dialer.Dial("ct", m.Addr().String())
	require.NoError(t, err)
	accepted, err := m.Accept()
	require.NoError(t, err)
	return dialed.(*Conn), accepted.(*Conn)
}

// TestNothingAfterAppClose closes the writers' application.
func TestNothingAfterAppClose(t *testing.T) {
	for range 20 {
		server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
		ln, err := (&ListenConfig{App: server}).Listen(t.Context(), "ct", t.Name())
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 16 {
			c, s := meeting{ln, Dialer{App: client}}.connect(t)
			wg.Go(func() {
				for b := make([]byte, 32<<10); ; {
					if _, err := s.Write(b); err != nil {
						return
					}
				}
			})
			wg.Go(func() {
				if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v", err)
				}
				for b := make([]byte, 64<<10); held(s); runtime.Gosched() {
					if n, err := c.Read(b); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("%d bytes, %v", n, err)
						break
					}
				}
				c.Close()
			})
		}
		for range rand.IntN(100) {
			runtime.Gosched()
		}
		require.NoError(t, server.Close())
		wg.Wait()
		require.NoError(t, client.Close())
	}
}

// held reports whether a connection's memory is in use.
func held(c *Conn) bool {
	_, ok := c.c.end.Status()
	return ok
}
