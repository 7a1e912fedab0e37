package stream

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/wait"
)

// ended reports how the stream to a connection has ended.
func ended(c *End) string {
	switch fin, reset := c.rx.Ended(); {
	case reset:
		return "reset"
	case fin:
		return "fin"
	}
	return "open"
}

// busy has f run while this end holds a lock, as a Read or Write does.
func busy(t *testing.T, c *End, kind int, f func()) {
	t.Helper()
	require.NoError(t, c.gate.lock(kind, new(wait.Deadline)))
	f()
	c.unlock(kind)
}

// TestEndWaitsForTheWriter ends the stream by each call that can while a Write is about
// to publish. What it publishes comes before the end.
func TestEndWaitsForTheWriter(t *testing.T) {
	publish := func(c *End) error {
		_, err := c.tx.Write([]byte("last"))
		return err
	}
	for _, tc := range []struct {
		name string
		end  func(c, s *End) error
		want string
		err  error // of the reader, after the bytes
	}{
		{"CloseWrite", func(c, s *End) error { return c.CloseWrite() }, "fin", io.EOF},
		{"Close", func(c, s *End) error { return c.Close() }, "fin", io.EOF},
		{"both", func(c, s *End) error { return errors.Join(c.CloseWrite(), c.Close()) }, "fin", io.EOF},
		{"Close with bytes unread", func(c, s *End) error {
			_, err := s.Write([]byte("unread"))
			return errors.Join(err, c.Close())
		}, "reset", syscall.ECONNRESET},
		{"SetLinger", func(c, s *End) error { return errors.Join(c.SetLinger(true), c.Close()) }, "reset", syscall.ECONNRESET},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := connectAlone(t)
			busy(t, c, writing, func() {
				require.NoError(t, tc.end(c, s))
				require.Equal(t, "open", ended(s))
				require.NoError(t, publish(c))
			})
			require.Equal(t, tc.want, ended(s))
			b := make([]byte, 10)
			n, err := s.Read(b)
			require.NoError(t, err)
			require.Equal(t, "last", string(b[:n]))
			_, err = s.Read(b)
			require.ErrorIs(t, err, tc.err)
		})
	}
}

// TestEndWaitsForTheReader closes an end while a Read is about to read the bytes in the fifo. The
// Read decides whether bytes are unread, when it leaves.
func TestEndWaitsForTheReader(t *testing.T) {
	for _, want := range []string{"fin", "reset"} {
		c, s := connectAlone(t)
		_, err := s.Write([]byte("bytes"))
		require.NoError(t, err)
		busy(t, c, reading, func() {
			require.NoError(t, c.Close())
			require.Equal(t, "open", ended(s))
			n := 5
			if want == "reset" {
				n--
			}
			n, err := c.rx.Read(make([]byte, n))
			require.NoError(t, err)
			require.NotZero(t, n)
		})
		require.Equal(t, want, ended(s))
	}
	// If there is nothing to read, Close does not wait for the Read.
	c, s := connectAlone(t)
	busy(t, c, reading, func() {
		require.NoError(t, c.Close())
		require.Equal(t, "fin", ended(s))
	})
}

// A stopped reader or writer stays in code of others until it is told to go on.
type stopped struct {
	called, goOn chan struct{}
}

func newStopped() stopped { return stopped{make(chan struct{}), make(chan struct{})} }

func (s stopped) stop() {
	close(s.called)
	<-s.goOn
}

func (s stopped) Read(b []byte) (int, error) {
	s.stop()
	return copy(b, "more"), io.EOF
}

func (s stopped) Write(b []byte) (int, error) {
	s.stop()
	return len(b), nil
}

