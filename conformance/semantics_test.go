package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// inBoth runs a test inside one application and between two.
func inBoth(t *testing.T, f func(t *testing.T, server, client *ctnet.App)) {
	t.Run("in process", func(t *testing.T) {
		a := harness.NewApp(t)
		f(t, a, a)
	})
	t.Run("two apps", func(t *testing.T) { f(t, harness.NewApp(t), harness.NewApp(t)) })
}

// overPair runs a test on connections with fifos of this size; 0 is the default.
func overPair(t *testing.T, buffer int, f func(t *testing.T, c, s *ctnet.Conn)) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, ReadBuffer: buffer, WriteBuffer: buffer})
		c, s := connectTo(t, ln, client)
		f(t, c, s)
	})
}

func listenOn(t *testing.T, lc ctnet.ListenConfig) *ctnet.Listener {
	t.Helper()
	ln, err := lc.Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln.(*ctnet.Listener)
}

func dialConn(t *testing.T, client *ctnet.App) *ctnet.Conn {
	t.Helper()
	d := ctnet.Dialer{App: client}
	c, err := d.Dial("ct", t.Name())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*ctnet.Conn)
}

func acceptConn(t *testing.T, ln *ctnet.Listener) *ctnet.Conn {
	t.Helper()
	c, err := ln.AcceptConn()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func connectTo(t *testing.T, ln *ctnet.Listener, client *ctnet.App) (c, s *ctnet.Conn) {
	t.Helper()
	return dialConn(t, client), acceptConn(t, ln)
}

func writeString(t *testing.T, c net.Conn, s string) {
	t.Helper()
	n, err := c.Write([]byte(s))
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

func readString(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

func requireReset(t *testing.T, c *ctnet.Conn) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = c.Write([]byte("x"))
	if !errors.Is(err, syscall.EPIPE) {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

func opErrorOf(t *testing.T, err error) *net.OpError {
	t.Helper()
	require.IsType(t, &net.OpError{}, err)
	return err.(*net.OpError)
}

// A pendingDial is a Dial that is waiting, or about to.
type pendingDial struct {
	conn net.Conn
	err  error
	done chan struct{}
}

// A watchedContext tells when a goroutine waits for its end.
type watchedContext struct {
	context.Context
	once    sync.Once
	watched chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.watched) })
	return c.Context.Done()
}

// startDial dials a listener whose backlog is full, and to which the client is
// attached, and returns when the Dial waits for the answer or the context.
func startDial(t *testing.T, ctx context.Context, client *ctnet.App) *pendingDial {
	t.Helper()
	p := &pendingDial{done: make(chan struct{})}
	w := &watchedContext{Context: ctx, watched: make(chan struct{})}
	name := t.Name()
	go func() {
		defer close(p.done)
		d := ctnet.Dialer{App: client}
		p.conn, p.err = d.DialContext(w, "ct", name)
	}()
	select {
	case <-w.watched:
	case <-p.done:
		t.Fatalf("Dial did not wait: %v", p.err)
	}
	return p
}

func TestSemanticsCloseEOF(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, c, "hello")
		require.NoError(t, c.Close())
		readString(t, s, "hello")
		for range 2 {
			n, err := s.Read(make([]byte, 1))
			require.Zero(t, n)
			require.True(t, err == io.EOF, "%v", err)
		}
		_, err := s.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

func TestSemanticsCloseUnread(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, s, "unread")
		writeString(t, c, "hello")
		require.NoError(t, c.Close())
		readString(t, s, "hello")
		requireReset(t, s)
	})
}

func TestSemanticsLinger(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, c, "hello")
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.Close())
		readString(t, s, "hello")
		requireReset(t, s)
	})
}

func TestSemanticsLingerTakenBack(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.SetLinger(-1))
		require.NoError(t, c.Close())
		_, err := s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

func TestSemanticsCloseWrite(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, c, "request")
		require.NoError(t, c.CloseWrite())
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		b, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, "request", string(b))
		writeString(t, s, "reply")
		require.NoError(t, s.Close())
		b, err = io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "reply", string(b))
	})
}

