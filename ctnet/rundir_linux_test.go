package ctnet

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rendezvous"
)

// patience is how long a test waits for what should happen at once. It is less than the timeouts
// of the package, so that these can't make a test pass.
const patience = 4 * time.Second

// shortDir is t.TempDir with a name that leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctnet-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// useRunDir makes a directory in which applications find each other in this test.
func useRunDir(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	t.Setenv("CTNET_DIR", dir)
	return dir
}

func newTestApp(t *testing.T, c AppConfig) *App {
	t.Helper()
	a, err := NewApp(c)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func listenAs(a *App, name string) (net.Listener, error) {
	lc := ListenConfig{App: a}
	return lc.Listen(context.Background(), networkCT, name)
}

func dialAs(a *App, name string) (net.Conn, error) {
	d := Dialer{App: a}
	return d.Dial(networkCT, name)
}

// requireOpError checks that err has the form of package net's error for op, and wraps want unless
// that is nil.
func requireOpError(t *testing.T, err error, op, name string, want error) {
	t.Helper()
	var e *net.OpError
	require.ErrorAs(t, err, &e)
	require.Equal(t, op, e.Op)
	require.Equal(t, networkCT, e.Net)
	require.Equal(t, name, e.Addr.String())
	if want != nil {
		require.ErrorIs(t, err, want)
	}
}

// requireDials checks that a dial, and with it a handshake, works.
func requireDials(t *testing.T, a *App, ln net.Listener) {
	t.Helper()
	c, err := dialAs(a, ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}

// nobody is a user that this process does not trust, and distrusted is the error of that. Only
// root can act as another user; tests of other users check that they trust themselves.
func nobody() (uid int, distrusted error) {
	if os.Geteuid() == 0 {
		return 65534, syscall.EACCES
	}
	return os.Geteuid(), nil
}

// TestRunDirCreated lets Listen make the directory, and Dial find the listener there.
func TestRunDirCreated(t *testing.T) {
	leakcheck.Check(t)
	// The mode is not to depend on it.
	defer syscall.Umask(syscall.Umask(0))
	dir := shortDir(t) + "/own"
	t.Setenv("CTNET_DIR", dir)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})

	_, err := dialAs(client, "created")
	requireOpError(t, err, "dial", "created", syscall.ECONNREFUSED)
	require.NoDirExists(t, dir, "made by Dial")

	ln, err := listenAs(server, "created")
	require.NoError(t, err)
	fi, err := os.Lstat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o700, fi.Mode())
	requireDials(t, client, ln)

	// The second time it is there.
	require.NoError(t, ln.Close())
	ln, err = listenAs(server, "created")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
}

func TestRunDirMissingParent(t *testing.T) {
	leakcheck.Check(t)
	t.Setenv("CTNET_DIR", shortDir(t)+"/no/such")
	a := newTestApp(t, AppConfig{})
	_, err := listenAs(a, "x")
	requireOpError(t, err, "listen", "x", syscall.ENOENT)
	_, err = dialAs(a, "x")
	requireOpError(t, err, "dial", "x", syscall.ECONNREFUSED)
}

