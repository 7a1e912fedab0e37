package conformance

import (
	"bytes"
	"os"
	"runtime/pprof"
	"runtime/trace"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestProfiles has an execution trace and a profile of goroutines show what is ctnet's: a Dial, an
// Accept that waits, a Read and a Write that sleep, and a worker.
func TestProfiles(t *testing.T) {
	ln, err := (&ctnet.ListenConfig{App: harness.NewApp(t)}).Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	defer ln.Close()
	d := ctnet.Dialer{App: harness.NewApp(t)}
	var traced, goroutines bytes.Buffer
	require.NoError(t, trace.Start(&traced))
	accepted := accept(ln)
	c, err := d.Dial("ct", t.Name())
	require.NoError(t, err)
	peer := <-accepted
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&goroutines, 1))
	require.NoError(t, ln.(*ctnet.Listener).SetDeadline(time.Now().Add(time.Millisecond)))
	_, err = ln.Accept() // waits for the deadline
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	stalled := make(chan error, 2)
	go func() {
		_, err := c.Read(make([]byte, 1))
		stalled <- err
	}()
	go func() {
		_, err := c.Write(make([]byte, 4<<20)) // more than the fifo holds
		stalled <- err
	}()
	require.Eventually(t, func() bool {
		info := d.App.Snapshot().Connections[0]
		return info.Recv.Asleep && info.Send.Asleep
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, c.SetDeadline(time.Now()))
	require.ErrorIs(t, <-stalled, os.ErrDeadlineExceeded)
	require.ErrorIs(t, <-stalled, os.ErrDeadlineExceeded)
	trace.Stop()
	for _, c := range []interface{ Close() error }{c, peer} {
		require.NoError(t, c.Close())
	}
	require.Contains(t, traced.String(), "ctnet.Dial")
	require.Contains(t, traced.String(), "ctnet.Accept")
	require.Contains(t, traced.String(), "ctnet.Read.stall")
	require.Contains(t, traced.String(), "ctnet.Write.stall")
	require.Contains(t, goroutines.String(), `"ctnet":"worker"`)
}