func TestSemanticsCloseRead(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		got := make(chan error)
		go func() {
			got <- nil
			_, err := c.Read(make([]byte, 1))
			got <- err
		}()
		<-got
		require.NoError(t, c.CloseRead())
		require.Equal(t, io.EOF, <-got)
		writeString(t, c, "still writes")
		readString(t, s, "still writes")
	})
}

func TestSemanticsClosed(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		require.NoError(t, c.Close())
		_, readErr := c.Read(make([]byte, 1))
		_, emptyReadErr := c.Read(nil)
		_, writeErr := c.Write([]byte("x"))
		_, peekErr := c.Peek(1)
		_, reserveErr := c.Reserve(1)
		for i, err := range []error{
			c.Close(), readErr, emptyReadErr, writeErr, peekErr, reserveErr,
			c.CloseRead(), c.CloseWrite(), c.SetLinger(0),
			c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
		} {
			require.ErrorIs(t, err, net.ErrClosed, "%d", i)
			require.Equal(t, net.ErrClosed, opErrorOf(t, err).Err)
		}
	})
}

func TestSemanticsCloseUnblocksRead(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		const readers = 4
		started, got := make(chan bool), make(chan error)
		for range readers {
			go func() {
				started <- true
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
		}
		for range readers {
			<-started
		}
		require.NoError(t, c.Close())
		for range readers {
			require.ErrorIs(t, <-got, net.ErrClosed)
		}
	})
}

func TestSemanticsCloseUnblocksWrite(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		got := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 4*ctnet.MinBuffer))
			got <- err
		}()
		_, err := s.Peek(ctnet.MinBuffer) // it is full
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-got, net.ErrClosed)
		_, err = s.Discard(0) // ends the Peek
		require.NoError(t, err)
	})
}

// A closingReader closes a connection before it returns what is to be read.
type closingReader struct {
	io.Reader
	c net.Conn
}

func (r *closingReader) Read(b []byte) (int, error) {
	r.c.Close()
	return r.Reader.Read(b[:1])
}

// TestSemanticsReadFromEnd copies an empty source to a peer that has closed, as a peer may do when
// it has read everything it expects. That is no error.
func TestSemanticsReadFromEnd(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		require.NoError(t, s.Close())
		n, err := c.ReadFrom(strings.NewReader(""))
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = c.ReadFrom(strings.NewReader("something"))
		require.ErrorIs(t, err, syscall.EPIPE)
		require.Zero(t, n)
	})
}

// TestSemanticsCloseAmidReadFrom closes the peer while ReadFrom's reader returns bytes. They are
// not written any more.
func TestSemanticsCloseAmidReadFrom(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, s, "last words")
		readString(t, c, "last words")
		n, err := c.ReadFrom(&closingReader{strings.NewReader("hello"), s})
		require.Zero(t, n)
		require.ErrorIs(t, err, syscall.EPIPE)
		_, err = c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

func TestSemanticsPeerCloseUnblocksWrite(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		got := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 4*ctnet.MinBuffer))
			got <- err
		}()
		_, err := s.Peek(ctnet.MinBuffer)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-got, syscall.ECONNRESET)
		_, err = s.Discard(0) // ends the Peek
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestSemanticsZeroLength(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		n, err := c.Read(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = c.Write(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		writeString(t, c, "x")
		readString(t, s, "x")
	})
}

func TestSemanticsDeadline(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		for _, in := range []time.Duration{-time.Second, 10 * time.Millisecond} {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(in)))
			_, err := c.Read(make([]byte, 1))
			requireTimeout(t, err, "read", c)
		}
		require.NoError(t, c.SetDeadline(time.Now().Add(-time.Second)))
		_, err := c.Write([]byte("x"))
		requireTimeout(t, err, "write", c)

		require.NoError(t, c.SetDeadline(time.Time{}))
		writeString(t, c, "hello")
		readString(t, s, "hello")
		writeString(t, s, "hello")
		readString(t, c, "hello")
	})
}

