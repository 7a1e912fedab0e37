package services

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// inNetwork has this process, and processes that it starts from now on, find each other in the
// network namespace.
func inNetwork(t *testing.T) {
	t.Helper()
	t.Setenv("CTNET_DIR", "")
	harness.OpenProbe()
}

// startAs starts a puppet of another user, with further variables in its environment.
func startAs(t *testing.T, uid uint32, env ...string) *puppet {
	t.Helper()
	return startPuppet(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Env = append(cmd.Env, env...)
	})
}

// freePort returns a port of the loopback that nobody has just now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	return port
}

// tcpSeat returns the name of a seat of a listener on the loopback.
func tcpSeat(t *testing.T, seat int, port string) string {
	t.Helper()
	netns, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	return fmt.Sprintf("@ctnet/%d/tcp:%s/127.0.0.1:%s", seat, netns, port)
}

// Users of whom none is root, nor trusts another one by default.
const (
	alice   = 20001
	bob     = 20002
	mallory = 20003
)

// TestUsers has two users meet in one network namespace. With nothing configured they do so on
// network tcp, and at an abstract name, if the dialer trusts its owner. Otherwise both sides must
// have been told.
func TestUsers(t *testing.T) {
	requireRoot(t)
	for _, place := range []string{"network", "directory"} {
		t.Run(place, func(t *testing.T) {
			inNetwork(t)
			leaveNothing(t)
			if place == "directory" {
				dir := ownDirectory(t)
				require.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky))
			}
			volume := t.TempDir()
			for p := volume; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
				require.NoError(t, os.Chmod(p, 0o777))
			}
			name := fmt.Sprintf("%s-%d", t.Name(), os.Getpid())
			server, client := startAs(t, alice), startAs(t, bob)
			told := startAs(t, bob, fmt.Sprintf("CTNET_ALLOW=1,%d", alice))
			tcp := server.do("listen", "ctnet", "tcp", "127.0.0.1:0", "tcp", "echo")
			all := server.do("listen", "ctnet", "tcp", ":0", "all", "echo")
			_, port, err := net.SplitHostPort(all)
			require.NoError(t, err)
			abstract := server.do("listen", "ctnet", "unix", "@"+name, "abstract", "echo")
			path := server.do("listen", "ctnet", "unix", filepath.Join(volume, "s"), "path", "echo")
			require.NoError(t, os.Chmod(path, 0o777))
			server.do("listen", "ctnet", "ct", name, "ct", "echo")
			for range 2 {
				require.Equal(t, "cut tcp", client.do("dial", "any", "tcp", tcp))
				require.Equal(t, "cut all", client.do("dial", "any", "tcp", "127.0.0.1:"+port))
				require.Equal(t, "cut all", client.do("dial", "any", "tcp", "localhost:"+port))
				require.Equal(t, "kernel abstract", client.do("dial", "any", "unix", abstract))
				require.Equal(t, "cut abstract", told.do("dial", "any", "unix", abstract))
				// The listener has not been told.
				for _, p := range []*puppet{client, told} {
					require.Equal(t, "kernel path", p.do("dial", "any", "unix", path))
					require.Contains(t, p.ask("dial", "any", "ct", name), syscall.EACCES.Error())
				}
			}
			require.Contains(t, client.ask("dial", "cut", "unix", abstract), fmt.Sprintf("belongs to user %d", alice))
			server.do("close", "path")
			server.do("close", "ct")

			server = startAs(t, alice, fmt.Sprintf("CTNET_ALLOW=%d", bob))
			path = server.do("listen", "ctnet", "unix", filepath.Join(volume, "t"), "path", "echo")
			require.NoError(t, os.Chmod(path, 0o777))
			server.do("listen", "ctnet", "ct", name, "ct", "echo")
			require.Equal(t, "cut path", client.do("dial", "any", "unix", path)) // of alice's, as its file is
			require.Equal(t, "cut ct", told.do("dial", "any", "ct", name))
			require.Contains(t, client.ask("dial", "any", "ct", name), fmt.Sprintf("belongs to user %d", alice))
			// The programs can say it themselves. Root is trusted by all.
			allow := func(uid int) func(ctnet.Cred) bool { return func(c ctnet.Cred) bool { return c.UID == uid } }
			for _, uid := range []int{alice, bob} {
				d := ctnet.Dialer{App: harness.NewApp(t), Allow: allow(uid), Path: ctnet.CutThrough}
				c, err := d.Dial("ct", name)
				if uid != alice {
					require.ErrorIs(t, err, syscall.EACCES)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, alice, c.(*ctnet.Conn).PeerCred().UID)
				hangUp(c)
			}
		})
	}
}

