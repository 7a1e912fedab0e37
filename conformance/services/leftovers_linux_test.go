package services

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ownDirectory gives this process, and processes that it starts from now on, a directory of the
// test's own.
func ownDirectory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctnet-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CTNET_DIR", dir)
	return dir
}

// soleSocket returns the only socket in a directory.
func soleSocket(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return files[0]
}

// change makes the directory look changed, which within a step of the file system's
// clock one change after another doesn't.
func change(t *testing.T, dir string) {
	t.Helper()
	before, err := os.Stat(dir)
	require.NoError(t, err)
	harness.Eventually(t, func() bool {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "new"), 0o700))
		require.NoError(t, os.Remove(filepath.Join(dir, "new")))
		now, err := os.Stat(dir)
		require.NoError(t, err)
		return now.ModTime() != before.ModTime()
	})
}

// serveEcho serves a listener of this process until the test ends, or it is closed.
func serveEcho(t *testing.T, ln net.Listener, label string) *served {
	t.Cleanup(func() { ln.Close() })
	return serve(ln, label, "echo")
}

func listenEcho(t *testing.T, a *ctnet.App, network, address, label string) *served {
	t.Helper()
	lc := ctnet.ListenConfig{App: a}
	ln, err := lc.Listen(t.Context(), network, address)
	require.NoError(t, err)
	return serveEcho(t, ln, label)
}

// TestLeftovers kills a listener's process. The address then has no listener, for applications
// that were connected to the process and for others.
func TestLeftovers(t *testing.T) {
	for network, address := range map[string]string{
		"tcp":  "127.0.0.1:0",
		"tcp4": "0.0.0.0:0",
		"tcp6": "[::1]:0",
		"unix": filepath.Join(t.TempDir(), "s"),
		"ct":   "left",
	} {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			dir := ownDirectory(t)
			p := startPuppet(t, nil)
			listen := p.do("listen", "ctnet", network, address, "dead", "echo")
			at := strings.Replace(listen, "0.0.0.0", "127.0.0.1", 1)
			known := harness.NewApp(t)
			held := hold(t, "cut dead", known, network, at)
			defer held.Close()
			p.kill()
			held.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err := held.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)

			left := soleSocket(t, dir)
			clients := []*ctnet.App{known, harness.NewApp(t)}
			for _, a := range clients {
				for range 2 {
					_, err := (&ctnet.Dialer{App: a, Path: ctnet.CutThrough}).Dial(network, at)
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
					_, err = (&ctnet.Dialer{App: a}).Dial(network, at)
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
					if network != "ct" {
						_, want := net.Dial(network, at)
						require.Equal(t, want.Error(), err.Error())
						require.IsType(t, want, err)
					}
				}
			}
			if network == "unix" {
				_, err := net.Listen(network, at)
				require.ErrorIs(t, err, syscall.EADDRINUSE)
				require.NoError(t, os.Remove(at))
			}
			if network != "ct" {
				ln, err := net.Listen(network, listen)
				require.NoError(t, err)
				plain := serveEcho(t, ln, "plain")
				for _, a := range clients {
					requireReaches(t, "kernel plain", (&ctnet.Dialer{App: a}).Dial, network, at)
				}
				require.Equal(t, left, soleSocket(t, dir))
				require.NoError(t, plain.drain())
			}
			live := listenEcho(t, harness.NewApp(t), network, listen, "live")
			if network != "unix" { // whose file is another one
				require.Equal(t, left, soleSocket(t, dir))
			}
			for _, a := range append(clients, harness.NewApp(t)) {
				requireReaches(t, "cut live", (&ctnet.Dialer{App: a}).Dial, network, at)
			}
			require.NoError(t, live.drain())
		})
	}
}

// TestLeftoverOfOneAddress kills a listener on one address, and then dials a listener on all
// addresses with the same port.
func TestLeftoverOfOneAddress(t *testing.T) {
	leaveNothing(t)
	dir := ownDirectory(t)
	p := startPuppet(t, nil)
	at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "dead", "echo")
	p.kill()
	soleSocket(t, dir)
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	server := harness.NewApp(t)
	live := listenEcho(t, server, "tcp", ":"+port, "live")
	for _, a := range []*ctnet.App{server, harness.NewApp(t)} {
		requireReaches(t, "cut live", (&ctnet.Dialer{App: a}).Dial, "tcp", at)
		requireReaches(t, "cut live", (&ctnet.Dialer{App: a}).Dial, "tcp", "localhost:"+port)
	}
	require.NoError(t, live.drain())
}