func requireTimeout(t *testing.T, err error, op string, c *ctnet.Conn) {
	t.Helper()
	e := opErrorOf(t, err)
	require.Equal(t, os.ErrDeadlineExceeded, e.Err)
	require.True(t, e.Timeout())
	require.Equal(t, op, e.Op)
	require.Equal(t, "ct", e.Net)
	require.Equal(t, c.LocalAddr(), e.Source)
	require.Equal(t, c.RemoteAddr(), e.Addr)
}

func TestSemanticsWriteTimeout(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := c.Write(make([]byte, 4*ctnet.MinBuffer))
		requireTimeout(t, err, "write", c)
		require.Equal(t, ctnet.MinBuffer, n)
		require.NoError(t, c.CloseWrite())
		b, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Len(t, b, n)
	})
}

func TestSemanticsAtomicWrites(t *testing.T) {
	overPair(t, 1<<16, func(t *testing.T, c, s *ctnet.Conn) {
		const writers, blocks, size = 16, 4, 100_000
		errs := make(chan error, writers)
		for i := range writers {
			go func() {
				for range blocks {
					if _, err := c.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		var seen [writers]int
		b := make([]byte, size)
		for range writers * blocks {
			_, err := io.ReadFull(s, b)
			require.NoError(t, err)
			require.Equal(t, size, bytes.Count(b, b[:1]), "blocks mix")
			seen[b[0]]++
		}
		for i := range writers {
			require.NoError(t, <-errs)
			require.Equal(t, blocks, seen[i])
		}
	})
}

func TestSemanticsListenerCloseUnaccepted(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		c1, c2 := dialConn(t, client), dialConn(t, client)
		writeString(t, c1, "unread")
		require.NoError(t, ln.Close())
		requireReset(t, c1)
		requireReset(t, c2)
	})
}

func TestSemanticsListenerCloseRefusesPending(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
		c := dialConn(t, client)
		p := startDial(t, t.Context(), client)
		require.NoError(t, ln.Close())
		<-p.done
		require.ErrorIs(t, p.err, syscall.ECONNREFUSED)
		requireReset(t, c)
	})
}

func TestSemanticsBacklogRoom(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
		c := dialConn(t, client)
		p := startDial(t, t.Context(), client)
		s := acceptConn(t, ln)
		<-p.done
		require.NoError(t, p.err)
		defer p.conn.Close()
		s2 := acceptConn(t, ln)
		writeString(t, c, "first")
		readString(t, s, "first")
		writeString(t, p.conn, "second")
		readString(t, s2, "second")
	})
}

func TestSemanticsBacklogContext(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
		c := dialConn(t, client)

		ctx, cancel := context.WithCancel(t.Context())
		p := startDial(t, ctx, client)
		cancel()
		<-p.done
		require.ErrorIs(t, p.err, context.Canceled)
		require.False(t, opErrorOf(t, p.err).Timeout())

		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		p = startDial(t, ctx, client)
		<-p.done
		require.ErrorIs(t, p.err, os.ErrDeadlineExceeded)
		require.ErrorIs(t, p.err, context.DeadlineExceeded) // as package net's
		require.True(t, opErrorOf(t, p.err).Timeout())

		d := ctnet.Dialer{App: client, Timeout: 10 * time.Millisecond}
		_, err := d.Dial("ct", t.Name())
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		s := acceptConn(t, ln)
		writeString(t, c, "first")
		readString(t, s, "first")
	})
}

func TestSemanticsAcceptClosed(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		started, got := make(chan bool), make(chan error)
		for range 2 {
			go func() {
				started <- true
				_, err := ln.Accept()
				got <- err
			}()
		}
		<-started
		<-started
		require.NoError(t, ln.Close())
		require.ErrorIs(t, <-got, net.ErrClosed)
		require.ErrorIs(t, <-got, net.ErrClosed)
		_, err := ln.Accept()
		require.Equal(t, net.ErrClosed, opErrorOf(t, err).Err)
		require.ErrorIs(t, ln.Close(), net.ErrClosed)
		require.ErrorIs(t, ln.SetDeadline(time.Now()), net.ErrClosed)
		require.Equal(t, t.Name(), ln.Addr().String())
	})
}

