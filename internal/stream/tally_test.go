package stream

import (
	"bytes"
	"io"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// status returns the Status of an open end.
func status(t *testing.T, e *End) Status {
	t.Helper()
	s, ok := e.Status()
	require.True(t, ok)
	require.False(t, s.Closed)
	return s
}

// awaitStatus waits until the Status of e is as ok wants it.
func awaitStatus(t *testing.T, e *End, ok func(s Status) bool) (s Status) {
	t.Helper()
	require.Eventually(t, func() bool {
		s = status(t, e)
		return ok(s)
	}, 10*time.Second, time.Millisecond)
	return s
}

// TestTallyIdle has the exact counts of ends that nobody uses just then.
func TestTallyIdle(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		for range 3 {
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
		}
		sent := status(t, c).Send
		require.EqualValues(t, 15, sent.Bytes)
		require.EqualValues(t, 3, sent.Ops)
		require.EqualValues(t, 3, sent.Elided)
		require.Zero(t, sent.Wakes)
		require.Equal(t, 15, sent.Queue)
		require.Equal(t, 15, sent.High)
		require.Zero(t, status(t, s).Recv.Bytes)

		_, err := io.ReadFull(s, make([]byte, 11))
		require.NoError(t, err)
		_, err = s.Discard(4)
		require.NoError(t, err)
		got := status(t, s).Recv
		require.EqualValues(t, 15, got.Bytes)
		require.EqualValues(t, 2, got.Ops)
		require.Zero(t, got.Queue)
		require.Equal(t, 15, got.High)
		require.Zero(t, got.Stalls)
		require.Equal(t, 4<<10, got.Buffer)

		b, err := c.Reserve(3)
		require.NoError(t, err)
		require.EqualValues(t, 3, status(t, c).Send.Ops, "what the last Status found, or more")
		copy(b, "abc")
		require.NoError(t, c.Commit(3))
		require.EqualValues(t, 4, status(t, c).Send.Ops)
		require.EqualValues(t, 18, status(t, c).Send.Bytes)
	})
}

// TestTallyStalls has ends that wait for data and for space.
func TestTallyStalls(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		read := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			read <- err
		}()
		awaitStatus(t, s, func(s Status) bool { return s.Recv.Asleep })
		first := status(t, s).Recv
		later := awaitStatus(t, s, func(s Status) bool { return s.Recv.Stalled > first.Stalled }).Recv
		require.EqualValues(t, 1, later.Stalls)
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, <-read)
		sent := status(t, c).Send
		require.EqualValues(t, 1, sent.Wakes)
		require.Zero(t, sent.Elided)
		got := status(t, s).Recv
		require.False(t, got.Asleep)
		require.EqualValues(t, 1, got.Stalls)
		require.GreaterOrEqual(t, got.Stalled, later.Stalled)
		require.EqualValues(t, 1, got.Ops)

		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 6<<10))
			wrote <- err
		}()
		sent = awaitStatus(t, c, func(s Status) bool { return s.Send.Asleep }).Send
		require.EqualValues(t, 1, sent.Stalls)
		require.Equal(t, 4<<10, sent.High)
		_, err = io.ReadFull(s, make([]byte, 6<<10))
		require.NoError(t, err)
		require.NoError(t, <-wrote)
		require.NotZero(t, status(t, s).Recv.Wakes)
		require.EqualValues(t, 1+6<<10, status(t, s).Recv.Bytes)
		require.EqualValues(t, 2, status(t, c).Send.Ops)
		require.Zero(t, status(t, c).Send.Queue)
		require.Equal(t, 4<<10, status(t, c).Send.High)
	})
}

// TestTallyHandoff has bytes that go past the fifo.
func TestTallyHandoff(t *testing.T) {
	c, s := connectAlone(t)
	b := make([]byte, handoffLeast)
	read := make(chan int, 1)
	go func() {
		n, _ := s.Read(make([]byte, len(b)))
		read <- n
	}()
	awaitStatus(t, s, func(s Status) bool { return s.Recv.Asleep })
	_, err := c.Write(b)
	require.NoError(t, err)
	require.Equal(t, len(b), <-read)
	require.Zero(t, s.rx.Passed(), "it was no handoff")
	require.EqualValues(t, len(b), status(t, c).Send.Bytes)
	require.EqualValues(t, len(b), status(t, s).Recv.Bytes)
}

// A rendezvousWriter says when it is called, and returns when it is told to.
type rendezvousWriter struct{ called, goOn chan struct{} }

func (w rendezvousWriter) Write(b []byte) (int, error) {
	w.called <- struct{}{}
	<-w.goOn
	return len(b), nil
}

