package integrity

import (
	"io"
	"sync"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestCommitAllOrNothing calls Commit when a deadline passes or the stream ends, with bytes that
// wrap around the fifo's end. It has written all of them if it returns nil, and otherwise none.
func TestCommitAllOrNothing(t *testing.T) {
	const size = 1 << 20
	ends := []func(c *ctnet.Conn){
		func(c *ctnet.Conn) { c.SetWriteDeadline(time.Unix(1, 0)) },
		func(c *ctnet.Conn) { c.CloseWrite() },
		func(c *ctnet.Conn) { c.Close() },
	}
	eachPlace(t, ctnet.ListenConfig{ReadBuffer: size, WriteBuffer: size}, func(t *testing.T, p place) {
		tried, failed, wrong, b := 0, 0, 0, make([]byte, size)
		for try := range tries(200, 300_000) {
			c, s := p.connect(t)
			_, err := c.Write(b[:size/2+1])
			require.NoError(t, err)
			_, err = s.Discard(size / 2) // not all, or it would begin at the fifo's start
			require.NoError(t, err)
			room, err := c.Reserve(size * 3 / 4)
			require.NoError(t, err)

			var commitErr error
			var wg sync.WaitGroup
			wg.Go(func() { commitErr = c.Commit(len(room)) })
			wg.Go(func() {
				pause(30)
				ends[try%len(ends)](c)
			})
			wg.Wait()
			c.Close()
			n, err := io.Copy(io.Discard, s)
			require.NoError(t, err)
			want := int64(1 + len(room))
			if commitErr != nil {
				failed++
				want = 1
			}
			if tried++; n != want {
				if wrong++; wrong == 1 {
					t.Errorf("Commit(%d) said %v, and %d bytes were written", len(room), commitErr, n-1)
				}
			}
			s.Close()
		}
		t.Logf("%d tries, %d Commits failed, %d wrong", tried, failed, wrong)
	})
}