// impostors make something else in the place of a listener's socket. The slow ones let a Dial
// wait.
var impostors = []struct {
	name string
	slow bool
	make func(t *testing.T, path string)
}{
	{"does not accept", true, func(t *testing.T, path string) {
		impostor(t, "unixpacket", path)
	}},
	{"accepts", true, func(t *testing.T, path string) {
		attend(t, impostor(t, "unixpacket", path), func(c net.Conn) { io.Copy(io.Discard, c) })
	}},
	{"has no room", true, func(t *testing.T, path string) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
		require.NoError(t, unix.Listen(fd, 0))
		for {
			c, err := net.Dial("unixpacket", path)
			if err != nil {
				require.ErrorIs(t, err, syscall.EAGAIN)
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}},
	{"hangs up", false, func(t *testing.T, path string) {
		attend(t, impostor(t, "unixpacket", path), func(c net.Conn) {})
	}},
	{"hangs up on a word", false, func(t *testing.T, path string) {
		attend(t, impostor(t, "unixpacket", path), func(c net.Conn) { c.Read(make([]byte, 1<<10)) })
	}},
	{"talks nonsense", false, func(t *testing.T, path string) {
		attend(t, impostor(t, "unixpacket", path), func(c net.Conn) {
			c.Write(bytes.Repeat([]byte("nonsense"), 30))
			io.Copy(io.Discard, c)
		})
	}},
	{"is a stream", false, func(t *testing.T, path string) {
		impostor(t, "unix", path)
	}},
	{"is a file", false, func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}},
	{"is a link to nothing", false, func(t *testing.T, path string) {
		require.NoError(t, os.Symlink(path+".none", path))
	}},
}

func impostor(t *testing.T, network, path string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, path)
	require.NoError(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func attend(t *testing.T, ln net.Listener, visit func(net.Conn)) {
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				defer c.Close()
				visit(c)
			}()
		}
	}()
}

// TestImpostor puts something else in the place of a listener's socket. Dials find
// the listener through the kernel, after a moment at most, and later ones at once.
// When the listener's socket is back, Dials use the cut-through again.
func TestImpostor(t *testing.T) {
	for _, what := range impostors {
		t.Run(what.name, func(t *testing.T) {
			leaveNothing(t)
			dir := ownDirectory(t)
			server := harness.NewApp(t)
			ln := listenEcho(t, server, "tcp", "127.0.0.1:0", "real")
			at := ln.ln.Addr().String()
			path := soleSocket(t, dir)
			aside := filepath.Join(t.TempDir(), "s")
			require.NoError(t, os.Rename(path, aside))
			what.make(t, path)

			client := harness.NewApp(t)
			d := ctnet.Dialer{App: client}
			start := time.Now()
			requireReaches(t, "kernel real", d.Dial, "tcp", at)
			took := time.Since(start)
			require.Less(t, took, patience+slack)
			if what.slow {
				require.GreaterOrEqual(t, took, patience)
				start = time.Now()
				for range 10 {
					requireReaches(t, "kernel real", d.Dial, "tcp", at)
				}
				require.Less(t, time.Since(start), 5*patience, "Dials wait again and again")
			}
			_, err := (&ctnet.Dialer{App: harness.NewApp(t), Path: ctnet.CutThrough, Timeout: patience}).Dial("tcp", at)
			require.Error(t, err)

			change(t, dir)
			require.NoError(t, os.Rename(aside, path))
			requireReaches(t, "cut real", d.Dial, "tcp", at)

			// It does not keep another listener from the address either.
			require.NoError(t, ln.drain())
			what.make(t, path)
			start = time.Now()
			ln = listenEcho(t, server, "tcp", at, "again")
			require.Less(t, time.Since(start), patience+slack)
			requireReaches(t, "cut again", d.Dial, "tcp", at)
			require.NoError(t, ln.drain())
		})
	}
}