// TestTallyInCopy reads the counts while the lock is held for as long as the user's code likes.
func TestTallyInCopy(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		w := rendezvousWriter{make(chan struct{}), make(chan struct{})}
		copied := make(chan error, 1)
		go func() {
			_, err := writeTo(s, w)
			copied <- err
		}()
		for i := range 3 {
			_, err := c.Write([]byte("12345"))
			require.NoError(t, err)
			<-w.called
			require.EqualValues(t, i, status(t, s).Recv.Ops)
			require.EqualValues(t, 5*i, status(t, s).Recv.Bytes)
			w.goOn <- struct{}{}
		}
		require.NoError(t, c.Close())
		require.NoError(t, <-copied)
		require.EqualValues(t, 3, status(t, s).Recv.Ops)

		// A panic in the user's code leaves nothing behind.
		s2, c2 := m.connect()
		require.Panics(t, func() { c2.CopyFrom(panics{}) })
		require.Zero(t, c2.wr.resting.Load())
		_, err := s2.Write([]byte("x"))
		require.NoError(t, err)
		require.Panics(t, func() { c2.CopyTo(panics{}) })
		require.Zero(t, c2.rd.resting.Load())
	})
}

type panics struct{}

func (panics) Read([]byte) (int, error)  { panic("read") }
func (panics) Write([]byte) (int, error) { panic("write") }

// TestTallyBusy has Statuses of ends that are used all the time: no byte is lost, and with the race
// detector nobody reads a count that somebody changes. Counts only grow.
func TestTallyBusy(t *testing.T) {
	eachMeeting(t, 8<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		const total = 20 << 20
		var busy sync.WaitGroup
		busy.Go(func() {
			b := bytes.Repeat([]byte("0123456789"), 100)
			for n := 0; n < total; n += len(b) {
				if _, err := c.Write(b); err != nil {
					t.Error(err)
					return
				}
			}
			c.CloseWrite()
		})
		busy.Go(func() {
			n, err := io.Copy(io.Discard, readerOnly{s})
			if err != nil || n < total {
				t.Error(n, err)
			}
		})
		done := make(chan struct{})
		go func() {
			busy.Wait()
			close(done)
		}()
		var sent, got Flow
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			nowSent, nowGot := status(t, c).Send, status(t, s).Recv
			for _, f := range [][2]Flow{{sent, nowSent}, {got, nowGot}} {
				require.GreaterOrEqual(t, f[1].Bytes, f[0].Bytes)
				require.GreaterOrEqual(t, f[1].Ops, f[0].Ops)
				require.GreaterOrEqual(t, f[1].Polls, f[0].Polls)
				require.LessOrEqual(t, f[1].High, f[1].Buffer)
			}
			sent, got = nowSent, nowGot
		}
		require.EqualValues(t, (total+999)/1000, sent.Ops)
		require.EqualValues(t, sent.Bytes, got.Bytes)
		require.GreaterOrEqual(t, sent.Elided+sent.Wakes, sent.Ops)
	})
}

// readerOnly hides CopyTo.
type readerOnly struct{ e *End }

func (r readerOnly) Read(b []byte) (int, error) { return r.e.Read(b) }

// TestStatusTimes has a clock that the test moves.
func TestStatusTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meeting{t, 4 << 10, true, nil}
		c, s := m.connect()
		time.Sleep(time.Minute)
		require.Equal(t, time.Minute, status(t, c).Age)
		require.Equal(t, time.Minute, status(t, c).Idle)
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Zero(t, status(t, c).Idle, "it may have been just now")
		time.Sleep(time.Second)
		require.Equal(t, time.Second, status(t, c).Idle)
		go func() {
			io.ReadFull(s, make([]byte, 2))
		}()
		synctest.Wait() // it has read the byte, and waits
		time.Sleep(time.Hour)
		got := status(t, s)
		require.Equal(t, time.Hour, got.Idle, "the goroutine went to sleep then")
		require.Equal(t, time.Hour, got.Recv.Stalled)
		require.EqualValues(t, 1, got.Recv.Ops)
		require.Equal(t, time.Hour+time.Minute+2*time.Second, got.Age)
		c.Close()
		synctest.Wait()
		s.Close()
	})
}

// TestStatusReset has connections that end in all ways.
func TestStatusReset(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		require.NoError(t, c.Close())
		require.False(t, status(t, s).Reset)
		require.True(t, status(t, s).PeerClosed)
		s.PeerGone()
		require.False(t, status(t, s).Reset, "the stream had ended before")
		require.False(t, c.WasReset())
		require.False(t, s.WasReset())

		c, s = m.connect()
		c.Abort()
		require.True(t, status(t, s).Reset)
		require.True(t, c.WasReset())
		require.True(t, s.WasReset())

		c, s = m.connect()
		s.PeerGone()
		require.True(t, status(t, s).Reset)
		require.True(t, s.WasReset())
		require.False(t, c.WasReset())
	})
}

// TestSever resets a connection from outside, with goroutines that wait at both ends, and bytes that
// the peer can still read. Neither end is closed.
func TestSever(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		reading, writing := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			reading <- err
		}()
		go func() {
			_, err := s.Write(make([]byte, 8<<10))
			writing <- err
		}()
		awaitStatus(t, s, func(s Status) bool { return s.Recv.Asleep && s.Send.Asleep })
		require.True(t, s.Sever())
		require.ErrorIs(t, <-reading, syscall.ECONNRESET)
		require.ErrorIs(t, <-writing, syscall.ECONNRESET)
		require.True(t, status(t, s).Reset)
		_, err := s.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)

		n, err := io.ReadFull(c, make([]byte, 4<<10))
		require.NoError(t, err)
		require.Equal(t, 4<<10, n)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, s.Close())
		require.False(t, s.Sever())
	})
}