func TestSemanticsListenerDeadline(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		for _, in := range []time.Duration{-time.Second, 10 * time.Millisecond} {
			require.NoError(t, ln.SetDeadline(time.Now().Add(in)))
			_, err := ln.Accept()
			e := opErrorOf(t, err)
			require.Equal(t, os.ErrDeadlineExceeded, e.Err)
			require.True(t, e.Timeout())
			require.Equal(t, "accept", e.Op)
			require.Equal(t, ln.Addr(), e.Addr)
		}
		require.NoError(t, ln.SetDeadline(time.Time{}))
		connectTo(t, ln, client)
	})
}

func TestSemanticsOutliveListener(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		c, s := connectTo(t, ln, client)
		require.NoError(t, ln.Close())
		writeString(t, c, "ping")
		readString(t, s, "ping")
		writeString(t, s, "pong")
		readString(t, c, "pong")
		d := ctnet.Dialer{App: client}
		_, err := d.Dial("ct", t.Name())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		c, s = connectTo(t, listenOn(t, ctnet.ListenConfig{App: server}), client)
		writeString(t, c, "again")
		readString(t, s, "again")
	})
}

func TestSemanticsNobody(t *testing.T) {
	inBoth(t, func(t *testing.T, _, client *ctnet.App) {
		d := ctnet.Dialer{App: client}
		c, err := d.Dial("ct", t.Name())
		require.Nil(t, c)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		e := opErrorOf(t, err)
		require.Equal(t, "dial", e.Op)
		require.Equal(t, "ct", e.Net)
		require.Equal(t, t.Name(), e.Addr.String())
	})
}

func TestSemanticsListenTwice(t *testing.T) {
	inBoth(t, func(t *testing.T, server, other *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		lc := ctnet.ListenConfig{App: other}
		ln2, err := lc.Listen(t.Context(), "ct", t.Name())
		require.Nil(t, ln2)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.Equal(t, "listen", opErrorOf(t, err).Op)
		require.NoError(t, ln.Close())
		listenOn(t, lc)
	})
}

func TestSemanticsBadArguments(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		try := func(lc ctnet.ListenConfig, d ctnet.Dialer, network, name string, check func(error)) {
			lc.App, d.App = server, client
			_, err := lc.Listen(t.Context(), network, name)
			check(err)
			_, err = d.Dial(network, name)
			check(err)
		}
		_, err := (&ctnet.Dialer{App: client}).Dial("ct", "") // Listen chooses a name
		require.IsType(t, &net.AddrError{}, opErrorOf(t, err).Err)
		for _, name := range []string{"..", "a/../b", "a\x00b", strings.Repeat("x", 201)} {
			try(ctnet.ListenConfig{}, ctnet.Dialer{}, "ct", name, func(err error) {
				var e *net.AddrError
				opErrorOf(t, err)
				require.ErrorAs(t, err, &e, "%q", name)
			})
		}
		for _, network := range []string{"", "x", "tcp5"} {
			try(ctnet.ListenConfig{}, ctnet.Dialer{}, network, t.Name(), func(err error) {
				var e net.UnknownNetworkError
				require.ErrorAs(t, err, &e, "%q", network)
			})
		}
		for _, n := range []int{-1, 1, ctnet.MinBuffer - 1, ctnet.MaxBuffer + 1} {
			invalid := func(err error) { require.ErrorIs(t, err, syscall.EINVAL, "%d", n) }
			try(ctnet.ListenConfig{ReadBuffer: n}, ctnet.Dialer{ReadBuffer: n}, "ct", t.Name(), invalid)
			try(ctnet.ListenConfig{WriteBuffer: n}, ctnet.Dialer{WriteBuffer: n}, "ct", t.Name(), invalid)
		}
		lc := ctnet.ListenConfig{App: server, Backlog: -1}
		_, err = lc.Listen(t.Context(), "ct", t.Name())
		require.ErrorIs(t, err, syscall.EINVAL)
	})
}

