package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A socketConn is a connection with a descriptor.
type socketConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// eachSocket runs a test on connections of package net's and of ctnet's, which have to pass it
// alike.
func eachSocket(t *testing.T, test func(t *testing.T, c, s socketConn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run("net "+network, func(t *testing.T) {
			ln, err := net.Listen(network, kernelNetworks(t)[network])
			require.NoError(t, err)
			defer ln.Close()
			c, err := net.Dial(network, ln.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			test(t, c.(socketConn), s.(socketConn))
		})
	}
	eachCutSocket(t, test)
}

// eachCutSocket is eachSocket for connections through shared memory.
func eachCutSocket(t *testing.T, test func(t *testing.T, c, s socketConn)) {
	for _, network := range []string{"tcp", "unix", "ct"} {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server, ReadBuffer: 64 << 10, WriteBuffer: 64 << 10}
				address := kernelNetworks(t)[network]
				if network == "ct" {
					address = t.Name()
				}
				ln, err := lc.Listen(t.Context(), network, address)
				require.NoError(t, err)
				defer ln.Close()
				d := ctnet.Dialer{App: client}
				if network != "ct" {
					d.Path = ctnet.CutThrough
				}
				c, err := d.Dial(network, ln.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				s, err := ln.Accept()
				require.NoError(t, err)
				defer s.Close()
				test(t, c.(socketConn), s.(socketConn))
			})
		})
	}
}

func rawOf(t testing.TB, c syscall.Conn) syscall.RawConn {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	return raw
}

var errUnexpectedRead = errors.New("unexpected read from socket")

// connCheck is what go-sql-driver/mysql does before it uses a connection again.
func connCheck(raw syscall.RawConn) error {
	var sysErr error
	err := raw.Read(func(fd uintptr) bool {
		var buf [1]byte
		n, err := syscall.Read(int(fd), buf[:])
		switch {
		case n == 0 && err == nil:
			sysErr = io.EOF
		case n > 0:
			sysErr = errUnexpectedRead
		case err == syscall.EAGAIN || err == syscall.EWOULDBLOCK:
			sysErr = nil
		default:
			sysErr = err
		}
		return true
	})
	if err != nil {
		return err
	}
	return sysErr
}

// peek is what go-redis and thrift do: it returns what recv has seen, without reading it.
func peek(t testing.TB, raw syscall.RawConn, n int) (b []byte, sysErr error) {
	t.Helper()
	require.NoError(t, raw.Read(func(fd uintptr) bool {
		b = make([]byte, n)
		n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		b, sysErr = b[:max(n, 0)], err
		return true
	}))
	return b, sysErr
}

// awaitReadable waits until a peek finds bytes or an end, which takes time on the kernel's sockets.
func awaitReadable(t testing.TB, raw syscall.RawConn) {
	t.Helper()
	harness.Eventually(t, func() bool {
		_, err := peek(t, raw, 1)
		return err != syscall.EAGAIN
	})
}

// TestRawCheck looks whether a connection is open, as the pools of database drivers do: one that is
// idle, that has bytes, that the peer has closed or reset, and that was closed here.
func TestRawCheck(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		for range 3 {
			require.NoError(t, connCheck(raw))
		}
		writeString(t, s, "hello")
		awaitReadable(t, raw)
		require.Equal(t, errUnexpectedRead, connCheck(raw)) // and it has read the first
		readString(t, c, "ello")
		require.NoError(t, connCheck(raw))
		writeString(t, c, "to the server")
		readString(t, s, "to the server")
		writeString(t, s, "last")
		require.NoError(t, s.Close())
		awaitReadable(t, raw)
		readString(t, c, "last")
		harness.Eventually(t, func() bool { return connCheck(raw) != nil })
		for range 3 {
			require.Equal(t, io.EOF, connCheck(raw))
		}
		_, err := c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
		requireOpError(t, connCheck(raw), "raw-read", net.ErrClosed, c.LocalAddr(), c.RemoteAddr())
		requireOpError(t, raw.Control(func(uintptr) { t.Error("called") }), "raw-control", net.ErrClosed, nil, c.LocalAddr())
	})
}

