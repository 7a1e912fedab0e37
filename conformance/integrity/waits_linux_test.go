package integrity

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// smallest are fifos of the least size.
var smallest = ctnet.ListenConfig{ReadBuffer: 4096, WriteBuffer: 4096}

// burnt returns how much CPU time the process has used.
func burnt(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// requireIdle waits until the process uses hardly any CPU time: in half a second less than
// a hundredth of that. Other processes make it use less, never more.
func requireIdle(t testing.TB) {
	t.Helper()
	harness.Eventually(t, func() bool {
		before := burnt(t)
		time.Sleep(500 * time.Millisecond) // what is measured, not what is waited for
		return burnt(t)-before < 5*time.Millisecond
	})
}

// TestPeekAgainstReserve lets both ends wait for what they can't both have. They sleep, and each
// wait can be ended.
func TestPeekAgainstReserve(t *testing.T) {
	for name, end := range map[string]func(c, s *ctnet.Conn){
		"deadline": func(c, s *ctnet.Conn) {
			c.SetWriteDeadline(time.Unix(1, 0))
			s.SetReadDeadline(time.Unix(1, 0))
		},
		"Close": func(c, s *ctnet.Conn) { c.Close(); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			eachPlace(t, smallest, func(t *testing.T, p place) {
				c, s := p.connect(t)
				defer c.Close()
				defer s.Close()
				_, err := c.Write(make([]byte, 3000))
				require.NoError(t, err)
				var waiting sync.WaitGroup
				var peekErr, reserveErr error
				waiting.Go(func() { _, peekErr = s.Peek(4000) })
				waiting.Go(func() { _, reserveErr = c.Reserve(2000) })
				requireIdle(t)
				end(c, s)
				within(t, "Peek and Reserve", waiting.Wait)
				if name == "Close" && peekErr == io.EOF {
					peekErr = net.ErrClosed // it saw the peer's Close before its own
					s.Discard(0)            // ends the view of the bytes that it got
				}
				for _, err := range []error{peekErr, reserveErr} {
					require.True(t, errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed), "%v", err)
				}
			})
		})
	}
}

// TestReserveNothing calls Reserve(0), which returns the room that there is, one byte, as
// Reserve(1) does.
func TestReserveNothing(t *testing.T) {
	eachPlace(t, smallest, func(t *testing.T, p place) {
		for _, n := range []int{1, 0} {
			c, s := p.connect(t)
			defer c.Close()
			defer s.Close()
			_, err := c.Write(make([]byte, 4096))
			require.NoError(t, err)
			_, err = s.Discard(1)
			require.NoError(t, err)
			within(t, "Reserve", func() {
				room, err := c.Reserve(n)
				if len(room) == 0 || err != nil {
					t.Errorf("Reserve(%d): %d bytes, %v", n, len(room), err)
				}
				c.Commit(0)
			})
		}
	})
}

// TestBufferedWhileReading calls Buffered while a Read waits.
func TestBufferedWhileReading(t *testing.T) {
	eachPlace(t, smallest, func(t *testing.T, p place) {
		c, s := p.connect(t)
		defer c.Close()
		defer s.Close()
		var reading sync.WaitGroup
		reading.Go(func() { s.Read(make([]byte, 100)) })
		requireIdle(t) // by now it waits
		within(t, "Buffered", func() {
			if n := s.Buffered(); n != 0 {
				t.Errorf("%d bytes", n)
			}
		})
		_, err := c.Write(make([]byte, 100))
		require.NoError(t, err)
		within(t, "Read", reading.Wait)
	})
}
