package ctnet

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
)

// TestAppCloseWhileDialing closes an application that waits for a listener's
// answer.
func TestAppCloseWhileDialing(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p, a := newParts(t), newTestApp(t, AppConfig{})
	said, answer := make(chan struct{}), make(chan struct{})
	fakeListen(t, "x", func(ch rendezvous.Channel) error {
		if _, err := takeHello(ch, "x"); err != nil {
			return err
		}
		close(said)
		<-answer
		rawpacket.SendOn(ch, packet(rendezvous.KindWelcome), p.sleep, p.bell)
		return expectEnd(ch)
	})
	dialed := make(chan error, 1)
	go func() {
		_, err := dialAs(a, "x")
		dialed <- err
	}()
	receive(t, said)
	require.NoError(t, a.Close())
	requireOpError(t, receive(t, dialed), "dial", "x", net.ErrClosed)
	close(answer)
}

// TestAppCloseWhileConnecting closes an application that dials, or one that accepts, at
// any moment. A connection that it got is closed then.
func TestAppCloseWhileConnecting(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	for i := range 300 {
		server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
		l, err := (&ListenConfig{App: server}).Listen(t.Context(), "ct", "x")
		require.NoError(t, err)
		closing := []*App{client, server}[i%2]
		conns := make(chan net.Conn, 1<<16)
		var users sync.WaitGroup
		users.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if closing == server {
					conns <- c
				} else {
					c.Close()
				}
			}
		})
		ready := make(chan struct{}, 1<<16)
		users.Go(func() {
			for {
				c, err := dialAs(client, "x")
				if err != nil {
					return
				}
				ready <- struct{}{}
				if closing == client {
					conns <- c
				} else {
					c.Close()
				}
			}
		})
		for range 1 + i%16 {
			receive(t, ready)
		}
		require.NoError(t, closing.Close())
		server.Close()
		client.Close()
		users.Wait()
		close(conns)
		for c := range conns {
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			c.Close()
		}
	}
}

// TestAppCloseWhileAttaching closes an application at any moment of another's
// attaching to it.
func TestAppCloseWhileAttaching(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	for i := range 300 {
		server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
		_, err := listenAs(server, "x")
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range i * 10 {
				runtime.Gosched()
			}
			server.Close()
		})
		c, err := dialAs(client, "x")
		if err == nil {
			c.Close()
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			require.NoError(t, err)
		}
		wg.Wait()
		require.NoError(t, client.Close())
	}
}

// TestAppCloseWhileListening closes an application that waits to listen.
func TestAppCloseWhileListening(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	a := newTestApp(t, AppConfig{})
	unlock := holdLock(t, dir)
	ctx := watch(t.Context())
	listened := make(chan error, 1)
	go func() {
		lc := ListenConfig{App: a}
		_, err := lc.Listen(ctx, networkCT, "x")
		listened <- err
	}()
	receive(t, ctx.watched)
	// No Dial finds a listener that fails to open.
	_, err := dialAs(a, "x")
	requireOpError(t, err, "dial", "x", syscall.ECONNREFUSED)
	require.NoError(t, a.Close())
	unlock()
	requireOpError(t, receive(t, listened), "listen", "x", net.ErrClosed)
	require.NoFileExists(t, socketFile(t, "x"))
}

// TestListenerCloseLocked closes a listener while the directory's lock is held.
func TestListenerCloseLocked(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	ln, err := listenAs(newTestApp(t, AppConfig{}), "x")
	require.NoError(t, err)
	unlock := holdLock(t, dir)
	start := time.Now()
	require.NoError(t, ln.Close())
	require.Less(t, time.Since(start), time.Second)
	unlock()
	for start := time.Now(); ; runtime.Gosched() {
		if _, err := os.Stat(socketFile(t, "x")); err != nil {
			break
		}
		require.Less(t, time.Since(start), 5*time.Second)
	}
}

// TestListenerCloseOther closes a listener whose file another one has replaced.
func TestListenerCloseOther(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	a, b := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	old, err := listenAs(a, "x")
	require.NoError(t, err)
	require.NoError(t, os.Remove(socketFile(t, "x")))
	ln, err := listenAs(b, "x")
	require.NoError(t, err)
	require.NoError(t, old.Close())
	requireDials(t, newTestApp(t, AppConfig{}), ln)
}

// TestNoWelcome has clients that don't wait for the answer, so that the pair ends
// while the worker is busy with it.
func TestNoWelcome(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p, server := newParts(t), newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	mem, err := segpool.OpenShared(p.block, blockSize, segpool.ByBoth)
	require.NoError(t, err)
	defer mem.Free()
	for range 20 {
		fakeAttach(t, "echo", p)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	wg.Go(func() { // makes the worker's passes long
		b := sched.NewBitmap(mem.Bytes[:blockSize/2])
		for !stop.Load() {
			for i := range uint32(64) {
				b.Set(i * 64)
			}
		}
	})
	for start := time.Now(); time.Since(start) < time.Second; {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketFile(t, "echo"), Net: "unixpacket"})
		if err != nil {
			runtime.Gosched() // the queue is full
			continue
		}
		c.CloseRead() // the welcome gets EPIPE
		rawpacket.SendOn(rendezvous.Channel{UnixConn: c}, hello("echo"), p.block, p.sleep, p.bell)
		c.Close()
	}
}

// TestSilentShared lets several Dials wait for one silent listener: they wait at the same time,
// not one after the other.
func TestSilentShared(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	a := newTestApp(t, AppConfig{})
	fakeListen(t, "silent", func(ch rendezvous.Channel) error {
		_, err := takeHello(ch, "silent")
		return errors.Join(err, expectEnd(ch))
	})
	var wg sync.WaitGroup
	start := time.Now()
	for range 3 {
		wg.Go(func() {
			if _, err := dialAs(a, "silent"); !errors.Is(err, syscall.ETIMEDOUT) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Less(t, time.Since(start), 2*rendezvous.HandshakeTimeout)
}

// TestQueueFull dials a socket on which no process accepts, until its queue is full.
func TestQueueFull(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socketFile(t, "full"), Net: "unixpacket"})
	require.NoError(t, err)
	defer ln.Close()
	for {
		c, err := net.DialUnix("unixpacket", nil, ln.Addr().(*net.UnixAddr))
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		require.NoError(t, err)
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	d := Dialer{App: newTestApp(t, AppConfig{})}
	_, err = d.DialContext(ctx, networkCT, "full")
	requireOpError(t, err, "dial", "full", os.ErrDeadlineExceeded)
}