// TestAllowIsEachDials dials with two Dialers of one application, of which one trusts the listener.
func TestAllowIsEachDials(t *testing.T) {
	inNetwork(t)
	leaveNothing(t)
	ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
	at := ln.ln.Addr().String()
	app := harness.NewApp(t)
	yes := ctnet.Dialer{App: app, Allow: func(c ctnet.Cred) bool { return c.PID == os.Getpid() }}
	no := ctnet.Dialer{App: app, Allow: func(ctnet.Cred) bool { return false }}
	for range 3 {
		requireReaches(t, "cut real", yes.Dial, "tcp", at)
		requireReaches(t, "kernel real", no.Dial, "tcp", at)
	}
	no.Path = ctnet.CutThrough
	_, err := no.Dial("tcp", at)
	require.ErrorIs(t, err, syscall.EACCES)
	require.NoError(t, ln.drain())
}

// TestAllowedIsNonsense has a word in CTNET_ALLOW that is not a user's number. The process says so
// once, and the rest of the list counts.
func TestAllowedIsNonsense(t *testing.T) {
	inNetwork(t)
	leaveNothing(t)
	said := new(bytes.Buffer)
	p := startPuppet(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "CTNET_ALLOW=alice,7")
		cmd.Stderr = said
	})
	for range 2 {
		at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
		require.Equal(t, "cut real", p.do("dial", "any", "tcp", at))
		p.do("close", "real")
	}
	p.end()
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "alice")
}

// TestSquatter has another user occupy the names of a listener. It keeps nobody from the listener,
// and is sent nothing.
func TestSquatter(t *testing.T) {
	requireRoot(t)
	inNetwork(t)
	leaveNothing(t)
	port := freePort(t)
	at := "127.0.0.1:" + port
	squatter := startAs(t, mallory)
	for seat := range 2 {
		squatter.do("squat", tcpSeat(t, seat, port))
	}
	server, client := startAs(t, alice), startAs(t, bob)

	// At a listener that does not speak ctnet.
	ln, err := net.Listen("tcp", at)
	require.NoError(t, err)
	plain := serveEcho(t, ln, "plain")
	require.Equal(t, "kernel plain", client.do("dial", "any", "tcp", at))
	require.Contains(t, client.ask("dial", "cut", "tcp", at), fmt.Sprintf("belongs to user %d", mallory))
	require.NoError(t, plain.drain())

	for range 2 {
		server.do("listen", "ctnet", "tcp", at, "real", "echo")
		require.Equal(t, "cut real", client.do("dial", "any", "tcp", at))
		require.Equal(t, "cut real", client.do("dial", "cut", "tcp", at))
		server.do("close", "real")
	}
	// The names get free, and the listener moves there.
	server.do("listen", "ctnet", "tcp", at, "real", "echo")
	require.Equal(t, "0 EOF", squatter.do("visited"))
	squatter.end()
	harness.Eventually(t, func() bool { return client.do("dial", "any", "tcp", at) == "cut real" })
	fresh := startAs(t, bob)
	require.Equal(t, "cut real", fresh.do("dial", "cut", "tcp", at))
}

// TestPortChangesHands has a port belong to one user after another, of whom the first one keeps
// his names. Dials reach whoever has the port, and never the other one.
func TestPortChangesHands(t *testing.T) {
	requireRoot(t)
	inNetwork(t)
	leaveNothing(t)
	client := startAs(t, bob)
	first, second := startAs(t, mallory), startAs(t, alice)
	at := first.do("listen", "ctnet", "tcp", "127.0.0.1:0", "first", "echo")
	require.Equal(t, "cut first", client.do("dial", "any", "tcp", at))
	first.do("close", "first")
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	first.do("squat", tcpSeat(t, 0, port))
	second.do("listen", "ctnet", "tcp", at, "second", "echo")
	// The port's owner is remembered for a second.
	harness.Eventually(t, func() bool {
		answer := client.do("dial", "any", "tcp", at)
		require.Contains(t, []string{"cut second", "kernel second"}, answer)
		return answer == "cut second"
	})
}