// TestImpostorGoes puts the listener's socket back while a Dial waits for the impostor. The result
// of that Dial must not count for the listener.
func TestImpostorGoes(t *testing.T) {
	leaveNothing(t)
	dir := ownDirectory(t)
	ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
	at := ln.ln.Addr().String()
	path := soleSocket(t, dir)
	aside := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.Rename(path, aside))
	visited := make(chan struct{}, 1)
	attend(t, impostor(t, "unixpacket", path), func(c net.Conn) {
		visited <- struct{}{}
		io.Copy(io.Discard, c)
	})

	client := harness.NewApp(t)
	waiting := make(chan error, 1)
	go func() {
		c, err := (&ctnet.Dialer{App: client}).Dial("tcp", at)
		if err == nil && harness.IsCut(c) {
			err = errors.New("a way to the impostor")
		}
		if err == nil {
			hangUp(c)
		}
		waiting <- err
	}()
	<-visited
	change(t, dir)
	require.NoError(t, os.Rename(aside, path))
	// Of another size, so it does not share that Dial's handshake.
	requireReaches(t, "cut real", (&ctnet.Dialer{App: client, ReadBuffer: ctnet.MinBuffer}).Dial, "tcp", at)
	require.NoError(t, <-waiting)
	requireReaches(t, "cut real", (&ctnet.Dialer{App: client}).Dial, "tcp", at)
	require.NoError(t, ln.drain())
}

// TestImpostorOfOtherUser puts another user's process in the place of a listener's socket. A
// client sends nothing to it.
func TestImpostorOfOtherUser(t *testing.T) {
	requireRoot(t)
	leaveNothing(t)
	dir := ownDirectory(t)
	ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
	at := ln.ln.Addr().String()
	path := soleSocket(t, dir)
	aside := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.Rename(path, aside))
	theirs, err := os.MkdirTemp("", "ctnet-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(theirs) })
	require.NoError(t, os.Chown(theirs, stranger, stranger))
	p := startAs(t, stranger)
	p.do("impostor", filepath.Join(theirs, "s"))
	require.NoError(t, os.Rename(filepath.Join(theirs, "s"), path))

	client := harness.NewApp(t)
	d := ctnet.Dialer{App: client}
	requireReaches(t, "kernel real", d.Dial, "tcp", at)
	require.Equal(t, "0 EOF", p.do("visited"))
	requireReaches(t, "kernel real", d.Dial, "tcp", at)
	_, err = (&ctnet.Dialer{App: harness.NewApp(t), Path: ctnet.CutThrough}).Dial("tcp", at)
	require.ErrorIs(t, err, syscall.EACCES)
	require.Equal(t, "0 EOF", p.do("visited"))
	change(t, dir)
	require.NoError(t, os.Rename(aside, path))
	requireReaches(t, "cut real", d.Dial, "tcp", at)

	// Whose the directory is does not matter: that user could do no more.
	require.NoError(t, os.Chown(dir, stranger, stranger))
	requireReaches(t, "cut real", (&ctnet.Dialer{App: harness.NewApp(t)}).Dial, "tcp", at)
	require.NoError(t, ln.drain())
}

// TestNotAllowed dials from clients that a listener does not allow. They get the kernel's socket,
// and no error.
func TestNotAllowed(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			ownDirectory(t)
			lc := ctnet.ListenConfig{App: harness.NewApp(t), Allow: func(ctnet.Cred) bool { return false }}
			ln, err := lc.Listen(t.Context(), network, address)
			require.NoError(t, err)
			at := serveEcho(t, ln, "real").ln.Addr().String()
			d := ctnet.Dialer{App: harness.NewApp(t)}
			for range 3 {
				requireReaches(t, "kernel real", d.Dial, network, at)
			}
			d = ctnet.Dialer{App: harness.NewApp(t), Path: ctnet.CutThrough}
			_, err = d.Dial(network, at)
			require.ErrorIs(t, err, syscall.EACCES)
		})
	}
}

// stranger is a user who is not trusted.
const stranger = 65534

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can have a process of another user")
	}
}