// TestRunDirUnfit makes a directory with a live listener unfit. Listen and Dial fail there until
// it is repaired.
func TestRunDirUnfit(t *testing.T) {
	chmod := func(mode fs.FileMode) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			require.NoError(t, os.Chmod(dir, mode))
			return dir
		}
	}
	type testCase struct {
		name  string
		spoil func(t *testing.T, dir string) string // returns what CTNET_DIR is then
		want  error
	}
	cases := []testCase{
		{"writable by the group", chmod(0o770 | fs.ModeSetgid), nil},
		{"writable by all", chmod(0o777), nil},
		{"sticky", chmod(0o777 | fs.ModeSticky), nil},
		{"readable by others", chmod(0o755), nil},
		{"symbolic link", func(t *testing.T, dir string) string {
			link := shortDir(t) + "/link"
			require.NoError(t, os.Symlink(dir, link))
			return link
		}, syscall.ENOTDIR},
		{"dangling link", func(t *testing.T, dir string) string {
			link := shortDir(t) + "/link"
			require.NoError(t, os.Symlink(dir+"/nowhere", link))
			return link
		}, syscall.ENOTDIR},
		{"file", func(t *testing.T, dir string) string {
			file := shortDir(t) + "/file"
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			return file
		}, syscall.ENOTDIR},
		{"below a file", func(t *testing.T, dir string) string {
			file := shortDir(t) + "/file"
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			return file + "/dir"
		}, syscall.ENOTDIR},
		{"too long a name", func(t *testing.T, dir string) string {
			return padded(t, maxRunDir+1)
		}, syscall.ENAMETOOLONG},
		{"relative", func(t *testing.T, dir string) string {
			return filepath.Base(dir)
		}, syscall.EINVAL},
		{"a name that no file can have", func(t *testing.T, dir string) string {
			return dir + "/" + strings.Repeat("x", 5000)
		}, syscall.ENAMETOOLONG},
	}
	if os.Geteuid() == 0 {
		cases = append(cases, testCase{"of another user", func(t *testing.T, dir string) string {
			require.NoError(t, os.Chown(dir, 65534, -1))
			return dir
		}, nil})
	}
	leakcheck.Check(t)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := useRunDir(t)
			ln, err := listenAs(server, "there")
			require.NoError(t, err)
			defer ln.Close()
			before := leakcheck.Now()

			t.Setenv("CTNET_DIR", c.spoil(t, dir))
			if c.want == nil {
				requireDials(t, client, ln)
				return
			}
			_, err = dialAs(client, "there")
			requireOpError(t, err, "dial", "there", c.want)
			_, err = listenAs(client, "new")
			requireOpError(t, err, "listen", "new", c.want)
			leakcheck.RequireBack(t, before)

			t.Setenv("CTNET_DIR", dir)
			require.NoError(t, os.Chmod(dir, 0o700))
			require.NoError(t, os.Chown(dir, os.Geteuid(), -1))
			requireDials(t, client, ln)
			again, err := listenAs(client, "new")
			require.NoError(t, err)
			require.NoError(t, again.Close())
		})
	}
}

// maxRunDir is the longest name of a directory that leaves room for a slash, a
// socket's name and a NUL.
const maxRunDir = len(unix.RawSockaddrUnix{}.Path) - len("/0123456789abcdef01234567.sock") - 1

// padded makes a directory whose path has n bytes.
func padded(t *testing.T, n int) string {
	t.Helper()
	dir := shortDir(t) + "/"
	require.Less(t, len(dir), n)
	dir += strings.Repeat("x", n-len(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	return dir
}

func TestRunDirLongestName(t *testing.T) {
	leakcheck.Check(t)
	t.Setenv("CTNET_DIR", padded(t, maxRunDir))
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	// The listener's name does not make it longer.
	ln, err := listenAs(server, strings.Repeat("n", maxName))
	require.NoError(t, err)
	requireDials(t, client, ln)
}

// socketFile returns where the listener with a name is found.
func socketFile(t *testing.T, name string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(ctTarget(name).keys[0]))
	return filepath.Join(rendezvous.Dir(), hex.EncodeToString(sum[:12])+".sock")
}

// rawListen listens on the socket of a name as the package does, and stays silent.
func rawListen(t *testing.T, name string) *net.UnixListener {
	t.Helper()
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socketFile(t, name), Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// leaveStale leaves the socket of a listener that has ended.
func leaveStale(t *testing.T, name string) {
	t.Helper()
	ln := rawListen(t, name)
	ln.SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	require.FileExists(t, socketFile(t, name))
}

func TestRunDirSocketFile(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	ln, err := listenAs(server, "svc/name")
	require.NoError(t, err)
	fi, err := os.Lstat(socketFile(t, "svc/name"))
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o666, fi.Mode(), "credentials decide")
	fi, err = os.Lstat(lockPath(dir))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), fi.Mode(), "nobody else may hold it")
	requireDials(t, client, ln)

	require.NoError(t, ln.Close())
	require.NoFileExists(t, socketFile(t, "svc/name"))
	_, err = dialAs(client, "svc/name")
	requireOpError(t, err, "dial", "svc/name", syscall.ECONNREFUSED)
	require.ErrorIs(t, ln.Close(), net.ErrClosed)

	// App.Close closes its listeners.
	_, err = listenAs(server, "svc/name")
	require.NoError(t, err)
	require.NoError(t, server.Close())
	require.NoFileExists(t, socketFile(t, "svc/name"))
}