// TestEndDoesNotWaitForOthersCode ends the stream while ReadFrom's reader, or the caller
// of Reserve, has the lock for writing. The peer is told at once, and nothing is
// published afterwards.
func TestEndDoesNotWaitForOthersCode(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*End) error
		err  error
	}{
		{"CloseWrite", (*End).CloseWrite, syscall.EPIPE},
		{"Close", (*End).Close, net.ErrClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := connectAlone(t)
			r := newStopped()
			done := make(chan error)
			go func() {
				n, err := readFrom(c, r)
				if n != 0 {
					err = errors.New("bytes were written")
				}
				done <- err
			}()
			<-r.called
			require.NoError(t, tc.end(c))
			require.Equal(t, "fin", ended(s))
			close(r.goOn)
			require.ErrorIs(t, <-done, tc.err)
			require.Zero(t, s.Buffered())

			c, s = connectAlone(t)
			b, err := c.Reserve(4)
			require.NoError(t, err)
			copy(b, "more")
			require.NoError(t, tc.end(c))
			require.Equal(t, "fin", ended(s))
			require.ErrorIs(t, c.Commit(4), tc.err)
			require.Zero(t, s.Buffered())
			require.ErrorIs(t, c.Commit(4), syscall.EINVAL)
		})
	}
}

// TestWriteToHasRead closes an end while WriteTo's writer has all bytes that have come. They
// count as read, so the connection is not reset.
func TestWriteToHasRead(t *testing.T) {
	for want, more := range map[string]string{"fin": "", "reset": "more"} {
		c, s := connectAlone(t)
		_, err := s.Write([]byte("bytes"))
		require.NoError(t, err)
		w := newStopped()
		done := make(chan error)
		go func() {
			_, err := writeTo(c, w)
			done <- err
		}()
		<-w.called
		_, err = s.Write([]byte(more))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, want, ended(s))
		close(w.goOn)
		require.ErrorIs(t, <-done, net.ErrClosed)
	}
}

// TestWriteToHasNotRead is the same with a writer that accepts only some of the bytes.
func TestWriteToHasNotRead(t *testing.T) {
	c, s := connectAlone(t)
	_, err := s.Write([]byte("bytes"))
	require.NoError(t, err)
	w := newStopped()
	done := make(chan error)
	go func() {
		_, err := writeTo(c, writerFunc(func(b []byte) (int, error) {
			w.stop()
			return 2, io.ErrShortWrite
		}))
		done <- err
	}()
	<-w.called
	require.NoError(t, c.Close())
	close(w.goOn)
	require.ErrorIs(t, <-done, io.ErrShortWrite)
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestWriteThatWasPublished closes the own end when a Write has published all: it has
// written them, as a system call would have.
func TestWriteThatWasPublished(t *testing.T) {
	c, s := connectAlone(t)
	busy(t, c, writing, func() {
		_, err := c.tx.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, c.afterWrite())
	})
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, "last", string(got))
}

// TestPeerClosesBetweenPieces has the peer close in order when a Write has published a
// part. Its error must say that this part was not read.
func TestPeerClosesBetweenPieces(t *testing.T) {
	for _, finFirst := range []bool{false, true} {
		c, s := connectAlone(t)
		if finFirst {
			require.NoError(t, s.CloseWrite())
		}
		busy(t, c, writing, func() {
			require.NoError(t, s.Close())
			_, err := c.tx.Write([]byte("a part"))
			require.NoError(t, err)
			require.Equal(t, syscall.ECONNRESET, c.beforeWrite())
		})
	}
}

// TestReadFromFullFifo asks a source that is empty, or fails, when there is no room.
func TestReadFromFullFifo(t *testing.T) {
	eachMeeting(t, 4096, func(t *testing.T, m meeting) {
		c, s := m.connect()
		_, err := c.Write(make([]byte, 4096))
		require.NoError(t, err)
		n, err := readFrom(c, strings.NewReader(""))
		require.NoError(t, err)
		require.Zero(t, n)
		_, err = readFrom(c, readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }))
		require.Equal(t, io.ErrUnexpectedEOF, err)

		// As many bytes as there is room for: then the source has ended.
		_, err = io.ReadFull(s, make([]byte, 4096))
		require.NoError(t, err)
		n, err = readFrom(c, bytes.NewReader(make([]byte, 4096)))
		require.NoError(t, err)
		require.EqualValues(t, 4096, n)

		done := make(chan error)
		go func() {
			_, err := readFrom(c, bytes.NewReader(make([]byte, 100_000)))
			done <- err
		}()
		_, err = io.ReadFull(s, make([]byte, 104_096))
		require.NoError(t, err)
		require.NoError(t, <-done)
	})
}