func TestSemanticsAllow(t *testing.T) {
	server, client := harness.NewApp(t), harness.NewApp(t)
	creds := make(chan ctnet.Cred, 1)
	listenOn(t, ctnet.ListenConfig{App: server, Allow: func(c ctnet.Cred) bool {
		creds <- c
		return false
	}})
	d := ctnet.Dialer{App: client}
	_, err := d.Dial("ct", t.Name())
	require.ErrorIs(t, err, syscall.EACCES)
	require.Equal(t, ctnet.Cred{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}, <-creds)
}

func TestSemanticsMaxConns(t *testing.T) {
	limited := func(t *testing.T) *ctnet.App {
		a, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: 1})
		require.NoError(t, err)
		t.Cleanup(func() { a.Close() })
		return a
	}
	try := func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		c, s := connectTo(t, ln, client)
		d := ctnet.Dialer{App: client}
		_, err := d.Dial("ct", t.Name())
		require.ErrorIs(t, err, syscall.ENOBUFS)
		writeString(t, c, "not harmed")
		readString(t, s, "not harmed")
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		connectTo(t, ln, client)
	}
	t.Run("in process", func(t *testing.T) {
		a := limited(t)
		try(t, a, a)
	})
	t.Run("two apps, server", func(t *testing.T) { try(t, limited(t), harness.NewApp(t)) })
	t.Run("two apps, client", func(t *testing.T) { try(t, harness.NewApp(t), limited(t)) })
	_, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: -1})
	require.Error(t, err)
}

func TestSemanticsPeek(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, c, "hello world")
		require.Equal(t, 11, s.Buffered())
		for range 2 {
			b, err := s.Peek(5)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b))
		}
		n, err := s.Discard(6)
		require.NoError(t, err)
		require.Equal(t, 6, n)
		_, err = s.Peek(ctnet.MinBuffer + 1)
		require.ErrorIs(t, err, bufio.ErrBufferFull)
		_, err = s.Peek(-1)
		require.ErrorIs(t, err, bufio.ErrNegativeCount)
		_, err = s.Discard(-1)
		require.ErrorIs(t, err, bufio.ErrNegativeCount)
		require.NoError(t, c.CloseWrite())
		b, err := s.Peek(6)
		require.Equal(t, io.EOF, err)
		require.Equal(t, "world", string(b))
		n, err = s.Discard(6)
		require.Equal(t, io.EOF, err)
		require.Equal(t, 5, n)
	})
}

func TestSemanticsPeekAfterClose(t *testing.T) {
	overPair(t, 0, func(t *testing.T, c, s *ctnet.Conn) {
		writeString(t, c, "hello")
		b, err := s.Peek(5)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		require.NoError(t, c.Close())
		require.Equal(t, "hello", string(b))
		_, err = s.Discard(5)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestSemanticsReserve(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		b, err := c.Reserve(5)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(b), 5)
		copy(b, "hello")
		require.NoError(t, c.Commit(5))
		readString(t, s, "hello")
		_, err = c.Reserve(1)
		require.NoError(t, err)
		require.NoError(t, c.Commit(0))
		b, err = c.Reserve(1)
		require.NoError(t, err)
		require.ErrorIs(t, c.Commit(len(b)+1), os.ErrInvalid)
		_, err = c.Reserve(ctnet.MinBuffer + 1)
		require.ErrorIs(t, err, bufio.ErrBufferFull)
		_, err = c.Reserve(-1)
		require.ErrorIs(t, err, bufio.ErrNegativeCount)
		_, err = c.Reserve(1)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.Commit(1), net.ErrClosed)
		_, err = s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

func TestSemanticsViewsWrap(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		const n = ctnet.MinBuffer/2 + 13
		for i := range 50 {
			want := make([]byte, n)
			for j := range want {
				want[j] = byte(i + j)
			}
			b, err := c.Reserve(n)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(b), n)
			copy(b, want)
			require.NoError(t, c.Commit(n))
			b, err = s.Peek(n)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, b), "%d", i)
			m, err := s.Discard(n)
			require.NoError(t, err)
			require.Equal(t, n, m)
		}
		require.Zero(t, s.Buffered())
	})
}

