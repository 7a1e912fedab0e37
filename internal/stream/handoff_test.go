package stream

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waitsFor waits until a Read has offered its buffer.
func (h *handoff) waitsFor(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return h.state.Load() == offerMade }, 10*time.Second, time.Millisecond)
}

// TestHandoff copies from a Write into the buffer of a Read that waits, as much as fits, and the
// rest into the fifo.
func TestHandoff(t *testing.T) {
	c, s := connectAlone(t)
	data := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{}).Read(data)
	for range 3 {
		got := make([]byte, len(data))
		read := make(chan int)
		go func() {
			n, _ := s.Read(got[:60_000])
			read <- n
		}()
		s.peer.(*jointPeer).in.waitsFor(t)
		n, err := c.Write(data)
		require.NoError(t, err)
		require.Equal(t, len(data), n)
		require.Equal(t, 60_000, <-read)
		require.Equal(t, 40_000, c.tx.Queued())
		_, err = io.ReadFull(s, got[60_000:])
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
	}
}

// TestHandoffEnds ends a Read that has offered its buffer, for each reason. Afterwards the buffer
// is the caller's again: nothing writes to it any more.
func TestHandoffEnds(t *testing.T) {
	for name, end := range map[string]struct {
		end func(c, s *End) error
		err error
	}{
		"deadline":   {func(c, s *End) error { return s.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"Close":      {func(c, s *End) error { return s.Close() }, net.ErrClosed},
		"CloseRead":  {func(c, s *End) error { return s.CloseRead() }, io.EOF},
		"peer":       {func(c, s *End) error { return c.Close() }, io.EOF},
		"CloseWrite": {func(c, s *End) error { return c.CloseWrite() }, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := connectAlone(t)
			got := make([]byte, 1<<16)
			read := make(chan error)
			go func() {
				_, err := s.Read(got)
				read <- err
			}()
			in := s.peer.(*jointPeer).in
			in.waitsFor(t)
			require.NoError(t, end.end(c, s))
			require.ErrorIs(t, <-read, end.err)
			require.EqualValues(t, offerNone, in.state.Load())
			require.Nil(t, in.buf)
			c.Write(bytes.Repeat([]byte("x"), 1<<16))
			require.Equal(t, make([]byte, 1<<16), got)
		})
	}
}

// TestHandoffStress has reads and writes of all sizes, and deadlines that pass at any
// moment: every byte arrives once, and in order.
func TestHandoffStress(t *testing.T) {
	c, s := connectAlone(t)
	const total = 64 << 20
	source := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), total) }
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	sizes := [2]*rand.Rand{rand.New(rand.NewPCG(rnd.Uint64(), 0)), rand.New(rand.NewPCG(rnd.Uint64(), 0))}
	wrote := make(chan error)
	go func() {
		r := source()
		b := make([]byte, 1<<18)
		for {
			n, err := io.ReadFull(r, b[:1+sizes[0].IntN(len(b)>>sizes[0].IntN(12))])
			for at := 0; at < n; {
				var m int
				var werr error
				m, werr = c.Write(b[at:n])
				if at += m; werr != nil && !os.IsTimeout(werr) {
					wrote <- werr
					return
				}
				if werr != nil {
					c.SetWriteDeadline(time.Time{})
				}
			}
			if err != nil {
				wrote <- c.CloseWrite()
				return
			}
		}
	}()
	stop := make(chan struct{})
	expired := make(chan struct{})
	go func() {
		defer close(expired)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
			}
			s.SetReadDeadline(time.Unix(1, 0))
			c.SetWriteDeadline(time.Unix(1, 0))
		}
	}()
	want := source()
	expect := make([]byte, 1<<18)
	got := make([]byte, 1<<18)
	read := 0
	for {
		n, err := s.Read(got[:1+sizes[1].IntN(len(got)>>sizes[1].IntN(12))])
		_, rerr := io.ReadFull(want, expect[:n])
		require.NoError(t, rerr)
		require.True(t, bytes.Equal(expect[:n], got[:n]), "after %d bytes", read)
		read += n
		if err == io.EOF {
			break
		}
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			s.SetReadDeadline(time.Time{})
		}
	}
	close(stop)
	<-expired
	require.NoError(t, <-wrote)
	require.Equal(t, total, read)
}