// TestPeerClosesAfterThePublish has the peer close when a Write has published all and not
// returned. It counts as written, and Read tells that it was lost, if it was.
func TestPeerClosesAfterThePublish(t *testing.T) {
	for _, taken := range []bool{true, false} {
		c, s := connectAlone(t)
		busy(t, c, writing, func() {
			_, err := c.tx.Write([]byte("last"))
			require.NoError(t, err)
			if taken {
				_, err := io.ReadFull(s, make([]byte, 4))
				require.NoError(t, err)
			}
			require.NoError(t, s.Close())
			require.NoError(t, c.afterWrite())
		})
		_, err := c.Read(make([]byte, 1))
		_, again := c.Write(make([]byte, 1))
		if taken {
			require.Equal(t, io.EOF, err)
			require.ErrorIs(t, again, syscall.EPIPE)
		} else {
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, again, syscall.ECONNRESET)
		}
	}
}

// TestNothingAfterTheEnd has a writer's own end closed in each way at random moments.
// The reader reads on after it has got the end, and must get the same again.
func TestNothingAfterTheEnd(t *testing.T) {
	eachMeeting(t, 256<<10, func(t *testing.T, m meeting) {
		for i := range 1000 {
			c, s := m.connect()
			if i%3 == 2 {
				_, err := s.Write([]byte("unread"))
				require.NoError(t, err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { writeSomehow(c, i) })
			wg.Go(func() {
				for range rand.IntN(100) {
					runtime.Gosched()
				}
				if i%3 == 0 {
					c.CloseWrite()
				} else {
					c.Close()
				}
			})
			_, end := writeTo(s, io.Discard)
			if end == nil {
				end = io.EOF
			}
			for range 20 {
				n, err := s.Read(make([]byte, 1000))
				require.Zero(t, n)
				require.Equal(t, end == io.EOF, err == io.EOF, "%v, then %v", end, err)
				runtime.Gosched()
			}
			wg.Wait()
			c.Close()
			s.Close()
		}
	})
}

// writeSomehow writes in one of all ways, until that fails or 60,000 bytes are written.
func writeSomehow(c *End, way int) {
	b := make([]byte, 60_000)
	switch way % 4 {
	case 0, 1:
		c.Write(b)
	case 2:
		readFrom(c, bytes.NewReader(b))
	case 3:
		for range b {
			if _, err := c.Reserve(1); err != nil || c.Commit(1) != nil {
				return
			}
		}
	}
}

// TestNothingAfterDeath publishes bytes after the control channel has ended, as happens if the
// peer's application is closed during a Write. Once a call has returned that end, no call returns
// the bytes.
func TestNothingAfterDeath(t *testing.T) {
	tell := map[string]func(s *End) error{
		"Read":    func(s *End) error { _, err := s.Read(make([]byte, 10)); return err },
		"Discard": func(s *End) error { _, err := s.Discard(1); return err },
		"WriteTo": func(s *End) error { _, err := writeTo(s, io.Discard); return err },
		"Peek":    func(s *End) error { _, err := s.Peek(1); return err },
	}
	for name, f := range tell {
		t.Run(name, func(t *testing.T) {
			c, s := connectAlone(t)
			s.PeerGone()
			require.ErrorIs(t, f(s), syscall.ECONNRESET)
			_, err := c.Write([]byte("late"))
			require.NoError(t, err)
			for name, f := range tell {
				require.ErrorIs(t, f(s), syscall.ECONNRESET, name)
			}
		})
	}
	c, s := connectAlone(t)
	_, err := c.Write([]byte("bytes"))
	require.NoError(t, err)
	s.PeerGone()
	b, err := s.Peek(10)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Equal(t, "bytes", string(b))
	_, err = c.Write([]byte("late"))
	require.NoError(t, err)
	b = make([]byte, 10)
	n, err := s.Read(b)
	require.NoError(t, err)
	require.Equal(t, "bytes", string(b[:n]))
	require.ErrorIs(t, tell["Read"](s), syscall.ECONNRESET)

	// After CloseRead too, which the peer does not notice.
	c, s = connectAlone(t)
	require.NoError(t, s.CloseRead())
	require.Equal(t, io.EOF, tell["Read"](s))
	_, err = c.Write([]byte("late"))
	require.NoError(t, err)
	require.Equal(t, io.EOF, tell["Read"](s))
}

// TestCommitIsWhole commits a buffer that wraps around the fifo's end, of more than one
// piece, while the peer closes. Either all of it was published or nothing.
func TestCommitIsWhole(t *testing.T) {
	const size = 256 << 10
	eachMeeting(t, size, func(t *testing.T, m meeting) {
		for i := range 200 {
			c, s := m.connect()
			_, err := c.Write(make([]byte, size/2+1000))
			require.NoError(t, err)
			_, err = io.ReadFull(s, make([]byte, size/2))
			require.NoError(t, err)
			b, err := c.Reserve(size / 2)
			require.NoError(t, err)
			require.NotNil(t, c.scratch)
			if i%2 == 0 {
				require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0))) // Commit doesn't wait
			}
			go func() {
				for range i % 50 {
					runtime.Gosched()
				}
				if i%4 < 2 {
					c.Close()
				} else {
					c.CloseWrite()
				}
			}()
			err = c.Commit(len(b))
			got, end := io.ReadAll(s)
			require.NoError(t, end)
			if err == nil {
				require.Equal(t, 1000+size/2, len(got))
			} else {
				require.Equal(t, 1000, len(got))
			}
			c.Close()
			s.Close()
		}
	})
}

