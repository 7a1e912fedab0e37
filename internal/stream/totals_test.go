package stream

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// assertGrown asserts that no field of now is less than in before.
func assertGrown(t *testing.T, before, now Sum) {
	t.Helper()
	assert.GreaterOrEqual(t, now.Bytes, before.Bytes)
	assert.GreaterOrEqual(t, now.Ops, before.Ops)
	assert.GreaterOrEqual(t, now.Transfers, before.Transfers)
	assert.GreaterOrEqual(t, now.Wakes, before.Wakes)
	assert.GreaterOrEqual(t, now.Polls, before.Polls)
	assert.GreaterOrEqual(t, now.Stalls, before.Stalls)
	assert.GreaterOrEqual(t, now.Stalled, before.Stalled)
}

// TestTotals has connections that come and go while several goroutines look at all of them: the
// Totals only grow, and in the end each byte and call was counted once.
func TestTotals(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		var live sync.Map
		var sent, got, writes, reads atomic.Uint64
		var users, lookers sync.WaitGroup
		done := make(chan struct{})
		for range 3 {
			lookers.Go(func() {
				var recv, send Sum
				for {
					select {
					case <-done:
						return
					default:
					}
					live.Range(func(e, _ any) bool {
						e.(*End).Status()
						return true
					})
					nowRecv, nowSend := m.totals.Sums()
					assertGrown(t, recv, nowRecv)
					assertGrown(t, send, nowSend)
					recv, send = nowRecv, nowSend
				}
			})
		}
		for user := range 4 {
			users.Go(func() {
				for i := range 40 {
					c, s := m.connect()
					live.Store(c, nil)
					live.Store(s, nil)
					var both sync.WaitGroup
					both.Go(func() {
						for _, size := range []int{1, 100, 3 << 10, handoffLeast, 20 << 10} {
							n, err := c.Write(make([]byte, size))
							assert.NoError(t, err)
							sent.Add(uint64(n))
							writes.Add(1)
						}
						c.Close()
					})
					b := make([]byte, 16<<10)
					for {
						n, err := s.Read(b)
						if err != nil {
							assert.Equal(t, io.EOF, err)
							break
						}
						got.Add(uint64(n))
						reads.Add(1)
					}
					if (user+i)%2 == 0 {
						live.Delete(s) // so that its end is all that counts the rest
					}
					s.Close()
					both.Wait()
					live.Delete(c)
					live.Delete(s)
				}
			})
		}
		users.Wait()
		close(done)
		lookers.Wait()
		recv, send := m.totals.Sums()
		require.Equal(t, sent.Load(), send.Bytes)
		require.Equal(t, got.Load(), recv.Bytes)
		require.Equal(t, sent.Load(), got.Load())
		require.Equal(t, writes.Load(), send.Ops)
		require.Equal(t, reads.Load(), recv.Ops)
		require.GreaterOrEqual(t, send.Transfers, send.Ops)
	})
}

// TestTotalsHeld has an end that is closed, but whose memory is held: what a Status has found stays,
// and the rest is added when it lets go.
func TestTotalsHeld(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 3))
		require.NoError(t, err)
		status(t, s)
		_, err = s.Peek(2)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		closed, ok := s.Status()
		require.True(t, ok)
		require.True(t, closed.Closed)
		recv, _ := m.totals.Sums()
		require.EqualValues(t, 3, recv.Bytes)
		s.Discard(0)
		recv, _ = m.totals.Sums()
		require.EqualValues(t, 3, recv.Bytes)
		require.EqualValues(t, 1, recv.Ops)
		_, send := m.totals.Sums()
		require.Zero(t, send, "no Status has looked, and it is open")
		require.NoError(t, c.Close())
		_, send = m.totals.Sums()
		require.EqualValues(t, 5, send.Bytes)
	})
}

// TestTotalsShared has shared words that somebody has overwritten when a Status looks, or when the ends
// let go.
func TestTotalsShared(t *testing.T) {
	for _, looked := range []bool{true, false} {
		var totals Totals
		c, s := new(End), new(End)
		there, back := newFifo(4<<10), newFifo(4<<10)
		new(Junction).Join(c, s, there, back, new(ends), Options{Totals: &totals})
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 5))
		require.NoError(t, err)
		there.Header.ResetProducer()
		there.Header.ResetConsumer()
		if looked {
			require.Zero(t, status(t, c).Send.Bytes)
			require.Zero(t, status(t, s).Recv.Bytes)
		} else {
			c.Abort()
			s.Abort()
		}
		recv, send := totals.Sums()
		require.EqualValues(t, 5, recv.Bytes)
		require.EqualValues(t, 5, send.Bytes)
		c.Abort()
		s.Abort()
	}
}

// TestTotalsSleep has a sleep that is looked at while it is under way: its time is counted once, with a
// clock that the test moves.
func TestTotalsSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meeting{t, 4 << 10, true, new(Totals)}
		c, s := m.connect()
		read := make(chan error)
		go func() {
			_, err := s.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		for range 3 {
			time.Sleep(time.Minute)
			require.True(t, status(t, s).Recv.Asleep)
		}
		require.Equal(t, 3*time.Minute, status(t, s).Recv.Sleep)
		recv, _ := m.totals.Sums()
		require.EqualValues(t, 1, recv.Stalls)
		require.Equal(t, 3*time.Minute, recv.Stalled)
		time.Sleep(time.Minute)
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, <-read)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		recv, send := m.totals.Sums()
		require.EqualValues(t, 1, recv.Stalls)
		require.Equal(t, 4*time.Minute, recv.Stalled)
		require.EqualValues(t, 1, send.Wakes)
	})
}
