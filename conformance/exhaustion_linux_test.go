package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() { roles["exhausted"] = exhausted }

// A wish is what an exhausted process is asked for. A gift is what came of it.
type (
	wish struct {
		Do            string // one of what exhausted knows
		Network, Addr string
		NewApp        bool // dial with an application that has no pair yet
		Limit         uint64
		Resource      int
	}
	gift struct {
		Text  string // of the error
		Errno syscall.Errno
		Cut   bool
		CPU   time.Duration
		Held  int
	}
)

func (p *process) wish(t *testing.T, w wish) (g gift) {
	t.Helper()
	b, err := json.Marshal(w)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(p.ask(t, string(b))), &g))
	return g
}

// exhausted echoes on what it listens on, dials, and has its limits changed.
func exhausted() {
	var held []net.Conn
	trip := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		b := []byte("hello")
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b)
		return err
	}
	do := func(w wish, g *gift) error {
		switch w.Do {
		case "listen", "listen large":
			lc := ctnet.ListenConfig{}
			if w.Do == "listen large" { // one slot in each segment
				lc.ReadBuffer, lc.WriteBuffer = ctnet.MaxBuffer, ctnet.MaxBuffer
			}
			ln, err := lc.Listen(context.Background(), w.Network, w.Addr)
			if err != nil {
				return err
			}
			_, g.Cut = ln.(*ctnet.Listener)
			go echoAll(ln)
		case "dial", "hold":
			d := ctnet.Dialer{Timeout: 5 * time.Second}
			if w.NewApp {
				var err error
				if d.App, err = ctnet.NewApp(ctnet.AppConfig{}); err != nil {
					return err
				}
				defer d.App.Close()
			}
			c, err := d.Dial(w.Network, w.Addr)
			if err != nil {
				return err
			}
			g.Cut = harness.IsCut(c)
			if err := trip(c); err != nil {
				return fmt.Errorf("a new connection: %w", err)
			}
			if w.Do == "hold" {
				held = append(held, c)
				return nil
			}
			return c.Close()
		case "use": // what is held
			g.Held = len(held)
			for i, c := range held {
				if err := trip(c); err != nil {
					return fmt.Errorf("connection %d of %d: %w", i, len(held), err)
				}
			}
		case "let go":
			for _, c := range held {
				c.Close()
			}
			held = nil
		case "limit":
			var l unix.Rlimit
			if err := unix.Getrlimit(w.Resource, &l); err != nil {
				return err
			}
			l.Cur = min(w.Limit, l.Max)
			// Not Setrlimit: syscall's remembers to undo it in children only.
			return unix.Prlimit(0, w.Resource, &l, nil)
		case "cpu":
			var u unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
				return err
			}
			g.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
		case "fill": // the directory's file system
			for i := 0; ; i++ {
				f, err := os.Create(fmt.Sprintf("%s/filler-%d", w.Addr, i))
				if errors.Is(err, unix.ENOSPC) {
					return nil
				}
				if err != nil {
					return err
				}
				f.Close()
			}
		case "empty":
			names, err := filepath.Glob(w.Addr + "/filler-*")
			for _, name := range names {
				os.Remove(name)
			}
			return err
		case "mount":
			return unix.Mount("tmpfs", w.Addr, "tmpfs", 0, "nr_inodes=16,size=64k,mode=700")
		case "hog": // write what nobody reads, on more and more connections, with a limit that is too high
			a, err := ctnet.NewApp(ctnet.AppConfig{MaxMemory: 1 << 40})
			if err != nil {
				return err
			}
			for d := (ctnet.Dialer{App: a}); ; {
				c, err := d.Dial(w.Network, w.Addr)
				if err != nil {
					return err
				}
				// A Write waits before the fifo is that large. A Reserve does not.
				room, err := c.(*ctnet.Conn).Reserve(ctnet.MaxBuffer)
				if err != nil {
					return err
				}
				clear(room)
				if err := c.(*ctnet.Conn).Commit(len(room)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var w wish
		harness.Check(json.Unmarshal(in.Bytes(), &w))
		var g gift
		if err := do(w, &g); err != nil {
			g.Text = err.Error()
			errors.As(err, &g.Errno)
		}
		harness.Check(json.NewEncoder(os.Stdout).Encode(g))
	}
}

// echoAll accepts as net/http does: after an error that passes it tries again, a little later.
func echoAll(ln net.Listener) {
	var wait time.Duration
	for {
		c, err := ln.Accept()
		if e, ok := err.(interface{ Temporary() bool }); ok && e.Temporary() {
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			time.Sleep(wait)
			continue
		}
		if err != nil {
			return
		}
		wait = 0
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

const noLimit = ^uint64(0)

// beExhausted starts a process, and a listener here.
func beExhausted(t *testing.T) (p *process, own, large, tcp string) {
	leakcheck.Check(t)
	a := harness.NewApp(t)
	for _, l := range []struct {
		network, address string
		buffer           int
	}{{"ct", t.Name(), 0}, {"ct", t.Name() + "-large", ctnet.MaxBuffer}, {"tcp", "127.0.0.1:0", 0}} {
		lc := ctnet.ListenConfig{App: a, ReadBuffer: l.buffer, WriteBuffer: l.buffer}
		ln, err := lc.Listen(t.Context(), l.network, l.address)
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
		go echoAll(ln)
		tcp = ln.Addr().String()
	}
	p = launch(t, "exhausted")
	require.Equal(t, "ready", p.line(t))
	return p, t.Name(), t.Name() + "-large", tcp
}

func requireGift(t *testing.T, g gift) {
	t.Helper()
	require.Empty(t, g.Text)
}

// requireIdle requires that the process takes little CPU time.
func requireIdle(t *testing.T, p *process) {
	t.Helper()
	const while = 300 * time.Millisecond
	before := p.wish(t, wish{Do: "cpu"}).CPU
	time.Sleep(while) // what is measured
	require.Less(t, p.wish(t, wish{Do: "cpu"}).CPU-before, while/4, "it spins")
}

// TestNoDescriptorsClient has a client that can't get descriptors: what it has goes on,
// a Dial that needs none succeeds, others fail with EMFILE, and succeed again afterwards.
func TestNoDescriptorsClient(t *testing.T) {
	p, ct, large, tcp := beExhausted(t)
	for _, w := range []wish{{Network: "ct", Addr: ct}, {Network: "ct", Addr: large}, {Network: "tcp", Addr: tcp}} {
		w.Do = "hold"
		requireGift(t, p.wish(t, w))
	}
	for range 2 {
		requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_NOFILE, Limit: 3}))
		requireGift(t, p.wish(t, wish{Do: "use"}))
		requireGift(t, p.wish(t, wish{Do: "dial", Network: "ct", Addr: ct}))
		requireGift(t, p.wish(t, wish{Do: "dial", Network: "tcp", Addr: tcp}))
		for _, w := range []wish{
			{Network: "ct", Addr: ct, NewApp: true},
			{Network: "tcp", Addr: tcp, NewApp: true}, // the kernel's way needs one too
			{Network: "ct", Addr: large},              // a segment is needed
		} {
			w.Do = "dial"
			g := p.wish(t, w)
			require.Equal(t, syscall.EMFILE, g.Errno, "%+v: %+v", w, g)
			require.Contains(t, g.Text, "too many open files")
		}
		requireIdle(t, p)
		require.GreaterOrEqual(t, p.wish(t, wish{Do: "use"}).Held, 3)
		requireGift(t, p.wish(t, wish{Do: "use"}))
		requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_NOFILE, Limit: noLimit}))
		for _, w := range []wish{
			{Do: "dial", Network: "ct", Addr: ct, NewApp: true},
			{Do: "dial", Network: "tcp", Addr: tcp, NewApp: true},
			{Do: "hold", Network: "ct", Addr: large}, // so that no segment is empty again
		} {
			g := p.wish(t, w)
			requireGift(t, g)
			require.True(t, g.Cut)
		}
	}
	require.NoError(t, p.in.Close())
}

