package stream

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/pattern"
	"cutthrough.example/internal/tap"
)

// A capturing takes what a Tap has seen of an end.
type capturing struct {
	t              *testing.T
	tap            *tap.Tap
	sent, received uint64 // the positions at which it begins
}

func captureEnd(t *testing.T, e *End) *capturing {
	t.Helper()
	c := &capturing{t: t, tap: tap.New(64 << 20)}
	var err error
	c.sent, c.received, err = e.Capture(c.tap)
	require.NoError(t, err)
	return c
}

// A seen is what a capture has seen.
type seen struct {
	sent, received []byte
	order          []uint32 // the kinds of records, one for several of one kind
}

// take returns what was seen until the Tap is closed, and requires that the positions are without a gap.
func (c *capturing) take() (s seen) {
	c.t.Helper()
	for {
		block, ok := c.tap.Next()
		if !ok {
			return s
		}
		for len(block) > 0 {
			r, rest, err := tap.Cut(block)
			require.NoError(c.t, err)
			require.Zero(c.t, r.Dropped)
			switch r.Kind {
			case tap.Sent, tap.SentFin, tap.SentReset:
				require.Equal(c.t, c.sent+uint64(len(s.sent)), r.Pos, r.Kind)
				s.sent = append(s.sent, r.Data...)
			case tap.Received, tap.ReceivedFin, tap.ReceivedReset:
				require.Equal(c.t, c.received+uint64(len(s.received)), r.Pos, r.Kind)
				s.received = append(s.received, r.Data...)
			}
			if len(s.order) == 0 || s.order[len(s.order)-1] != r.Kind {
				s.order = append(s.order, r.Kind)
			}
			block = rest
		}
	}
}

// TestCapture sends and receives in all ways. Each byte is recorded once, at its position.
func TestCapture(t *testing.T) {
	writes := map[string]func(e *End, b []byte) error{
		"Write": func(e *End, b []byte) error { _, err := e.Write(b); return err },
		"CopyFrom": func(e *End, b []byte) error {
			_, err := readFrom(e, bytes.NewReader(b))
			return err
		},
		"Commit": func(e *End, b []byte) error {
			for len(b) > 0 {
				room, err := e.Reserve(0)
				if err != nil {
					return err
				}
				n := copy(room, b)
				if err := e.Commit(n); err != nil {
					return err
				}
				b = b[n:]
			}
			return nil
		},
		"Commit of a copy": func(e *End, b []byte) error {
			for len(b) > 0 {
				n := min(len(b), 40_000)
				room, err := e.Reserve(n)
				if err != nil {
					return err
				}
				copy(room, b)
				if err := e.Commit(n); err != nil {
					return err
				}
				b = b[n:]
			}
			return nil
		},
	}
	reads := map[string]func(e *End, b []byte) error{
		"Read": func(e *End, b []byte) error { _, err := io.ReadFull(readerOnly{e}, b); return err },
		"Peek and Read": func(e *End, b []byte) error {
			for len(b) > 0 {
				if _, err := e.Peek(min(len(b), 1000)); err != nil {
					return err
				}
				n, err := e.Read(b[:min(len(b), 2500)])
				if err != nil {
					return err
				}
				b = b[n:]
			}
			return nil
		},
		"Discard": func(e *End, b []byte) error {
			_, err := e.Discard(len(b))
			return err
		},
		"CopyTo": func(e *End, b []byte) error {
			n := 0
			_, err := writeTo(e, writerFunc(func(p []byte) (int, error) {
				n += len(p)
				if n >= len(b) {
					return len(p) - (n - len(b)), io.ErrShortWrite
				}
				return len(p), nil
			}))
			if err == io.ErrShortWrite {
				err = nil
			}
			return err
		},
	}
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	eachMeeting(t, 128<<10, func(t *testing.T, m meeting) {
		for writeName, write := range writes {
			for readName, read := range reads {
				t.Run(writeName+" "+readName, func(t *testing.T) {
					m.t = t
					c, s := m.connect()
					before := []byte("before")
					_, err := c.Write(before)
					require.NoError(t, err)
					_, err = s.Discard(len(before))
					require.NoError(t, err)
					atC, atS := captureEnd(t, c), captureEnd(t, s)
					require.Equal(t, []uint64{6, 0, 0, 6}, []uint64{atC.sent, atC.received, atS.sent, atS.received})
					var working sync.WaitGroup
					working.Go(func() {
						require.NoError(t, write(c, data))
						require.NoError(t, c.CloseWrite())
					})
					require.NoError(t, read(s, make([]byte, len(data))))
					_, err = s.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
					working.Wait()
					require.NoError(t, s.Close())
					_, err = c.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
					require.NoError(t, c.Close())
					gotC, gotS := atC.take(), atS.take()
					require.True(t, bytes.Equal(data, gotC.sent))
					require.True(t, bytes.Equal(data, gotS.received))
					require.Equal(t, []uint32{tap.Sent, tap.SentFin, tap.ReceivedFin, tap.Over}, gotC.order)
					require.Equal(t, []uint32{tap.Received, tap.ReceivedFin, tap.SentFin, tap.Over}, gotS.order)
				})
			}
		}
	})
}