// TestServerStopped stops a server's process. After a moment at most, Dials get a connection of
// the kernel's, which waits until the process goes on.
func TestServerStopped(t *testing.T) {
	for network, address := range restartNetworks(t) {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			ownDirectory(t)
			p := startPuppet(t, nil)
			at := p.do("listen", "ctnet", network, address, "real", "echo")
			known := harness.NewApp(t)
			held := hold(t, "cut real", known, network, at)
			defer held.Close()
			p.freeze()

			var conns []net.Conn
			for _, a := range []*ctnet.App{known, harness.NewApp(t)} {
				for i := range 3 {
					start := time.Now()
					c, err := (&ctnet.Dialer{App: a}).Dial(network, at)
					took := time.Since(start)
					require.NoError(t, err)
					defer c.Close()
					require.False(t, harness.IsCut(c))
					conns = append(conns, c)
					if i == 0 {
						require.GreaterOrEqual(t, took, patience)
						require.Less(t, took, patience+slack)
					} else {
						require.Less(t, took, patience)
					}
				}
				// Who has no other way waits for as long as was said.
				start := time.Now()
				_, err := (&ctnet.Dialer{App: a, Path: ctnet.CutThrough, Timeout: 2 * patience}).Dial(network, at)
				took := time.Since(start)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, took, 2*patience)
				require.Less(t, took, 2*patience+slack)
			}
			p.thaw()
			for _, c := range conns {
				answer, err := answerOf(c)
				require.NoError(t, err)
				require.Equal(t, "kernel real", answer)
			}
			require.NoError(t, exchange(held))
			requireReaches(t, "cut real", (&ctnet.Dialer{App: harness.NewApp(t)}).Dial, network, at)
		})
	}
}

// TestNoDirectory has a process whose directory can't be used. It listens without the
// cut-through, and logs that once.
func TestNoDirectory(t *testing.T) {
	parent := func(t *testing.T) string {
		dir, err := os.MkdirTemp("", "ctnet-test-")
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	type starter func(t *testing.T, change func(*exec.Cmd)) *puppet
	asSelf := starter(func(t *testing.T, change func(*exec.Cmd)) *puppet { return startPuppet(t, change) })
	// One for whom a directory can be one that it may not write to.
	asOrdinary := starter(func(t *testing.T, change func(*exec.Cmd)) *puppet {
		return startPuppet(t, func(cmd *exec.Cmd) {
			change(cmd)
			if os.Geteuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
			}
		})
	})
	for _, test := range []struct {
		name  string
		start starter
		dir   func(t *testing.T) string
		why   string
	}{
		{"no parent", asSelf, func(t *testing.T) string {
			return filepath.Join(parent(t), "none", "ct")
		}, "no such file or directory"},
		{"a file", asSelf, func(t *testing.T) string {
			path := filepath.Join(parent(t), "ct")
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			return path
		}, "must be a directory"},
		{"a link", asSelf, func(t *testing.T) string {
			path := filepath.Join(parent(t), "ct")
			require.NoError(t, os.Symlink(parent(t), path))
			return path
		}, "must be a directory"},
		{"relative", asSelf, func(t *testing.T) string {
			return filepath.Base(parent(t))
		}, "must be an absolute path"},
		{"too long a name", asSelf, func(t *testing.T) string {
			dir := filepath.Join(parent(t), strings.Repeat("long", 20))
			require.NoError(t, os.Mkdir(dir, 0o700))
			return dir
		}, "too long a name"},
		{"mode 0500", asOrdinary, func(t *testing.T) string {
			dir := parent(t)
			require.NoError(t, os.Chmod(dir, 0o500))
			if os.Geteuid() == 0 {
				require.NoError(t, os.Chown(dir, stranger, stranger))
			}
			return dir
		}, "permission denied"},
		{"no right to look", asOrdinary, func(t *testing.T) string {
			dir := parent(t)
			require.NoError(t, os.Chmod(dir, 0))
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
			return filepath.Join(dir, "ct")
		}, "permission denied"},
		{"read-only", func(t *testing.T, change func(*exec.Cmd)) *puppet {
			p := startApart(t, unix.CLONE_NEWNS, change)
			p.do("private")
			p.do("bind", p.dir(), p.dir())
			p.do("read-only", p.dir())
			return p
		}, parent, "read-only file system"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := test.dir(t)
			said := new(bytes.Buffer)
			p := test.start(t, func(cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, "CTNET_DIR="+dir)
				cmd.Stderr = said
			})
			for network, address := range map[string]string{
				"tcp":  "127.0.0.1:0",
				"tcp6": "[::1]:0",
				"unix": fmt.Sprintf("@ctnet-%d", os.Getpid()),
			} {
				at := p.do("listen", "ctnet", network, address, network, "echo")
				require.Equal(t, "kernel "+network, p.do("dial", "any", network, at))
				require.Contains(t, p.ask("dial", "cut", network, at), failed)
				// Others find it, too.
				requireReaches(t, "kernel "+network, ctnet.Dial, network, at)
				requireReaches(t, "kernel "+network, net.Dial, network, at)
			}
			require.Contains(t, p.ask("listen", "ctnet", "ct", "x", "ct", "echo"), failed)
			p.end()
			lines := strings.Split(strings.TrimSpace(said.String()), "\n")
			require.Len(t, lines, 1, said.String())
			require.Contains(t, lines[0], "WARN")
			require.Contains(t, lines[0], "no cut-through")
			require.Contains(t, lines[0], dir)
			require.Contains(t, lines[0], test.why)
		})
	}
}