// TestUnmappedUser dials out of a user namespace in which the listener's user has no number. All
// such users look the same there, so none is trusted.
func TestUnmappedUser(t *testing.T) {
	requireRoot(t)
	inNetwork(t)
	leaveNothing(t)
	server := startAs(t, alice)
	at := server.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
	name := fmt.Sprintf("%s-%d", t.Name(), os.Getpid())
	inside := func(t *testing.T, uid int, env string) *puppet {
		return startPuppet(t, func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: bob, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: bob, Size: 1}},
				Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), NoSetGroups: true},
			}
			cmd.Env = append(cmd.Env, env)
		})
	}
	// As root, as a user, and as the user whose number is that of all who have none.
	for _, uid := range []int{0, 1000, 65534} {
		p := inside(t, uid, "CTNET_ALLOW=65534")
		require.Equal(t, "kernel real", p.do("dial", "any", "tcp", at))
		require.Contains(t, p.ask("dial", "cut", "tcp", at), "has no number")
		// Nor does a listener inside trust those outside.
		label := fmt.Sprint("in", uid)
		theirs := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", label, "echo")
		require.Equal(t, "kernel "+label, server.do("dial", "any", "tcp", theirs))
		p.do("listen", "ctnet", "ct", name, "ct", "echo")
		require.Contains(t, server.ask("dial", "any", "ct", name), syscall.EACCES.Error())
		require.Equal(t, "cut "+label, p.do("dial", "any", "tcp", theirs))
		p.end()
	}
}

// TestRootInspects has root see the applications of other users, who see their own.
func TestRootInspects(t *testing.T) {
	requireRoot(t)
	inNetwork(t)
	leaveNothing(t)
	server, other := startAs(t, alice), startAs(t, bob)
	at := server.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
	find := func(all []ctnet.Snapshot) (pid int) {
		for _, s := range all {
			for _, l := range s.Listeners {
				if l.Address == at {
					pid = s.PID
				}
			}
		}
		return pid
	}
	all, err := ctnet.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, server.pid, find(all))
	captureOther(t, at)
	require.Contains(t, startAs(t, alice).do("inspect"), at)
	require.NotContains(t, strings.TrimPrefix(other.ask("inspect"), failed), at)
}

// captureOther has root capture a connection of another user's application, whose listener is at the address.
func captureOther(t *testing.T, at string) {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	defer app.Close()
	c, err := (&ctnet.Dialer{App: app}).Dial("tcp", at)
	require.NoError(t, err)
	defer c.Close()
	require.IsType(t, (*ctnet.Conn)(nil), c)
	_, err = io.ReadFull(c, make([]byte, labelSize))
	require.NoError(t, err)
	all, err := ctnet.Inspect(t.Context())
	require.NoError(t, err)
	for i := range all {
		for _, info := range all[i].Connections {
			if info.Local != at || info.Remote != c.LocalAddr().String() {
				continue
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := &awaited{began: make(chan struct{}), text: "hello", found: cancel}
			done := make(chan error, 1)
			go func() {
				_, err := all[i].CaptureConn(ctx, info.ID, w, ctnet.CaptureConfig{})
				done <- err
			}()
			select {
			case <-w.began:
			case err := <-done:
				require.NoError(t, err)
			}
			_, err = c.Write([]byte(w.text))
			require.NoError(t, err)
			require.ErrorIs(t, <-done, context.Canceled)
			return
		}
	}
	require.Fail(t, "root does not see the connection")
}

// An awaited closes began at the first Write, and calls found when it was written the text.
type awaited struct {
	bytes.Buffer
	began chan struct{}
	text  string
	found func()
}

func (w *awaited) Write(b []byte) (int, error) {
	if w.Len() == 0 {
		close(w.began)
	}
	n, err := w.Buffer.Write(b)
	if strings.Contains(w.String(), w.text) {
		w.found()
	}
	return n, err
}