func TestSemanticsCopy(t *testing.T) {
	overPair(t, ctnet.MinBuffer, func(t *testing.T, c, s *ctnet.Conn) {
		data := make([]byte, 1<<20+7)
		for i := range data {
			data[i] = byte(i ^ i>>8 ^ i>>16)
		}
		sent := make(chan error)
		go func() {
			n, err := c.ReadFrom(bytes.NewReader(data))
			if err == nil && n != int64(len(data)) {
				err = io.ErrShortWrite
			}
			sent <- errors.Join(err, c.CloseWrite())
		}()
		var got bytes.Buffer
		n, err := s.WriteTo(&got)
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.EqualValues(t, len(data), n)
		require.True(t, bytes.Equal(data, got.Bytes()))
	})
}

func TestSemanticsAddresses(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		remotes := make(map[string]bool)
		for range 20 {
			c, s := connectTo(t, ln, client)
			for range 2 { // the second time it is closed
				for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr()} {
					require.Equal(t, "ct", a.Network())
				}
				require.Equal(t, t.Name(), c.RemoteAddr().String())
				require.Equal(t, t.Name(), s.LocalAddr().String())
				require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
				c.Close()
				s.Close()
			}
			remote := s.RemoteAddr().String()
			require.False(t, remotes[remote])
			remotes[remote] = true
			host, port, err := net.SplitHostPort(remote)
			require.NoError(t, err)
			require.NotEmpty(t, host)
			require.NotEmpty(t, port)
		}
	})
}

func TestSemanticsHTTP(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// All of it first: HTTP/1 does not read once it has written.
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		})}
		served := make(chan error)
		go func() { served <- srv.Serve(ln) }()
		hc := httpClient(client, t.Name())
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for i := range cap(errs) {
			wg.Go(func() {
				for range 10 {
					if err := post(hc, strings.Repeat(fmt.Sprint(i), 10_000)); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		hc.CloseIdleConnections()
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

func httpClient(client *ctnet.App, name string) *http.Client {
	d := ctnet.Dialer{App: client}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "ct", name)
		},
	}}
}

func post(hc *http.Client, body string) error {
	resp, err := hc.Post("http://ct/", "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && string(b) != body {
		err = fmt.Errorf("got %d bytes that differ from the %d sent", len(b), len(body))
	}
	return err
}

func TestSynctestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := harness.NewApp(t)
		ln := listenOn(t, ctnet.ListenConfig{App: a})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			// All of it first: HTTP/1 does not read once it has written.
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		})}
		served := make(chan error)
		go func() { served <- srv.Serve(ln) }()
		hc := httpClient(a, t.Name())
		start := time.Now()
		require.NoError(t, post(hc, "hello"))
		require.Equal(t, time.Hour, time.Since(start))
		hc.CloseIdleConnections()
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// TestSynctestDeadline has a bubble's time pass while Read and Accept wait.
func TestSynctestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := harness.NewApp(t)
		ln := listenOn(t, ctnet.ListenConfig{App: a})
		c, _ := connectTo(t, ln, a)
		start := time.Now()
		require.NoError(t, c.SetReadDeadline(start.Add(time.Hour)))
		_, err := c.Read(make([]byte, 1))
		requireTimeout(t, err, "read", c)
		require.NoError(t, ln.SetDeadline(start.Add(2*time.Hour)))
		_, err = ln.Accept()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 2*time.Hour, time.Since(start))
	})
}