// TestNoDescriptorsServer has a server that can't get descriptors: connections that were made
// go on, and Dials that need none succeed; on network tcp the kernel's way is taken; the
// server does not spin; and when it can get them again it accepts at once.
func TestNoDescriptorsServer(t *testing.T) {
	p, _, _, _ := beExhausted(t)
	ct, large, tcp := t.Name()+"-its", t.Name()+"-its-large", crashAddresses(t, "")["tcp"]
	requireGift(t, p.wish(t, wish{Do: "listen", Network: "ct", Addr: ct}))
	requireGift(t, p.wish(t, wish{Do: "listen large", Network: "ct", Addr: large}))
	requireGift(t, p.wish(t, wish{Do: "listen", Network: "tcp", Addr: tcp}))
	a := harness.NewApp(t)
	dialTo := func(a *ctnet.App, network, address string, timeout time.Duration) (net.Conn, error) {
		d := ctnet.Dialer{App: a, Timeout: timeout}
		return d.Dial(network, address)
	}
	must := func(a *ctnet.App, network, address string) net.Conn {
		t.Helper()
		c, err := dialTo(a, network, address, 5*time.Second)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	held := []net.Conn{must(a, "ct", ct), must(a, "tcp", tcp)}
	inLarge := must(a, "ct", large)
	for _, c := range append(held, inLarge) {
		require.True(t, harness.IsCut(c))
		requireEcho(t, c)
	}

	requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_NOFILE, Limit: 3}))
	for _, c := range append(held, inLarge) {
		requireEcho(t, c)
	}
	for _, c := range []net.Conn{must(a, "ct", ct), must(a, "tcp", tcp)} {
		requireEcho(t, c)
		require.NoError(t, c.Close())
	}
	other := harness.NewApp(t)
	start := time.Now()
	_, err := dialTo(other, "ct", ct, time.Second)
	require.Error(t, err)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded) // the kernel has queued it
	kernel := must(other, "tcp", tcp)
	require.False(t, harness.IsCut(kernel))
	require.Less(t, time.Since(start), 3*time.Second)
	requireIdle(t, p)

	// A segment can't be handed over. No connection may be harmed by that.
	_, err = dialTo(a, "ct", large, time.Second)
	require.Error(t, err)
	t.Logf("a Dial that needs a segment: %v", err)
	for _, c := range append(held, inLarge) {
		requireEcho(t, c)
	}

	requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_NOFILE, Limit: noLimit}))
	start = time.Now()
	kernel.SetDeadline(time.Now().Add(5 * time.Second))
	requireEcho(t, kernel)
	requireEcho(t, must(other, "ct", ct))
	requireEcho(t, must(a, "ct", large))
	require.Less(t, time.Since(start), 3*time.Second) // who accepts looks again each second
	require.NoError(t, p.in.Close())
}