// requireOpError requires that an error is what package net returns of raw calls.
func requireOpError(t testing.TB, err error, op string, is error, source, addr net.Addr) {
	t.Helper()
	var e *net.OpError
	require.ErrorAs(t, err, &e)
	require.Equal(t, op, e.Op)
	require.Equal(t, is, e.Err)
	require.Equal(t, source, e.Source)
	require.Equal(t, addr, e.Addr)
	require.Equal(t, addr.Network(), e.Net)
}

// TestRawReset has the peer close with bytes unread. The descriptor says ECONNRESET once, and then
// that it is at its end, as a socket's does.
func TestRawReset(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		require.NoError(t, connCheck(raw))
		writeString(t, c, "never read")
		if _, ok := s.(*ctnet.Conn); !ok {
			awaitReadable(t, rawOf(t, s))
		}
		require.NoError(t, s.Close())
		var err error
		harness.Eventually(t, func() bool { err = connCheck(raw); return err != nil })
		require.Equal(t, syscall.ECONNRESET, err)
		require.Equal(t, io.EOF, connCheck(raw))
	})
}

// TestRawPeek peeks: nothing is lost by that, nor by a raw read of a part.
func TestRawPeek(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		_, err := peek(t, raw, 1)
		require.Equal(t, syscall.EAGAIN, err)
		writeString(t, s, "hello, world")
		awaitReadable(t, raw)
		for range 3 {
			b, err := peek(t, raw, 5)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b))
		}
		require.NoError(t, raw.Read(func(fd uintptr) bool {
			for _, want := range []string{"hel", "lo,"} {
				b := make([]byte, 3)
				n, err := syscall.Read(int(fd), b)
				require.NoError(t, err)
				require.Equal(t, want, string(b[:n]))
			}
			return true
		}))
		readString(t, c, " world")
		require.NoError(t, s.CloseWrite())
		awaitReadable(t, raw)
		b, err := peek(t, raw, 1)
		require.NoError(t, err)
		require.Empty(t, b)
		writeString(t, c, "still open")
		readString(t, s, "still open")
	})
}

// TestRawPeekAround peeks at bytes that lie around the end of the fifo's ring, which has 4 KiB.
func TestRawPeekAround(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		all := make([]byte, 100_000)
		rand.NewChaCha8([32]byte{3}).Read(all)
		wrote, read := 0, 0
		for wrote+700 < len(all) {
			n, err := s.Write(all[wrote : wrote+700])
			require.NoError(t, err)
			wrote += n
			var b []byte
			harness.Eventually(t, func() bool { // a socket's bytes take time
				b, err = peek(t, raw, 10_000)
				return len(b) == wrote-read
			})
			require.NoError(t, err)
			require.True(t, string(all[read:wrote]) == string(b))
			n, err = io.ReadFull(c, b[:len(b)-100]) // the ring is never empty
			require.NoError(t, err)
			read += n
		}
	})
}

// TestRawCloseRead ends reading. Once a raw call has shown that, nothing that the peer writes is read.
func TestRawCloseRead(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		for _, end := range []socketConn{c, s} { // by a raw Read, and by Control
			other := map[socketConn]socketConn{c: s, s: c}[end]
			writeString(t, other, "before")
			require.NoError(t, end.(*ctnet.Conn).CloseRead())
			readString(t, end, "before")
			if end == c {
				require.Equal(t, io.EOF, connCheck(rawOf(t, end)))
			} else {
				require.NoError(t, rawOf(t, end).Control(func(fd uintptr) { require.NotZero(t, poll(t, fd)&unix.POLLHUP) }))
			}
			writeString(t, other, "after")
			require.Equal(t, io.EOF, connCheck(rawOf(t, end)))
			_, err := end.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		}
	})
}