// TestCaptureOrder has one goroutine ask and another one read the answers, at once. No answer is recorded before
// its question.
func TestCaptureOrder(t *testing.T) {
	eachMeeting(t, 64<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		got := captureEnd(t, c)
		const rounds = 3000
		var working sync.WaitGroup
		working.Go(func() {
			b := make([]byte, 1)
			for range rounds {
				io.ReadFull(readerOnly{s}, b)
				s.Write(b)
			}
		})
		answered := make(chan struct{})
		working.Go(func() {
			for range rounds {
				io.ReadFull(readerOnly{c}, make([]byte, 1))
				answered <- struct{}{}
			}
		})
		for range rounds {
			_, err := c.Write([]byte{1})
			require.NoError(t, err)
			<-answered
		}
		working.Wait()
		require.NoError(t, c.Close())
		order := got.take().order
		require.Len(t, order, 2*rounds+2)
		for i := range 2 * rounds {
			require.EqualValues(t, tap.Sent+i%2, order[i])
		}
	})
}

// TestCaptureHandoff has bytes go past the fifo, into the buffer of a Read that waits at the captured end.
func TestCaptureHandoff(t *testing.T) {
	c, s := connectAlone(t)
	got := captureEnd(t, s)
	data := pattern.Pattern(0).Bytes(0, 100_000)
	read := make(chan error)
	go func() {
		_, err := io.ReadFull(readerOnly{s}, make([]byte, len(data)))
		read <- err
	}()
	s.peer.(*jointPeer).in.waitsFor(t)
	_, err := c.Write(data)
	require.NoError(t, err)
	require.NoError(t, <-read)
	require.NotZero(t, c.wr.tally.direct)
	require.NoError(t, s.Close())
	require.True(t, bytes.Equal(data, got.take().received))
}

// TestCaptureSeen has a program see bytes, answer them, and release them only then. The question comes first.
func TestCaptureSeen(t *testing.T) {
	for name, answer := range map[string]func(c *End) error{
		"Peek": func(c *End) error {
			if _, err := c.Peek(5); err != nil {
				return err
			}
			_, err := c.Write([]byte("answer"))
			c.Discard(5)
			return err
		},
		"CopyTo": func(c *End) error {
			writeTo(c, writerFunc(func(p []byte) (int, error) {
				c.Write([]byte("answer"))
				return len(p), io.ErrShortWrite
			}))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := connectAlone(t)
			got := captureEnd(t, c)
			_, err := s.Write([]byte("hello"))
			require.NoError(t, err)
			require.NoError(t, answer(c))
			require.NoError(t, c.Close())
			require.Equal(t, []uint32{tap.Received, tap.Sent, tap.SentFin, tap.Over}, got.take().order)
		})
	}
}

// TestCaptureLent begins a capture while bytes are lent, of which the borrower takes none, some or all. They are not
// in it, as they were seen before.
func TestCaptureLent(t *testing.T) {
	for taken := range 6 {
		c, s := connectAlone(t)
		_, err := s.Write([]byte("hello"))
		require.NoError(t, err)
		var got *capturing
		writeTo(c, writerFunc(func(p []byte) (int, error) {
			got = captureEnd(t, c)
			return taken, io.ErrShortWrite
		}))
		require.EqualValues(t, 5, got.received)
		_, err = s.Write([]byte("more"))
		require.NoError(t, err)
		_, err = io.ReadFull(readerOnly{c}, make([]byte, 9-taken))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, "more", string(got.take().received))
	}
}