// TestNoAddressSpace has a process that can't map any more, as client and as server.
func TestNoAddressSpace(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector maps terabytes")
	}
	p, ct, large, _ := beExhausted(t)
	its := t.Name() + "-its-large"
	requireGift(t, p.wish(t, wish{Do: "listen large", Network: "ct", Addr: its}))
	requireGift(t, p.wish(t, wish{Do: "hold", Network: "ct", Addr: ct}))
	a := harness.NewApp(t)
	first := dial(t, a, its)
	requireEcho(t, first)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	var size uint64
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmSize: %d", &size)
	}
	require.NotZero(t, size)
	for range 2 {
		requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_AS, Limit: size<<10 + 350<<20})) // Go needs some, too
		var g gift
		for range 20 {
			if g = p.wish(t, wish{Do: "hold", Network: "ct", Addr: large}); g.Text != "" {
				break
			}
		}
		require.Equal(t, syscall.ENOMEM, g.Errno, "%+v", g)
		require.Contains(t, g.Text, "cannot allocate memory")
		d := ctnet.Dialer{App: a, Timeout: 5 * time.Second}
		_, err := d.Dial("ct", its)
		require.ErrorIs(t, err, syscall.ENOMEM)
		requireEcho(t, first)
		requireGift(t, p.wish(t, wish{Do: "use"}))
		requireGift(t, p.wish(t, wish{Do: "limit", Resource: unix.RLIMIT_AS, Limit: noLimit}))
		requireGift(t, p.wish(t, wish{Do: "hold", Network: "ct", Addr: large}))
		c := dial(t, a, its) // it stays, so that no segment is empty again
		requireEcho(t, c)
		defer c.Close()
		requireGift(t, p.wish(t, wish{Do: "let go"}))
		requireGift(t, p.wish(t, wish{Do: "hold", Network: "ct", Addr: ct}))
	}
	require.NoError(t, first.Close())
	require.NoError(t, p.in.Close())
}

// TestDirectoryFull has the directory's file system be full: Listen says so, on network tcp
// the kernel's listener is returned, and as soon as there is room all is well.
func TestDirectoryFull(t *testing.T) {
	leakcheck.Check(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), harness.RoleEnv+"=exhausted", "CTNET_DIR="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		t.Skip("no mount namespace: ", err)
	}
	p := &process{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(p.end)
	require.Equal(t, "ready", p.line(t))
	if g := p.wish(t, wish{Do: "mount", Addr: dir}); g.Text != "" {
		t.Skip("no mount: ", g.Text)
	}
	requireGift(t, p.wish(t, wish{Do: "listen", Network: "ct", Addr: "before"}))
	for i := range 2 {
		requireGift(t, p.wish(t, wish{Do: "fill", Addr: dir}))
		g := p.wish(t, wish{Do: "listen", Network: "ct", Addr: fmt.Sprint("full", i)})
		require.Equal(t, syscall.ENOSPC, g.Errno, "%+v", g)
		require.Contains(t, g.Text, "no space left on device")
		g = p.wish(t, wish{Do: "listen", Network: "tcp", Addr: "127.0.0.1:0"})
		requireGift(t, g)
		require.False(t, g.Cut)
		requireGift(t, p.wish(t, wish{Do: "dial", Network: "ct", Addr: "before", NewApp: true}))
		requireGift(t, p.wish(t, wish{Do: "empty", Addr: dir}))
		requireGift(t, p.wish(t, wish{Do: "listen", Network: "ct", Addr: fmt.Sprint("full", i)}))
		g = p.wish(t, wish{Do: "listen", Network: "tcp", Addr: "127.0.0.1:0"})
		requireGift(t, g)
		require.True(t, g.Cut)
	}
}