// TestRawLarge reads by raw calls more than the descriptor holds at a time, and more than the
// fifo does: bytes wrap around the fifo's end.
func TestRawLarge(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		const size = 1 << 20
		want := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(want)
		wrote := make(chan error, 1)
		go func() {
			_, err := s.Write(want)
			wrote <- errors.Join(err, s.CloseWrite())
		}()
		got, b := make([]byte, 0, size), make([]byte, 70_001)
		raw := rawOf(t, c)
		for {
			n, err := -1, error(nil)
			require.NoError(t, raw.Read(func(fd uintptr) bool {
				n, err = syscall.Read(int(fd), b)
				return err != syscall.EAGAIN
			}))
			require.NoError(t, err)
			if n == 0 {
				break
			}
			got = append(got, b[:n]...)
		}
		require.NoError(t, <-wrote)
		require.True(t, string(want) == string(got))
	})
}

// TestRawReadAll has one raw call read all: its function takes all that is there and asks for more,
// until the end.
func TestRawReadAll(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		want := make([]byte, 300_000)
		rand.NewChaCha8([32]byte{2}).Read(want)
		wrote := make(chan error, 1)
		go func() {
			_, err := s.Write(want)
			wrote <- errors.Join(err, s.Close())
		}()
		var got []byte
		b := make([]byte, 10_000)
		require.NoError(t, rawOf(t, c).Read(func(fd uintptr) bool {
			for {
				n, err := syscall.Read(int(fd), b)
				if err == syscall.EAGAIN {
					return false
				}
				require.NoError(t, err)
				if n == 0 {
					return true
				}
				got = append(got, b[:n]...)
			}
		}))
		require.NoError(t, <-wrote)
		require.True(t, string(want) == string(got))
	})
}

// TestRawMoreThanFits has one raw call read what is there already, which is more than the descriptor
// holds at a time.
func TestRawMoreThanFits(t *testing.T) {
	overPair(t, 1<<20, func(t *testing.T, c, s *ctnet.Conn) {
		require.NoError(t, c.SetDeadline(time.Now().Add(leakcheck.Patience)))
		want := make([]byte, 300_000)
		rand.NewChaCha8([32]byte{4}).Read(want)
		_, err := s.Write(want)
		require.NoError(t, err)
		var got []byte
		b := make([]byte, len(want))
		require.NoError(t, rawOf(t, c).Read(func(fd uintptr) bool {
			n, err := syscall.Read(int(fd), b)
			require.NoError(t, err)
			got = append(got, b[:n]...)
			return len(got) == len(want)
		}))
		require.True(t, string(want) == string(got))
	})
}

// TestRawPeekTooMuch has a function that wants to see more than the descriptor holds. It is called
// again when more has come, and not all the time.
func TestRawPeekTooMuch(t *testing.T) {
	overPair(t, 1<<20, func(t *testing.T, c, s *ctnet.Conn) {
		_, err := s.Write(make([]byte, 100_000))
		require.NoError(t, err)
		var calls atomic.Int32
		done := make(chan error, 1)
		go func() { done <- rawOf(t, c).Read(func(fd uintptr) bool { calls.Add(1); return false }) }()
		for i := range int32(3) {
			harness.Eventually(t, func() bool { return calls.Load() > i })
			writeString(t, s, "more")
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
		require.LessOrEqual(t, calls.Load(), int32(4))
	})
}

// TestRawWaitsForMore peeks until there is enough: the function is called again when more bytes have
// come, and not before.
func TestRawWaitsForMore(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		var calls atomic.Int32
		var seen []byte
		done := make(chan error, 1)
		raw := rawOf(t, c)
		go func() {
			done <- raw.Read(func(fd uintptr) bool {
				calls.Add(1)
				b := make([]byte, 8)
				n, _, _ := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK)
				seen = b[:max(n, 0)]
				return n == len(b)
			})
		}()
		for i, part := range []string{"abc", "def", "ghi"} {
			harness.Eventually(t, func() bool { return calls.Load() >= int32(i+1) })
			writeString(t, s, part)
		}
		require.NoError(t, <-done)
		require.Equal(t, "abcdefgh", string(seen))
		require.LessOrEqual(t, calls.Load(), int32(5))
		readString(t, c, "abcdefghi")
	})
}

