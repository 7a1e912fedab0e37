//go:build restart

package conformance

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMiniFileFd(t *testing.T) {
	lc := ctnet.ListenConfig{App: newApp(t)}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := ln.(*ctnet.Listener).File()
	require.NoError(t, err)
	defer f.Close()
	f.Fd() // as os/exec does for ExtraFiles
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	s.Close()
	c.Close()
	time.Sleep(50 * time.Millisecond)
	done := make(chan struct{})
	go func() { ln.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Error("Close hangs")
		c, _ := net.Dial("tcp", ln.Addr().String())
		c.Close()
		<-done
	}
}

func TestMiniUnlink(t *testing.T) {
	old, next := newApp(t), newApp(t)
	ln, err := (&ctnet.ListenConfig{App: old}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	f, err := ln.(*ctnet.Listener).File()
	require.NoError(t, err)
	inner, err := net.FileListener(f)
	require.NoError(t, err)
	f.Close()
	ln2, err := (&ctnet.ListenConfig{App: next}).NewListener(inner)
	require.NoError(t, err)
	defer ln2.Close()
	require.NoError(t, ln.Close())
	_, err = net.Dial("unix", ln.Addr().String())
	require.NoError(t, err)
}

func TestMiniWildcard(t *testing.T) {
	ownDirectory(t)
	p := startPuppet(t, nil)
	at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "dead", "echo")
	p.kill()
	_, port, _ := net.SplitHostPort(at)
	listenEcho(t, newApp(t), "tcp4", "0.0.0.0:"+port, "all")
	requireReaches(t, "cut all", (&ctnet.Dialer{App: newApp(t)}).Dial, "tcp", at)
}

func TestMiniTimeout(t *testing.T) {
	ownDirectory(t)
	p := startPuppet(t, nil)
	at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
	p.freeze()
	c, err := net.DialTimeout("tcp", at, 200*time.Millisecond)
	require.NoError(t, err)
	c.Close()
	for range 3 {
		_, err = (&ctnet.Dialer{App: newApp(t), Timeout: 200 * time.Millisecond}).Dial("tcp", at)
		assert.NoError(t, err)
	}
}

func TestMiniShared(t *testing.T) {
	dir := ownDirectory(t)
	ln := listenEcho(t, newApp(t), "tcp", "127.0.0.1:0", "real")
	at := ln.ln.Addr().String()
	path := soleSocket(t, dir)
	aside := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.Rename(path, aside))
	visited := make(chan struct{}, 1)
	attend(t, impostor(t, "unixpacket", path), func(c net.Conn) {
		visited <- struct{}{}
		io.Copy(io.Discard, c)
	})
	client := newApp(t)
	go func() {
		c, err := (&ctnet.Dialer{App: client}).Dial("tcp", at)
		if err == nil {
			c.Close()
		}
	}()
	<-visited
	change(t, dir)
	require.NoError(t, os.Rename(aside, path))
	start := time.Now()
	c, err := (&ctnet.Dialer{App: client}).Dial("tcp", at)
	require.NoError(t, err)
	t.Log("second Dial", time.Since(start), isCut(c))
	c.Close()
	start = time.Now()
	for {
		c, err := (&ctnet.Dialer{App: client}).Dial("tcp", at)
		require.NoError(t, err)
		cut := isCut(c)
		hangUp(c)
		if cut {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Log("cut-through after", time.Since(start))
	require.Less(t, time.Since(start), time.Second)
}

func TestMiniThread(t *testing.T) {
	dir := ownDirectory(t)
	a := startApart(t, 0x40000000, nil)
	a.do("unshare")
	a.do("thread", "up", "lo")
	at := a.do("thread", "listen", "ctnet", "tcp", "127.0.0.1:0", "thread", "echo")
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(dir, old, old))
	a.ask("dial", "any", "tcp", at)
	assert.Equal(t, "cut thread", a.ask("thread", "dial", "any", "tcp", at))
	assert.Equal(t, "cut thread", a.ask("thread", "dial", "cut", "tcp", at))
}

func TestMiniGarbage(t *testing.T) {
	dir := ownDirectory(t)
	s := filepath.Join(t.TempDir(), "s")
	for range 20 {
		p := startPuppet(t, nil)
		p.do("listen", "ctnet", "unix", s, "dead", "echo")
		p.kill()
		os.Rename(s, s+"x")
		os.Remove(s + "y")
		os.Rename(s+"x", s+"y")
	}
	files, _ := filepath.Glob(dir + "/*.sock")
	t.Log(len(files), "left")
}