// TestRunDirGone closes a listener whose directory is gone.
func TestRunDirGone(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	a := newTestApp(t, AppConfig{})
	ln, err := listenAs(a, "gone")
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	start := time.Now()
	require.NoError(t, ln.Close())
	require.Less(t, time.Since(start), patience)
}

func TestRunDirStale(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(t *testing.T)
	}{
		{"socket", func(t *testing.T) { leaveStale(t, "stale") }},
		{"socket of another type", func(t *testing.T) {
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketFile(t, "stale"), Net: "unix"})
			require.NoError(t, err)
			ln.SetUnlinkOnClose(false)
			require.NoError(t, ln.Close())
		}},
		{"file", func(t *testing.T) {
			require.NoError(t, os.WriteFile(socketFile(t, "stale"), nil, 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leakcheck.Check(t)
			useRunDir(t)
			server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
			c.leave(t)
			before := leakcheck.Now()
			_, err := dialAs(client, "stale")
			requireOpError(t, err, "dial", "stale", syscall.ECONNREFUSED)
			leakcheck.RequireBack(t, before)
			require.FileExists(t, socketFile(t, "stale"), "Dial does not tidy up")

			ln, err := listenAs(server, "stale")
			require.NoError(t, err)
			requireDials(t, client, ln)
		})
	}
}

func TestRunDirInUse(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	a, b := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	silent := rawListen(t, "silent")
	ln, err := listenAs(a, "live")
	require.NoError(t, err)
	before := leakcheck.Now()
	for _, c := range []struct {
		app  *App
		name string
	}{
		{a, "live"},
		{b, "live"},
		{a, "silent"}, // there is a listener, but it does not accept
		{b, "silent"},
	} {
		_, err := listenAs(c.app, c.name)
		requireOpError(t, err, "listen", c.name, syscall.EADDRINUSE)
		require.FileExists(t, socketFile(t, c.name))
		// It is not held for longer than the call.
		holdLock(t, dir)()
	}
	leakcheck.RequireBack(t, before)
	requireDials(t, b, ln)

	// The names are free when their listeners are gone.
	require.NoError(t, ln.Close())
	require.NoError(t, silent.Close())
	for _, name := range []string{"live", "silent"} {
		ln, err := listenAs(b, name)
		require.NoError(t, err)
		requireDials(t, a, ln)
		require.NoError(t, ln.Close())
	}
}

// canceledContext returns a context for calls that must not wait.
func canceledContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestRunDirOtherProcess has a process listen and be killed. The test's binary is
// that process when it is told to in its environment.
func TestRunDirOtherProcess(t *testing.T) {
	const role = "CTNET_TEST_LISTEN"
	if name := os.Getenv(role); name != "" {
		_, err := Listen(networkCT, name)
		require.NoError(t, err)
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	leakcheck.Check(t)
	useRunDir(t)
	a := newTestApp(t, AppConfig{})
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), role+"=other")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		stdin.Close()
		cmd.Wait()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	_, err = listenAs(a, "other")
	requireOpError(t, err, "listen", "other", syscall.EADDRINUSE)
	c, err := dialAs(a, "other")
	require.NoError(t, err)
	require.Equal(t, cmd.Process.Pid, c.(*Conn).c.cred.PID)
	require.NoError(t, c.Close())

	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.FileExists(t, socketFile(t, "other"))
	_, err = dialAs(a, "other")
	requireOpError(t, err, "dial", "other", syscall.ECONNREFUSED)
	b := newTestApp(t, AppConfig{})
	ln, err := listenAs(b, "other")
	require.NoError(t, err)
	requireDials(t, a, ln)
}