// TestRawWaitEnds ends a raw Read that waits, by a deadline, by Close and by the peer's close.
func TestRawWaitEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, c, s socketConn) error
		want error
	}{
		{"deadline", func(t *testing.T, c, s socketConn) error {
			return c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		}, os.ErrDeadlineExceeded},
		{"Close", func(t *testing.T, c, s socketConn) error { return c.Close() }, net.ErrClosed},
		{"the peer's Close", func(t *testing.T, c, s socketConn) error { return s.Close() }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachSocket(t, func(t *testing.T, c, s socketConn) {
				raw := rawOf(t, c)
				started, done := make(chan struct{}, 100), make(chan error, 1)
				go func() {
					done <- raw.Read(func(fd uintptr) bool {
						started <- struct{}{}
						_, err := syscall.Read(int(fd), make([]byte, 1))
						return err != syscall.EAGAIN
					})
				}()
				<-started
				require.NoError(t, tc.end(t, c, s))
				select {
				case err := <-done:
					if tc.want == nil {
						require.NoError(t, err)
					} else {
						requireOpError(t, err, "raw-read", tc.want, c.LocalAddr(), c.RemoteAddr())
					}
				case <-time.After(leakcheck.Patience):
					t.Fatal("it still waits")
				}
				if tc.want == os.ErrDeadlineExceeded {
					err := raw.Read(func(uintptr) bool { t.Error("called"); return true })
					requireOpError(t, err, "raw-read", tc.want, c.LocalAddr(), c.RemoteAddr())
					require.NoError(t, c.SetReadDeadline(time.Time{}))
					require.NoError(t, connCheck(raw))
				}
			})
		})
	}
}

// TestRawAtTheEnd has a function that wants more after the end. There is no more, so it is not called
// again: it waits for the deadline.
func TestRawAtTheEnd(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		require.NoError(t, s.Close())
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
		calls := 0
		err := rawOf(t, c).Read(func(uintptr) bool { calls++; return false })
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 1, calls)
		calls = 0
		err = rawOf(t, c).Write(func(uintptr) bool { calls++; return false })
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.LessOrEqual(t, calls, 1)
	})
}

// poll returns what there is for a moment of POLLIN, POLLRDHUP and POLLHUP.
func poll(t testing.TB, fd uintptr) int16 {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	require.NoError(t, err)
	return fds[0].Revents
}

// TestRawPoll polls the descriptor in the function of a raw Read.
func TestRawPoll(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		look := func() (seen int16) {
			require.NoError(t, raw.Read(func(fd uintptr) bool { seen = poll(t, fd); return true }))
			return seen
		}
		require.Zero(t, look())
		writeString(t, s, "x")
		awaitReadable(t, raw)
		require.EqualValues(t, unix.POLLIN, look())
		readString(t, c, "x")
		require.Zero(t, look())
		require.NoError(t, s.Close())
		harness.Eventually(t, func() bool { return look()&(unix.POLLIN|unix.POLLRDHUP) == unix.POLLIN|unix.POLLRDHUP })
	})
}

// TestRawControl looks at the descriptor in Control, while nobody reads and while somebody does:
// of ctnet's it shows no bytes, and the end only after the last byte was read.
func TestRawControl(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		var kept uintptr
		look := func() (seen int16) {
			require.NoError(t, raw.Control(func(fd uintptr) { kept, seen = fd, poll(t, fd) }))
			return seen
		}
		require.Zero(t, look())
		writeString(t, s, "x")
		require.Zero(t, look())
		require.NoError(t, s.Close())
		require.Zero(t, look()) // a Read would return x
		require.NoError(t, raw.Read(func(fd uintptr) bool { require.Equal(t, kept, fd); return true }))
		readString(t, c, "x")
		for range 2 {
			require.EqualValues(t, unix.POLLIN|unix.POLLRDHUP|unix.POLLHUP, look())
			require.EqualValues(t, unix.POLLIN|unix.POLLRDHUP|unix.POLLHUP, poll(t, kept))
		}
		require.Equal(t, io.EOF, connCheck(raw))
		_, err := c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

// TestRawControlDoesNotWait calls Control while another goroutine reads, and while the deadline has
// passed.
func TestRawControlDoesNotWait(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw, called := rawOf(t, c), 0
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		for range 100 {
			require.NoError(t, raw.Control(func(uintptr) { called++ }))
			runtime.Gosched()
		}
		require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-read, os.ErrDeadlineExceeded)
		require.NoError(t, raw.Control(func(uintptr) { called++ }))
		require.Equal(t, 101, called)
	})
}

