package integrity

import (
	"net"
	"sync"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestAcceptsAgainstClose closes a listener while goroutines wait in Accept, and connections
// come through the kernel's socket. One of these can be accepted though the listener is
// closed. All Accepts return.
func TestAcceptsAgainstClose(t *testing.T) {
	crowd(t)
	tried, accepted := 0, 0
	for range tries(1000, 1_000_000) {
		lc := ctnet.ListenConfig{App: harness.NewApp(t)}
		ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var conns []net.Conn
		for range 2 {
			c, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			conns = append(conns, c)
		}
		var mu sync.Mutex
		var accepting sync.WaitGroup
		for range 4 {
			accepting.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					c.(*net.TCPConn).SetLinger(0) // or the kernel keeps the port for a minute
					c.Close()
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			})
		}
		accepting.Go(func() {
			pause(20)
			ln.Close()
		})
		within(t, "Accept", accepting.Wait)
		for _, c := range conns {
			c.Close()
		}
		tried++
	}
	t.Logf("%d listeners, %d connections accepted", tried, accepted)
}