// TestRunDirRace calls Listen many times on one name at once. One of the calls replaces a stale
// socket there.
func TestRunDirRace(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	var apps [8]*App
	for i := range apps {
		apps[i] = newTestApp(t, AppConfig{})
	}
	dialer := newTestApp(t, AppConfig{})
	for round := range 6 {
		if round%2 == 1 {
			leaveStale(t, "race")
		}
		var lns [len(apps)]net.Listener
		var errs [len(apps)]error
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i, a := range apps {
			wg.Go(func() {
				<-start
				lns[i], errs[i] = listenAs(a, "race")
			})
		}
		close(start)
		wg.Wait()
		var winner net.Listener
		for i, ln := range lns {
			if errs[i] == nil {
				require.Nil(t, winner, "two listeners have the name")
				winner = ln
				continue
			}
			requireOpError(t, errs[i], "listen", "race", syscall.EADDRINUSE)
		}
		require.NotNil(t, winner)
		requireDials(t, dialer, winner)
		require.NoError(t, winner.Close())
	}
}

// lockPath returns the path of this user's lock in the directory.
func lockPath(dir string) string { return fmt.Sprintf("%s/lock-%d", dir, os.Geteuid()) }

// holdLock holds the lock on dir's contents, as another process would.
func holdLock(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	return func() { f.Close() }
}

func TestRunDirLock(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	unlock := holdLock(t, dir)
	before := leakcheck.Now()

	var lc ListenConfig
	lc.App = server
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	_, err := lc.Listen(ctx, networkCT, "locked")
	took := time.Since(start)
	cancel()
	requireOpError(t, err, "listen", "locked", os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, took, 20*time.Millisecond)
	require.Less(t, took, patience)

	ctx, cancel = context.WithCancel(t.Context())
	waits := watch(ctx)
	listened := make(chan error, 1)
	go func() {
		_, err := lc.Listen(waits, networkCT, "locked")
		listened <- err
	}()
	receive(t, waits.watched)
	select {
	case err := <-listened:
		t.Fatalf("Listen did not wait for the lock: %v", err)
	default:
	}
	cancel()
	requireOpError(t, receive(t, listened), "listen", "locked", context.Canceled)
	leakcheck.RequireBack(t, before)
	require.NoFileExists(t, socketFile(t, "locked"))

	// The call that waits gets the lock.
	var ln net.Listener
	waits = watch(t.Context())
	go func() {
		var err error
		ln, err = lc.Listen(waits, networkCT, "locked")
		listened <- err
	}()
	receive(t, waits.watched)
	unlock()
	require.NoError(t, receive(t, listened))
	requireDials(t, client, ln)
}

// A watchedContext tells when a goroutine waits for its end.
type watchedContext struct {
	context.Context
	once    sync.Once
	watched chan struct{}
}

func watch(ctx context.Context) *watchedContext {
	return &watchedContext{Context: ctx, watched: make(chan struct{})}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.watched) })
	return c.Context.Done()
}

// receive returns what comes from ch, which should be soon.
func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		t.Fatalf("nothing comes\n%s", stacks[:runtime.Stack(stacks, true)])
		panic("unreachable")
	}
}

// TestRunDirLockLink puts something else in the place of the lock.
func TestRunDirLockLink(t *testing.T) {
	leakcheck.Check(t)
	dir := useRunDir(t)
	outside := shortDir(t) + "/outside"
	require.NoError(t, os.Symlink(outside, lockPath(dir)))
	a := newTestApp(t, AppConfig{})
	_, err := listenAs(a, "x")
	requireOpError(t, err, "listen", "x", syscall.ELOOP)
	require.NoFileExists(t, outside)
	require.True(t, errors.Is(os.Remove(socketFile(t, "x")), fs.ErrNotExist))
}