// TestRawControlInside reads and closes in the function of Control: it holds no lock.
func TestRawControlInside(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		writeString(t, s, "hello")
		require.NoError(t, c.SetDeadline(time.Now().Add(leakcheck.Patience)))
		require.NoError(t, rawOf(t, c).Control(func(uintptr) {
			readString(t, c, "hello")
			writeString(t, c, "world")
		}))
		readString(t, s, "world")
	})
}

// TestRawWrite has functions of a raw Write: a write fails with EPIPE, and one that returns
// false is called again when there is room or the peer has closed.
func TestRawWrite(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		require.NoError(t, raw.Write(func(fd uintptr) bool {
			_, err := syscall.Write(int(fd), []byte("x"))
			require.Equal(t, syscall.EPIPE, err)
			return true
		}))
		writeString(t, c, "by Write")
		readString(t, s, "by Write")

		// It is full, up to the peer's reading all.
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		filled, err := io.Copy(c, zeros{})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		again := make(chan error, 1)
		calls := make(chan int, 10)
		wait := func(raw syscall.RawConn) {
			n := 0
			again <- raw.Write(func(uintptr) bool { n++; calls <- n; return n == 2 })
		}
		go wait(raw)
		require.Equal(t, 1, <-calls)
		_, err = io.CopyN(io.Discard, s, filled)
		require.NoError(t, err)
		require.NoError(t, <-again)
		require.Equal(t, 2, <-calls)

		// There is room, and the peer closes.
		go wait(raw)
		require.Equal(t, 1, <-calls)
		require.NoError(t, s.Close())
		select {
		case err := <-again:
			require.NoError(t, err)
		case <-time.After(leakcheck.Patience):
			t.Fatal("it did not notice that the peer has closed")
		}
		require.Equal(t, 2, <-calls)

		// Nothing more can happen.
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
		n := 0
		err = raw.Write(func(uintptr) bool { n++; return false })
		requireOpError(t, err, "raw-write", os.ErrDeadlineExceeded, c.LocalAddr(), c.RemoteAddr())
		require.Equal(t, 1, n)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		go func() { again <- raw.Write(func(uintptr) bool { calls <- 1; return false }) }()
		<-calls
		require.NoError(t, c.Close())
		requireOpError(t, <-again, "raw-write", net.ErrClosed, c.LocalAddr(), c.RemoteAddr())
	})
}

// TestRawWriteCloseWrite calls CloseWrite while a raw Write waits: the peer learns of it.
func TestRawWriteCloseWrite(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		calls, done := make(chan bool, 10), make(chan error, 1)
		go func() { done <- rawOf(t, c).Write(func(uintptr) bool { calls <- true; return false }) }()
		<-calls
		require.NoError(t, c.CloseWrite())
		_, err := s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		<-calls // it is told too
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
	})
}