// newCgroup makes a cgroup of a controller, and skips the test where that can't be.
func newCgroup(t *testing.T, controller string) (dir string, v2 bool) {
	t.Helper()
	dir = filepath.Join("/sys/fs/cgroup", controller, fmt.Sprintf("ctnet-test-%d", os.Getpid()))
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir, v2 = filepath.Join("/sys/fs/cgroup", fmt.Sprintf("ctnet-test-%s-%d", controller, os.Getpid())), true
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("no cgroup: ", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir, v2
}

func setCgroup(t *testing.T, dir, file string, value any) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(fmt.Sprint(value)), 0o644); err != nil {
		t.Skip("no cgroup: ", err)
	}
}

// TestMemoryCgroup has a process killed for want of memory while it fills fifos: the other side
// reads what had come, and has as many descriptors and mappings as before.
func TestMemoryCgroup(t *testing.T) {
	dir, v2 := newCgroup(t, "memory")
	limit := map[bool]string{false: "memory.limit_in_bytes", true: "memory.max"}[v2]
	setCgroup(t, dir, limit, 100<<20)
	leakcheck.Check(t)
	a := harness.NewApp(t)
	ln := listenOn(t, ctnet.ListenConfig{App: a, ReadBuffer: ctnet.MaxBuffer, WriteBuffer: ctnet.MinBuffer})
	p := launch(t, "exhausted")
	require.Equal(t, "ready", p.line(t))
	setCgroup(t, dir, "cgroup.procs", p.cmd.Process.Pid)
	b, err := json.Marshal(wish{Do: "hog", Network: "ct", Addr: t.Name()})
	require.NoError(t, err)
	_, err = p.in.Write(append(b, '\n'))
	require.NoError(t, err)
	died := make(chan struct{})
	go func() {
		p.cmd.Wait()
		close(died)
	}()
	conns := []*ctnet.Conn{acceptConn(t, ln)}
	harness.RequireWithin(t, 20*time.Second, died, "the process that takes more memory than it may")
	require.Equal(t, syscall.SIGKILL, p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	p.in.Close()
	*p = process{}
	for a.Snapshot().Listeners[0].Waiting > 0 {
		conns = append(conns, acceptConn(t, ln))
	}
	total := 0
	for _, c := range conns {
		for b := make([]byte, 1<<20); ; {
			n, err := c.Read(b)
			total += n
			require.Zero(t, strings.Trim(string(b[:n]), "\x00"))
			if err != nil {
				require.ErrorIs(t, err, syscall.ECONNRESET)
				break
			}
		}
		require.NoError(t, c.Close())
	}
	t.Logf("%d connections, %d bytes", len(conns), total)
	require.Greater(t, total, 20<<20)
}

// TestPidsCgroup has a process that can't have more threads than it has: connections need
// none.
func TestPidsCgroup(t *testing.T) {
	dir, _ := newCgroup(t, "pids")
	p, ct, _, tcp := beExhausted(t)
	setCgroup(t, dir, "cgroup.procs", p.cmd.Process.Pid)
	for range 20 { // Go has the threads that it wants
		requireGift(t, p.wish(t, wish{Do: "dial", Network: "ct", Addr: ct, NewApp: true}))
		requireGift(t, p.wish(t, wish{Do: "dial", Network: "tcp", Addr: tcp, NewApp: true}))
	}
	now, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	require.NoError(t, err)
	var n int
	fmt.Sscan(string(now), &n)
	const spare = 4 // Go's own: it ends a process that can't have one
	setCgroup(t, dir, "pids.max", n+spare)
	for range 300 {
		requireGift(t, p.wish(t, wish{Do: "hold", Network: "ct", Addr: ct}))
	}
	requireGift(t, p.wish(t, wish{Do: "use"}))
	requireGift(t, p.wish(t, wish{Do: "dial", Network: "tcp", Addr: tcp, NewApp: true}))
	requireGift(t, p.wish(t, wish{Do: "let go"}))
	p.end()
	*p = process{}
}
