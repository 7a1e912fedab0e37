package ctnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
)

// listenAtKey listens on the socket of a key as the package does, and stays silent.
func listenAtKey(t *testing.T, key string) *net.UnixListener {
	t.Helper()
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(rendezvous.Dir(), hex.EncodeToString(sum[:12])+".sock")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// countDials listens on the socket of a key, closes each connection, and returns their number.
func countDials(t *testing.T, key string) *atomic.Int32 {
	t.Helper()
	ln := listenAtKey(t, key)
	n := new(atomic.Int32)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			c.Close()
		}
	}()
	return n
}

// agedDir waits until the directory's modification time is old enough to be relied on, so
// that a Dial remembers what it has not found.
func agedDir() { time.Sleep(100 * time.Millisecond) }

// TestRefusedIsNotNobody dials a live listener that refuses connections with ECONNREFUSED,
// for each reason. The Dial uses the kernel's socket, or returns the error. But it does not go
// on to the next key, as it does if there is no listener under the first one, and it does not
// remember an absence.
func TestRefusedIsNotNobody(t *testing.T) {
	for name, refuse := range map[string]func(l *Listener){
		"the handshake": func(l *Listener) { l.retired.Store(true) },
		"the connection": func(l *Listener) {
			l.backlog.mu.Lock()
			defer l.backlog.mu.Unlock()
			l.backlog.closed = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			useRunDir(t)
			client := newTestApp(t, AppConfig{})
			ln, err := (&ListenConfig{App: newTestApp(t, AppConfig{})}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			to, err := tcpTarget(ln.Addr().(*net.TCPAddr).AddrPort())
			require.NoError(t, err)
			next := countDials(t, to.keys[1])
			either, cut := Dialer{App: client}, Dialer{App: client, Path: CutThrough}
			c, err := either.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			require.IsType(t, &Conn{}, c, "before it refuses")
			defer c.Close()

			refuse(ln.(*Listener))
			var told *Fallback
			either.Fallback = func(f *Fallback) { told = f }
			agedDir()
			for range 2 {
				c, err := either.Dial("tcp", ln.Addr().String())
				require.NoError(t, err)
				require.IsType(t, &net.TCPConn{}, c)
				c.Close()
				require.Equal(t, ReasonClosing, told.Reason)
				_, err = cut.Dial("tcp", ln.Addr().String())
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				require.Zero(t, next.Load(), "the Dial went on to the next key")
				_, cause := client.a.absent(to.name)
				require.NoError(t, cause, "a live listener counts as absent")
			}
		})
	}
}

// TestNobodyUnderAKey dials an address that a dead process has listened on, under all of its keys
// except the last: the Dial goes on to the last key. Without a listener there it remembers an
// absence.
func TestNobodyUnderAKey(t *testing.T) {
	useRunDir(t)
	client := newTestApp(t, AppConfig{})
	ln, err := (&ListenConfig{App: newTestApp(t, AppConfig{})}).Listen(t.Context(), "tcp4", ":0")
	require.NoError(t, err)
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}
	to, err := tcpTarget(loopback.AddrPort())
	require.NoError(t, err)
	leaveStaleKey(t, to.keys[0])
	d := Dialer{App: client, Path: CutThrough}
	c, err := d.Dial("tcp", loopback.String())
	require.NoError(t, err)
	c.Close()

	require.NoError(t, ln.Close())
	agedDir()
	_, err = d.Dial("tcp", loopback.String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorContains(t, err, "no ctnet listener is there")
	_, cause := client.a.absent(to.name)
	require.Equal(t, rendezvous.ErrNobody, cause)
}

// leaveStaleKey leaves the socket file of a listener that has ended.
func leaveStaleKey(t *testing.T, key string) {
	t.Helper()
	ln := listenAtKey(t, key)
	ln.SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
}

// TestCutThroughErrors has Dials fail that may only use shared memory, as no listener is there,
// at an address and at a name. Programs may depend on the texts.
func TestCutThroughErrors(t *testing.T) {
	useRunDir(t)
	socket := shortDir(t) + "/s"
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer ln.Close()
	d := Dialer{App: newTestApp(t, AppConfig{}), Path: CutThrough}
	controlled := d
	controlled.Kernel.Control = func(string, string, syscall.RawConn) error { return nil }
	for _, c := range []struct {
		d                      Dialer
		network, address, want string
	}{
		{d, "tcp", "127.0.0.1:1", "dial tcp 127.0.0.1:1: connection refused: no ctnet listener is there; looked for %s and others"},
		{d, "unix", socket, "dial unix " + socket + ": connection refused: no ctnet listener is there; looked for %s"},
		{d, "tcp4", "localhost:1", "dial tcp4 127.0.0.1:1: connection refused: no ctnet listener is there; looked for %s and others"},
		{controlled, "tcp", "127.0.0.1:1", "dial tcp 127.0.0.1:1: connection refused: no ctnet listener is there; looked for %s and others"},
		{controlled, "unix", socket, "dial unix " + socket + ": connection refused: no ctnet listener is there; looked for %s"},
	} {
		_, err := c.d.Dial(c.network, c.address)
		var f *Fallback
		require.ErrorAs(t, err, &f)
		require.Equal(t, ReasonAbsent, f.Reason)
		require.EqualError(t, err, fmt.Sprintf(c.want, f.Looked[0]))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

// TestReasonOf has the errors that Dials end with, of which some can't be brought about in a test of
// the whole.
func TestReasonOf(t *testing.T) {
	for err, want := range map[error]Reason{
		syscall.ECONNREFUSED: ReasonClosing,
		syscall.EMFILE:       ReasonOutOfResources,
		syscall.ENFILE:       ReasonOutOfResources,
		syscall.ENOMEM:       ReasonOutOfResources,
		syscall.EBADF:        ReasonFailed,
		syscall.EPERM:        ReasonUnusable,
		errNotShared:         ReasonNotHere,

		os.NewSyscallError("socket", syscall.EMFILE): ReasonOutOfResources,
		hostnet.ErrNoNamespace:                       ReasonUnusable,
		context.DeadlineExceeded:                     ReasonSilent,
	} {
		require.Equal(t, want, reasonOf(err), "%v", err)
	}
}