// TestClosedAndLate has both, a deadline that has passed and Close.
func TestClosedAndLate(t *testing.T) {
	c, s := connectAlone(t)
	busy(t, c, reading, func() {
		require.NoError(t, errors.Join(c.SetReadDeadline(time.Unix(1, 0)), c.SetWriteDeadline(time.Unix(1, 0))))
		require.NoError(t, c.Close())
		require.Equal(t, readEnd{net.ErrClosed, true}, c.readEnd())
		require.Equal(t, net.ErrClosed, c.beforeWrite())
	})
	s.Close()
}

// TestWriteAfterWriteTo writes to a peer that has closed while its WriteTo had all bytes, which
// fill the fifo. Whether they were read is not known before WriteTo returns, so a Write returns
// ECONNRESET and does not wait for room.
func TestWriteAfterWriteTo(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		eachMeeting(t, 4096, func(t *testing.T, m meeting) {
			c, s := m.connect()
			c.tcp = tcp
			_, err := c.Write(make([]byte, 4096))
			require.NoError(t, err)
			w := newStopped()
			done := make(chan error)
			go func() {
				_, err := writeTo(s, w)
				done <- err
			}()
			<-w.called
			require.NoError(t, s.Close())
			_, err = c.Write([]byte("more"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = c.Reserve(1)
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = readFrom(c, strings.NewReader("more"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			close(w.goOn)
			require.ErrorIs(t, <-done, net.ErrClosed)
			_, err = readFrom(c, strings.NewReader(""))
			require.NoError(t, err)
		})
	}
}

// TestReadFromNothing calls ReadFrom with an empty source when nothing can be written any more.
// That is no error, as nothing is lost. With bytes to write it fails, and an error of the source is
// returned.
func TestReadFromNothing(t *testing.T) {
	errOwn := errors.New("own")
	for name, end := range map[string]func(c, s *End) error{
		"Close":      func(c, s *End) error { return c.Close() },
		"CloseWrite": func(c, s *End) error { return c.CloseWrite() },
		"deadline":   func(c, s *End) error { return c.SetWriteDeadline(time.Unix(1, 0)) },
		"peer":       func(c, s *End) error { return s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			for _, while := range []bool{false, true} {
				for _, result := range []error{io.EOF, errOwn, nil} {
					c, s := connectAlone(t)
					r := newStopped()
					read := func([]byte) (int, error) {
						if while {
							r.stop()
						}
						if result == nil {
							return 1, io.EOF
						}
						return 0, result
					}
					if !while {
						require.NoError(t, end(c, s))
					}
					done := make(chan error)
					go func() {
						n, err := readFrom(c, readerFunc(read))
						if n != 0 {
							t.Errorf("%d bytes", n)
						}
						done <- err
					}()
					if while {
						<-r.called
						require.NoError(t, end(c, s))
						close(r.goOn)
					}
					err := <-done
					switch result {
					case io.EOF:
						require.NoError(t, err)
					case errOwn:
						require.Equal(t, errOwn, err)
					default:
						require.Error(t, err)
						require.Zero(t, s.Buffered())
					}
				}
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestFirstWriteAfterTheEnd writes to a peer that has closed in order. On network tcp
// the first Write succeeds, as it does there, and Read tells of the loss.
func TestFirstWriteAfterTheEnd(t *testing.T) {
	lose := map[string]func(c *End) error{
		"Write": func(c *End) error {
			n, err := c.Write([]byte("lost"))
			if err == nil && n != 4 {
				return io.ErrShortWrite
			}
			return err
		},
		"ReadFrom": func(c *End) error {
			n, err := readFrom(c, strings.NewReader("lost"))
			if err == nil && n != 4 {
				return io.ErrShortWrite
			}
			return err
		},
		"Commit": func(c *End) error {
			b, err := c.Reserve(4)
			if err != nil {
				return err
			}
			return c.Commit(copy(b, "lost"))
		},
	}
	for name, write := range lose {
		for _, network := range []string{"tcp", "ct"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				c, s := connectAlone(t)
				c.tcp = network == "tcp"
				_, err := s.Write([]byte("goodbye"))
				require.NoError(t, err)
				require.NoError(t, s.Close())
				got, err := io.ReadAll(c)
				require.NoError(t, err)
				require.Equal(t, "goodbye", string(got))
				if network != "tcp" {
					require.ErrorIs(t, write(c), syscall.EPIPE)
					_, err = c.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
					return
				}
				// A Write of no bytes loses nothing.
				_, err = c.Write(nil)
				require.NoError(t, err)
				_, err = c.Reserve(1)
				require.NoError(t, err)
				require.NoError(t, c.Commit(0))
				_, err = c.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)

				require.NoError(t, write(c))
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.ErrorIs(t, write(c), syscall.EPIPE)
			})
		}
	}
	// Not after the own CloseWrite.
	c, s := connectAlone(t)
	c.tcp = true
	require.NoError(t, s.Close())
	require.NoError(t, c.CloseWrite())
	require.ErrorIs(t, lose["Write"](c), syscall.EPIPE)
	_, err := c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}

// TestReserveAgainstPeek lets the two ends wait for each other: for more bytes than there are, and
// for more room than there is. Neither may wake the other again and again.
func TestReserveAgainstPeek(t *testing.T) {
	eachMeeting(t, 4096, func(t *testing.T, m meeting) {
		c, s := m.connect()
		_, err := c.Write(make([]byte, 3000))
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			if b, err := s.Peek(4000); len(b) != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
		wg.Go(func() {
			if _, err := c.Reserve(2000); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		})
		wait := func() bool { return c.tx.ConsumerWaits() && s.rx.ProducerWaits() }
		require.Eventually(t, wait, 10*time.Second, time.Millisecond)
		for range 1000 {
			runtime.Gosched()
			require.True(t, wait(), "it looks again")
		}
		require.NoError(t, s.SetReadDeadline(time.Unix(1, 0)))
		require.Eventually(t, func() bool { return s.gate.word.Load()&gateLocked == 0 }, 10*time.Second, time.Millisecond)
		require.NoError(t, c.Close())
		wg.Wait()
	})
}

// TestReserveAny reserves any room when the fifo has one free byte.
func TestReserveAny(t *testing.T) {
	eachMeeting(t, 4096, func(t *testing.T, m meeting) {
		c, s := m.connect()
		for range 2 {
			_, err := c.Write(make([]byte, 4096-c.tx.Queued()))
			require.NoError(t, err)
			_, err = s.Read(make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(10*time.Second)))
			b, err := c.Reserve(0)
			require.NoError(t, err)
			require.Len(t, b, 1)
			require.NoError(t, c.Commit(0))
		}
	})
}

// TestBufferedWhileReading calls Buffered while a Read waits.
func TestBufferedWhileReading(t *testing.T) {
	c, s := connectAlone(t)
	busy(t, c, reading, func() {
		_, err := s.Write([]byte("bytes"))
		require.NoError(t, err)
		require.Equal(t, 5, c.Buffered())
	})
}