// TestCaptureEnds has each end of the streams recorded.
func TestCaptureEnds(t *testing.T) {
	read := func(e *End) { e.Read(make([]byte, 1)) }
	for name, test := range map[string]struct {
		do   func(c, s *End)
		want []uint32 // at c
	}{
		"Close":              {func(c, s *End) { c.Close() }, []uint32{tap.SentFin}},
		"CloseWrite, Close":  {func(c, s *End) { c.CloseWrite(); c.Close() }, []uint32{tap.SentFin}},
		"Abort":              {func(c, s *End) { c.Abort() }, []uint32{tap.SentReset}},
		"Sever":              {func(c, s *End) { c.Sever(); read(c) }, []uint32{tap.SentReset}},
		"the peer's Close":   {func(c, s *End) { s.Close(); read(c) }, []uint32{tap.ReceivedFin, tap.SentFin}},
		"unseen":             {func(c, s *End) { s.Close() }, []uint32{tap.SentFin, tap.ReceivedFin}},
		"the peer's Abort":   {func(c, s *End) { s.Abort(); read(c) }, []uint32{tap.ReceivedReset, tap.SentFin}},
		"its death":          {func(c, s *End) { c.PeerGone(); read(c) }, []uint32{tap.ReceivedReset, tap.SentFin}},
		"CloseRead":          {func(c, s *End) { c.CloseRead(); read(c) }, []uint32{tap.SentFin}},
		"FIN, RST":           {func(c, s *End) { s.CloseWrite(); read(c); s.Abort(); read(c) }, []uint32{tap.ReceivedFin, tap.ReceivedReset, tap.SentFin}},
		"unread":             {func(c, s *End) { s.Write([]byte("x")); c.Close() }, []uint32{tap.SentReset}},
		"Peek beyond":        {func(c, s *End) { s.Write([]byte("x")); s.Close(); c.Peek(2); read(c) }, []uint32{tap.Received, tap.ReceivedFin, tap.SentFin}},
		"less than was lent": {lendAndClose, []uint32{tap.Received, tap.SentFin, tap.SentReset}},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := connectAlone(t)
			got := captureEnd(t, c)
			test.do(c, s)
			c.Close()
			require.Equal(t, append(test.want, tap.Over), got.take().order)
		})
	}
}

// lendAndClose closes c while CopyTo's writer has bytes, of which it takes fewer than it was given.
func lendAndClose(c, s *End) {
	s.Write([]byte("hello"))
	writeTo(c, writerFunc(func(p []byte) (int, error) {
		c.Close()
		return 1, io.ErrShortWrite
	}))
}

// TestCaptureBegins begins captures one after the other while bytes flow. Each has all bytes from some position
// on until it ends, and no other end is disturbed: a goroutine that waits does not spin because of it.
func TestCaptureBegins(t *testing.T) {
	eachMeeting(t, 64<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		stop := make(chan struct{})
		var flowing sync.WaitGroup
		flowing.Go(func() {
			rnd := rand.New(rand.NewPCG(3, 3))
			var pos uint64
			for {
				select {
				case <-stop:
					require.NoError(t, c.CloseWrite())
					return
				default:
				}
				b := pattern.Pattern(0).Bytes(int64(pos), 1+rnd.IntN(20_000))
				_, err := c.Write(b)
				require.NoError(t, err)
				pos += uint64(len(b))
			}
		})
		flowing.Go(func() {
			_, err := writeTo(s, io.Discard)
			require.NoError(t, err)
		})
		for range 50 {
			for _, e := range []*End{c, s} {
				taken := tap.New(1 << 20)
				_, _, err := e.Capture(taken)
				require.NoError(t, err)
				_, _, err = e.Capture(tap.New(1))
				require.Equal(t, syscall.EBUSY, err)
				for range 20 {
					block, ok := taken.Next()
					require.True(t, ok)
					for len(block) > 0 {
						r, rest, err := tap.Cut(block)
						require.NoError(t, err)
						require.True(t, bytes.Equal(pattern.Pattern(0).Bytes(int64(r.Pos), len(r.Data)), r.Data))
						block = rest
					}
				}
				e.EndCapture(taken)
				taken.Close()
			}
		}
		close(stop)
		flowing.Wait()
		require.Zero(t, c.state.Load()&captured)
	})
}

// TestCaptureWaits has a goroutine wait at an end that is captured, for data and for space: it sleeps.
func TestCaptureWaits(t *testing.T) {
	c, s := connectAlone(t)
	captureEnd(t, c)
	asleep := func(kind func(Status) Flow) {
		awaitStatus(t, c, func(s Status) bool { return kind(s).Asleep && kind(s).Sleep > 10*time.Millisecond })
	}
	var waiting sync.WaitGroup
	waiting.Go(func() { c.Read(make([]byte, 1)) })
	asleep(func(s Status) Flow { return s.Recv })
	waiting.Go(func() { c.Write(make([]byte, 1<<20)) })
	asleep(func(s Status) Flow { return s.Send })
	require.NoError(t, s.Close())
	waiting.Wait()
}

// TestCaptureRefused has ends that can't be captured.
func TestCaptureRefused(t *testing.T) {
	c, _ := connectAlone(t)
	require.NoError(t, c.Close())
	_, _, err := c.Capture(tap.New(1))
	require.Equal(t, syscall.ESRCH, err)
	synctest.Test(t, func(t *testing.T) {
		c, _ := connectAlone(t)
		_, _, err := c.Capture(tap.New(1))
		require.ErrorIs(t, err, syscall.EOPNOTSUPP)
	})
}