// dir returns the directory in which the puppet was told to find others.
func (p *puppet) dir() string {
	env := p.cmd.Env
	for i := range env {
		if dir, ok := strings.CutPrefix(env[len(env)-1-i], "CTNET_DIR="); ok {
			return dir
		}
	}
	return ""
}

// TestKernelOnly starts a process whose environment turns the cut-through off. That has no effect
// on network "ct".
func TestKernelOnly(t *testing.T) {
	leaveNothing(t)
	dir := ownDirectory(t)
	p := startPuppet(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "CTNET_KERNEL_ONLY=1") })
	a, client := harness.NewApp(t), harness.NewApp(t)
	volume := t.TempDir()
	for network, way := range map[string]string{"tcp": "kernel", "tcp6": "kernel", "unix": "kernel", "ct": "cut"} {
		address := func(who string) string {
			switch network {
			case "tcp":
				return "127.0.0.1:0"
			case "tcp6":
				return "[::1]:0"
			case "unix":
				return filepath.Join(volume, who)
			}
			return who
		}
		theirs := p.do("listen", "ctnet", network, address("theirs"), "theirs", "echo")
		requireReaches(t, way+" theirs", (&ctnet.Dialer{App: client}).Dial, network, theirs)
		require.Equal(t, way+" theirs", p.do("dial", "any", network, theirs))
		p.do("close", "theirs")
		ours := listenEcho(t, a, network, address("ours"), "ours")
		soleSocket(t, dir) // only this one has one on the kernel's networks
		at := ours.ln.Addr().String()
		require.Equal(t, way+" ours", p.do("dial", "any", network, at))
		requireReaches(t, "cut ours", (&ctnet.Dialer{App: client}).Dial, network, at)
		require.NoError(t, ours.drain())
	}
}

// BenchmarkDialDecision measures how much more a Dial to a server without ctnet costs than with
// package net: in the network namespace; in a directory, when the absence is remembered; and when the
// directory has changed since. first-us is the Dial that comes after others, and again-us the same
// Dial at once after it.
func BenchmarkDialDecision(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	at := ln.Addr().String()
	old := time.Now().Add(-time.Hour)
	known, changed := b.TempDir(), b.TempDir()
	require.NoError(b, os.Chtimes(known, old, old))
	ways := []struct {
		name, dir string
		dial      func(network, address string) (net.Conn, error)
	}{
		{"net", known, net.Dial},
		{"network", "", (&ctnet.Dialer{App: harness.NewApp(b)}).Dial},
		{"remembered", known, (&ctnet.Dialer{App: harness.NewApp(b)}).Dial},
		{"changed", changed, (&ctnet.Dialer{App: harness.NewApp(b)}).Dial},
	}
	first, again := make([][]float64, len(ways)), make([][]float64, len(ways))
	for i := 0; b.Loop(); i++ {
		then := old.Add(time.Duration(i) * time.Millisecond)
		require.NoError(b, os.Chtimes(changed, then, then))
		for k := range ways {
			k = (i + k) % len(ways) // none is always the first
			b.Setenv("CTNET_DIR", ways[k].dir)
			for _, took := range []*[]float64{&first[k], &again[k]} {
				start := time.Now()
				c, err := ways[k].dial("tcp", at)
				*took = append(*took, float64(time.Since(start).Nanoseconds())/1e3)
				if err != nil {
					b.Fatal(err)
				}
				hangUp(c)
			}
		}
	}
	median := func(took []float64) float64 {
		slices.Sort(took)
		return took[len(took)/2]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(first[0]), "net-first-us")
	b.ReportMetric(median(again[0]), "net-again-us")
	for k, way := range ways[1:] {
		b.ReportMetric(median(first[k+1])-median(first[0]), way.name+"-first-us")
		b.ReportMetric(median(again[k+1])-median(again[0]), way.name+"-again-us")
	}
}
