package integrity

import (
	"net"
	"sync"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

// TestNothingAfterAppClose closes the writer's application while it writes. The reader learns of
// it by the pair's end, and reads nothing after that.
func TestNothingAfterAppClose(t *testing.T) {
	const conns = 8
	data := make([]byte, burst)
	pattern.Of(0, 0, client).Fill(data, 0)
	server := harness.NewApp(t)
	ln, err := (&ctnet.ListenConfig{App: server}).Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	var mu sync.Mutex
	tried, wrong, sum := 0, 0, 0
	for range tries(40, 1_000_000/conns) {
		a := harness.NewApp(t)
		d := ctnet.Dialer{App: a}
		var writing, reading sync.WaitGroup
		var accepted []net.Conn
		for range conns {
			c, err := d.Dial("ct", t.Name())
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			accepted = append(accepted, s)
			writing.Go(func() { c.Write(data) })
		}
		for _, s := range accepted {
			reading.Go(func() {
				n, err := readOn(s, writing.Wait)
				s.Close()
				mu.Lock()
				defer mu.Unlock()
				tried++
				sum += n
				if err != nil {
					if wrong++; wrong == 1 {
						t.Error(err)
					}
				}
			})
		}
		pause(20)
		a.Close()
		within(t, "reading", reading.Wait)
	}
	t.Logf("%d connections, %d bytes; wrong: %d connections", tried, sum, wrong)
	requireNoConns(t, server)
}