// TestRawBesideRead has goroutines read by Read, by raw calls that take all they see, a part or
// nothing, and look by Control. Each word is read by exactly one.
func TestRawBesideRead(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		words := harness.Long(100_000, 2_000_000)
		go func() {
			b := make([]byte, 0, 8<<10)
			for i := 0; i < words; {
				b = b[:0]
				for range min(1+rand.IntN(2000), words-i) {
					b = binary.LittleEndian.AppendUint32(b, uint32(i))
					i++
				}
				s.Write(b)
			}
			s.Close()
		}()
		seen := make([]atomic.Uint32, words)
		var wg sync.WaitGroup
		note := func(b []byte) {
			require.Zero(t, len(b)%4)
			for ; len(b) > 0; b = b[4:] {
				seen[binary.LittleEndian.Uint32(b)].Add(1)
			}
		}
		for range 2 {
			wg.Go(func() {
				for b := make([]byte, 10_000); ; {
					n, err := c.Read(b)
					note(b[:n])
					if err != nil {
						require.Equal(t, io.EOF, err)
						return
					}
				}
			})
			wg.Go(func() {
				b := make([]byte, 100_000)
				for end := false; !end; {
					require.NoError(t, rawOf(t, c).Read(func(fd uintptr) bool {
						n, err := syscall.Read(int(fd), b[:4*(1+rand.IntN(len(b)/4))])
						if err == syscall.EAGAIN {
							return false
						}
						require.NoError(t, err)
						note(b[:n])
						end = n == 0
						return true
					}))
				}
			})
			wg.Go(func() {
				for end := false; !end; {
					require.NoError(t, rawOf(t, c).Read(func(fd uintptr) bool {
						n, _, err := syscall.Recvfrom(int(fd), make([]byte, 400), syscall.MSG_PEEK)
						end = n == 0 && err == nil
						return true
					}))
					// It has bytes only while a raw Read runs, and then they are the stream's too.
					require.NoError(t, rawOf(t, c).Control(func(fd uintptr) {
						b := make([]byte, 4*(1+rand.IntN(2000)))
						n, _ := syscall.Read(int(fd), b)
						note(b[:max(n, 0)])
					}))
					runtime.Gosched()
				}
			})
		}
		harness.RequireWithin(t, time.Minute, harness.AllDone(&wg), "reading")
		for i := range seen {
			require.EqualValues(t, 1, seen[i].Load(), "word %d", i)
		}
	})
}

// TestRawCloseMeanwhile closes connections while raw calls of all kinds run. Nothing is left.
func TestRawCloseMeanwhile(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		c, s := connectTo(t, ln, client)
		c.Close()
		s.Close()
		before := leakcheck.Now()
		for range harness.Long(200, 20_000) {
			c, s := connectTo(t, ln, client)
			raw := rawOf(t, c)
			var wg sync.WaitGroup
			call := func(err error) bool {
				if err != nil {
					require.ErrorIs(t, err, net.ErrClosed)
				}
				return err == nil
			}
			wg.Go(func() {
				for call(raw.Control(func(uintptr) {})) {
				}
			})
			wg.Go(func() {
				call(raw.Read(func(fd uintptr) bool {
					_, err := syscall.Read(int(fd), make([]byte, 1))
					return err != syscall.EAGAIN
				}))
			})
			wg.Go(func() { call(raw.Write(func(fd uintptr) bool { return false })) })
			if rand.IntN(2) == 0 {
				runtime.Gosched()
			}
			require.NoError(t, c.Close())
			wg.Wait()
			require.NoError(t, s.Close())
		}
		leakcheck.RequireBack(t, before)
	})
}

// TestRawDescriptors counts descriptors: a connection has none before the first raw call, two after
// many, and none after Close, also if bytes were left in it and if its end was seen. Meanwhile
// descriptors of earlier connections may be closed.
func TestRawDescriptors(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		before := harness.FDs(t, os.Getpid())
		most := func(n int) {
			t.Helper()
			require.LessOrEqual(t, harness.FDs(t, os.Getpid()), before+n)
		}
		// of returns what the descriptor is.
		of := func(fd uintptr) string {
			link, _ := os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
			return link
		}
		raw := rawOf(t, c)
		most(0)
		writeString(t, s, "left")
		_, err := peek(t, raw, 1)
		require.NoError(t, err)
		most(2)
		var fd uintptr
		_, err = peek(t, rawOf(t, c), 1)
		require.NoError(t, err)
		require.NoError(t, rawOf(t, c).Control(func(it uintptr) { fd = it }))
		socket := of(fd)
		require.Contains(t, socket, "socket:")
		most(2)
		require.NoError(t, c.Close())
		require.NotEqual(t, socket, of(fd))
		most(0)
		require.Equal(t, syscall.ECONNRESET, connCheck(rawOf(t, s)))
		most(2)
		require.NoError(t, s.Close())
		most(0)
	})
}

