package ctnet

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/leakcheck"
)

// collect collects garbage until done returns true.
func collect(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(leakcheck.Patience); !done(); runtime.Gosched() {
		require.True(t, time.Now().Before(end), "it takes too long")
		runtime.GC()
	}
}

// TestForgotten forgets an end of a connection, with all bytes read or not. Its peer gets what
// it would get after a Close, and what the connection has taken is given back.
func TestForgotten(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		for _, c := range []struct {
			name   string
			accept bool // the accepted end is forgotten
			unread bool
			want   error
		}{
			{"dialed", false, false, io.EOF},
			{"accepted", true, false, io.EOF},
			{"unread", false, true, syscall.ECONNRESET},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := m.dialer.App.a.account.Usage().Conns
				forgotten, peer := m.connect(t)
				if c.accept {
					forgotten, peer = peer, forgotten
				}
				_, err := forgotten.Write([]byte("hello"))
				require.NoError(t, err)
				if c.unread {
					_, err = peer.Write([]byte("unread"))
					require.NoError(t, err)
				}
				forgotten = nil
				end := make(chan error)
				var got []byte
				go func() {
					b := make([]byte, 100)
					n, err := io.ReadFull(peer, b)
					got = b[:n]
					if err == io.ErrUnexpectedEOF {
						err = io.EOF
					}
					end <- err
				}()
				collect(t, func() bool {
					select {
					case err = <-end:
						return true
					default:
						return false
					}
				})
				require.ErrorIs(t, err, c.want)
				require.Equal(t, "hello", string(got))
				require.NoError(t, peer.Close())
				collect(t, func() bool { return m.dialer.App.a.account.Usage().Conns == before })
			})
		}
	})
}

// TestNotForgotten collects garbage while calls use a Conn that nothing else refers to.
func TestNotForgotten(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		for name, read := range map[string]func(*Conn) error{
			"Read":     func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
			"Peek":     func(c *Conn) error { _, err := c.Peek(1); c.Discard(1); return err },
			"Discard":  func(c *Conn) error { _, err := c.Discard(1); return err },
			"WriteTo":  func(c *Conn) error { _, err := c.WriteTo(closed{}); return err },
			"ReadFrom": func(c *Conn) error { _, err := c.ReadFrom(c); return err },
			"raw Read": func(c *Conn) error {
				raw, err := c.SyscallConn()
				if err != nil {
					return err
				}
				return raw.Read(func(fd uintptr) bool {
					n, _ := syscall.Read(int(fd), make([]byte, 1))
					return n == 1
				})
			},
		} {
			t.Run(name, func(t *testing.T) {
				c, s := m.connect(t)
				defer s.Close()
				handle, end := weak.Make(c), make(chan error)
				go func(c *Conn) { end <- read(c) }(c)
				for range 5 {
					runtime.GC()
					require.NotNil(t, handle.Value())
				}
				require.False(t, handle.Value().c.end.Closed())
				_, err := s.Write([]byte("x"))
				require.NoError(t, err)
				if name == "ReadFrom" {
					_, err = s.Read(make([]byte, 1))
					require.NoError(t, err)
					require.NoError(t, s.CloseWrite())
				}
				err = <-end
				if name == "WriteTo" {
					require.ErrorIs(t, err, io.ErrClosedPipe)
				} else {
					require.NoError(t, err)
				}
			})
		}
	})
}

// TestForgottenRaw keeps a RawConn and nothing else: the connection is open. When that is forgotten
// too, the connection is closed, and its descriptor.
func TestForgottenRaw(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		c, s := m.connect(t)
		defer s.Close()
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		inner := c.c
		c = nil
		for range 5 {
			runtime.GC()
		}
		var file string // the descriptor's, in /proc
		require.NoError(t, raw.Control(func(fd uintptr) { file = fmt.Sprint("/proc/self/fd/", fd) }))
		require.False(t, inner.end.Closed())
		socket, err := os.Readlink(file)
		require.NoError(t, err)
		raw = nil
		collect(t, inner.end.Closed)
		collect(t, func() bool {
			now, _ := os.Readlink(file)
			return now != socket
		})
		_, err = s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

// closed is a writer that fails.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestForgottenView has a view outlive its Conn: its memory stays.
func TestForgottenView(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		c, s := m.connect(t)
		_, err := s.Write([]byte("hello"))
		require.NoError(t, err)
		view, err := c.Peek(5)
		require.NoError(t, err)
		inner := c.c
		c = nil
		collect(t, inner.end.Closed)
		require.Equal(t, "hello", string(view))
		require.NoError(t, s.Close())
		require.Equal(t, "hello", string(view))
		require.True(t, held(&Conn{c: inner}))
		_, err = inner.end.Discard(0) // ends the view
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// TestConnFinalizer sets a finalizer on a Conn, as on a *net.TCPConn. It runs before the
// connection is closed.
func TestConnFinalizer(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		c, s := m.connect(t)
		defer s.Close()
		wrote := make(chan error, 1)
		runtime.SetFinalizer(c, func(c *Conn) {
			_, err := c.Write([]byte("last"))
			wrote <- err
		})
		inner := c.c
		c = nil
		collect(t, inner.end.Closed)
		require.NoError(t, <-wrote)
		b, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, "last", string(b))
	})
}

// TestClosedIsGarbage closes connections. Neither the Conn nor what is behind it stays.
func TestClosedIsGarbage(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		c, s := m.connect(t)
		handle, inner := weak.Make(c), weak.Make(c.c)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		c, s = nil, nil
		collect(t, func() bool { return handle.Value() == nil && inner.Value() == nil })
	})
}

// TestForgottenInBubble forgets a Conn in a bubble. The runtime, outside of it, must leave it alone.
func TestForgottenInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestApp(t, AppConfig{})
		ln, err := (&ListenConfig{App: a}).Listen(t.Context(), "ct", t.Name())
		require.NoError(t, err)
		c, s := meeting{ln, Dialer{App: a}}.connect(t)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
		c = nil
		go s.Read(make([]byte, 1)) // it would be woken
		synctest.Wait()
		for range 5 {
			runtime.GC()
			synctest.Wait()
		}
		require.NoError(t, s.Close())
	})
}

// TestAllocations counts the allocations of a connection, with those of the cleanups of both ends:
// no more than it had without them.
func TestAllocations(t *testing.T) {
	eachMeeting(t, ListenConfig{}, func(t *testing.T, m meeting) {
		n := testing.AllocsPerRun(1000, func() {
			c, s := m.connect(t)
			c.Close()
			s.Close()
		})
		most := 14.0
		if m.dialer.App.a != m.Listener.(*Listener).app {
			most = 27 // 22 to 24 if no goroutine sleeps
		}
		require.LessOrEqual(t, n, most)
	})
}