// TestRawPanic has a function panic after it has read a part. The rest is still there.
func TestRawPanic(t *testing.T) {
	eachSocket(t, func(t *testing.T, c, s socketConn) {
		raw := rawOf(t, c)
		writeString(t, s, "hello")
		awaitReadable(t, raw)
		require.PanicsWithValue(t, "of the program", func() {
			raw.Read(func(fd uintptr) bool {
				syscall.Read(int(fd), make([]byte, 2))
				panic("of the program")
			})
		})
		require.PanicsWithValue(t, "of the program", func() { raw.Write(func(fd uintptr) bool { panic("of the program") }) })
		b, err := peek(t, raw, 10)
		require.NoError(t, err)
		require.Equal(t, "llo", string(b))
		readString(t, c, "llo")
		writeString(t, c, "writes")
		readString(t, s, "writes")
	})
}

// TestRawFile asks for a file, which there is none.
func TestRawFile(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		f, err := c.(interface{ File() (*os.File, error) }).File()
		require.Nil(t, f)
		require.ErrorIs(t, err, syscall.EOPNOTSUPP)
		var e *net.OpError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "file", e.Op)
	})
}

// TestRawCredentials asks the descriptor for the peer's credentials, as on a unix socket.
func TestRawCredentials(t *testing.T) {
	eachCutSocket(t, func(t *testing.T, c, s socketConn) {
		require.NoError(t, rawOf(t, c).Control(func(fd uintptr) {
			cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
			require.NoError(t, err)
			peer := c.(*ctnet.Conn).PeerCred()
			require.Equal(t, peer, ctnet.Cred{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)})
		}))
	})
}

// TestRawProcess looks at a connection to another process, which echoes, and is killed.
func TestRawProcess(t *testing.T) {
	for _, network := range []string{"ct", "tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := t.Name()
			switch network {
			case "tcp":
				address = "127.0.0.1:0"
			case "unix":
				address = filepath.Join(t.TempDir(), "s")
			}
			cmd, address := startProcessOn(t, "echo", network, address, "")
			d := ctnet.Dialer{App: harness.NewApp(t)}
			c, err := d.Dial(network, address)
			require.NoError(t, err)
			defer c.Close()
			require.True(t, harness.IsCut(c))
			raw := rawOf(t, c.(socketConn))
			for range 100 {
				require.NoError(t, connCheck(raw))
				writeString(t, c, "hello")
				awaitReadable(t, raw)
				b, err := peek(t, raw, 10)
				require.NoError(t, err)
				require.Equal(t, "hello"[:len(b)], string(b))
				readString(t, c, "hello")
			}
			waiting, done := make(chan bool, 10), make(chan error, 1)
			var sysErr error
			go func() {
				done <- raw.Read(func(fd uintptr) bool {
					waiting <- true
					_, sysErr = syscall.Read(int(fd), make([]byte, 1))
					return sysErr != syscall.EAGAIN
				})
			}()
			<-waiting
			require.NoError(t, cmd.Process.Kill())
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(leakcheck.Patience):
				t.Fatal("it still waits")
			}
			require.Equal(t, syscall.ECONNRESET, sysErr)
		})
	}
}

// TestRawInBubble makes raw calls in a bubble. A goroutine that waits in one is durably blocked.
func TestRawInBubble(t *testing.T) {
	a := harness.NewApp(t)
	synctest.Test(t, func(t *testing.T) {
		ln := listenOn(t, ctnet.ListenConfig{App: a})
		c, s := connectTo(t, ln, a)
		raw := rawOf(t, c)
		require.NoError(t, connCheck(raw))
		start := time.Now()
		go func() {
			time.Sleep(time.Hour)
			writeString(t, s, "x")
		}()
		require.NoError(t, raw.Read(func(fd uintptr) bool {
			_, err := syscall.Read(int(fd), make([]byte, 1))
			return err != syscall.EAGAIN
		}))
		require.Equal(t, time.Hour, time.Since(start))
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		require.ErrorIs(t, raw.Read(func(uintptr) bool { return false }), os.ErrDeadlineExceeded)
		require.ErrorIs(t, raw.Write(func(uintptr) bool { return false }), os.ErrDeadlineExceeded)
		require.Equal(t, time.Hour+time.Minute, time.Since(start))
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		require.NoError(t, ln.Close())
	})
}
