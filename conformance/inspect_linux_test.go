package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

// inspected returns the Snapshot of a process, or nil.
func inspected(t *testing.T, pid int) (found *ctnet.Snapshot) {
	t.Helper()
	all, _ := ctnet.Inspect(t.Context()) // other processes on the machine may not answer
	for _, s := range all {
		if s.PID == pid {
			require.Nil(t, found, "twice the same application")
			found = &s
		}
	}
	return found
}

// TestInspectDialer finds a process that only dials: one that has a connection, and one that only has
// one through the kernel.
func TestInspectDialer(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		t.Setenv("CTNET_DIR", dir)
		ln := listenOn(t, ctnet.ListenConfig{App: harness.NewApp(t)})
		p := launch(t, "dial", "CTNET_TEST_NETWORK=ct", "CTNET_TEST_BACK="+t.Name())
		defer p.end()
		p.line(t)
		s := inspected(t, p.cmd.Process.Pid)
		require.NotNil(t, s)
		require.Empty(t, s.Listeners)
		require.Len(t, s.Sockets, 1)
		require.Len(t, s.Connections, 1)
		require.Equal(t, t.Name(), s.Connections[0].Remote)
		require.Equal(t, os.Getpid(), s.Connections[0].Peer.PID)
		require.Equal(t, os.Geteuid(), s.UID)
		exe, err := os.Executable()
		require.NoError(t, err)
		require.Equal(t, exe, s.Exe)
		ln.Close()

		// A server without ctnet is none of the faults for which the process stays visible.
		kernel, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer kernel.Close()
		p = launch(t, "dial", "CTNET_TEST_NETWORK=tcp", "CTNET_TEST_BACK="+kernel.Addr().String())
		defer p.end()
		p.line(t)
		require.Nil(t, inspected(t, p.cmd.Process.Pid))

		forbids := ctnet.ListenConfig{App: harness.NewApp(t), Allow: func(ctnet.Cred) bool { return false }}
		kernel, err = forbids.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer kernel.Close()
		p = launch(t, "dial", "CTNET_TEST_NETWORK=tcp", "CTNET_TEST_BACK="+kernel.Addr().String())
		defer p.end()
		p.line(t)
		s = inspected(t, p.cmd.Process.Pid)
		require.NotNil(t, s)
		require.Empty(t, s.Connections)
		require.Len(t, s.Fallbacks, 1)
		require.Equal(t, ctnet.ReasonForbidden, s.Fallbacks[0].Reason)
		if dir != "" {
			t.Setenv("CTNET_DIR", "")
			require.Nil(t, inspected(t, p.cmd.Process.Pid), "it is in another place")
		}
	}
}

// TestShownOnce has an application that dials be found by one socket, which goes with it, and an
// application that listens by that of its listener.
func TestShownOnce(t *testing.T) {
	leakcheck.Check(t)
	a, server := harness.NewApp(t), harness.NewApp(t)
	ln := listenOn(t, ctnet.ListenConfig{App: server})
	for range 3 {
		d := ctnet.Dialer{App: a}
		c, err := d.Dial("ct", t.Name())
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		c.Close()
		s.Close()
	}
	require.Len(t, a.Snapshot().Sockets, 1)
	require.Len(t, server.Snapshot().Sockets, 1)
	both := harness.NewApp(t)
	other, err := (&ctnet.ListenConfig{App: both}).Listen(t.Context(), "ct", t.Name()+"2")
	require.NoError(t, err)
	defer other.Close()
	d := ctnet.Dialer{App: both}
	c, err := d.Dial("ct", t.Name())
	require.NoError(t, err)
	defer c.Close()
	require.Len(t, both.Snapshot().Sockets, 1)
	// Without a pair it is not found any more, and then again.
	harness.Eventually(t, func() bool { return len(a.Snapshot().Sockets) == 0 })
	d = ctnet.Dialer{App: a}
	c, err = d.Dial("ct", t.Name())
	require.NoError(t, err)
	defer c.Close()
	require.Len(t, a.Snapshot().Sockets, 1)
	require.NoError(t, a.Close())
	require.Empty(t, a.Snapshot().Sockets)
}

// TestSeenPeerStopped stops the process at the other end of a connection, and has it go on and end.
func TestSeenPeerStopped(t *testing.T) {
	cmd := startProcess(t, "echo", t.Name())
	a := harness.NewApp(t)
	d := ctnet.Dialer{App: a}
	c, err := d.Dial("ct", t.Name())
	require.NoError(t, err)
	defer c.Close()
	stopped := func() bool {
		pairs := a.Snapshot().Pairs
		return len(pairs) == 1 && pairs[0].Peer.PID == cmd.Process.Pid && pairs[0].PeerStopped
	}
	require.False(t, stopped())
	stop(t, cmd)
	require.True(t, stopped())
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	harness.Eventually(t, func() bool { return !stopped() })
	stop(t, cmd)
	require.True(t, stopped())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.False(t, stopped(), "the number can be another process's now")
}

// TestInspectStopped asks when processes are stopped, with several sockets each: all of them together
// take little more than half a second.
func TestInspectStopped(t *testing.T) {
	var pids []int
	for _, name := range []string{"a", "b", "c"} {
		cmd := startProcess(t, "echo", t.Name()+name)
		pids = append(pids, cmd.Process.Pid)
	}
	running := startProcess(t, "echo", t.Name())
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		defer syscall.Kill(pid, syscall.SIGCONT)
		harness.Eventually(t, func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			return err == nil && strings.Contains(string(b), "State:\tT")
		})
	}
	start := time.Now()
	all, err := ctnet.Inspect(t.Context())
	took := time.Since(start)
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.GreaterOrEqual(t, strings.Count(err.Error(), "it is stopped"), 3)
	require.GreaterOrEqual(t, took, 500*time.Millisecond)
	require.Less(t, took, 2500*time.Millisecond, "one after the other, or as for one that runs")
	var found bool
	for _, s := range all {
		require.NotContains(t, pids, s.PID)
		found = found || s.PID == running.Process.Pid
	}
	require.True(t, found)
}

// TestResetConn resets connections of other processes, and of this one, from outside.
func TestResetConn(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	c, other := dial(t, a, t.Name()), dial(t, a, t.Name())
	defer c.Close()
	defer other.Close()
	requireEcho(t, c)
	requireEcho(t, other)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	s := inspected(t, cmd.Process.Pid)
	require.NotNil(t, s)
	var id string
	for _, info := range s.Connections {
		if info.Remote == c.LocalAddr().String() {
			id = info.ID
		}
	}
	require.NotEmpty(t, id)
	require.NoError(t, s.ResetConn(t.Context(), id))
	require.ErrorIs(t, <-read, syscall.ECONNRESET)
	requireEcho(t, other)
	harness.Eventually(t, func() bool { return errors.Is(s.ResetConn(t.Context(), id), syscall.ESRCH) })
	require.ErrorIs(t, s.ResetConn(t.Context(), strings.Repeat("9", 300)), syscall.ESRCH)
	require.ErrorIs(t, (&ctnet.Snapshot{}).ResetConn(t.Context(), id), syscall.EINVAL)

	// At this end: the call that waits returns the same error, as do later ones.
	go func() {
		_, err := other.Read(make([]byte, 1))
		read <- err
	}()
	own := inspected(t, os.Getpid())
	require.NotNil(t, own)
	require.Len(t, own.Connections, 2)
	for _, info := range own.Connections {
		if info.Local == other.LocalAddr().String() {
			require.NoError(t, own.ResetConn(t.Context(), info.ID))
		}
	}
	require.ErrorIs(t, <-read, syscall.ECONNRESET)
	_, err := other.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.NoError(t, other.Close())

	// A Dial that was not answered fails.
	server := harness.NewApp(t)
	ln, err := (&ctnet.ListenConfig{App: server, Backlog: 1}).Listen(t.Context(), "ct", t.Name()+"2")
	require.NoError(t, err)
	defer ln.Close()
	d := ctnet.Dialer{App: a}
	first, err := d.Dial("ct", t.Name()+"2")
	require.NoError(t, err)
	defer first.Close()
	dialed := make(chan error, 1)
	go func() {
		_, err := d.DialContext(context.Background(), "ct", t.Name()+"2")
		dialed <- err
	}()
	halfOpen := func() (id string) {
		for _, info := range a.Snapshot().Connections {
			if info.State == ctnet.StateHalfOpen {
				id = info.ID
			}
		}
		return id
	}
	harness.Eventually(t, func() bool { return halfOpen() != "" })
	require.NoError(t, own.ResetConn(t.Context(), halfOpen()))
	require.Error(t, <-dialed)
}

// TestEvents asks for what happened at both ends of a connection that hangs between two processes: each end
// waits for the other, and says since when.
func TestEvents(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	c := dial(t, a, t.Name())
	defer c.Close()
	requireEcho(t, c)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	id := func(s *ctnet.Snapshot, local string) string {
		for _, info := range s.Connections {
			if info.Local == local {
				return info.ID
			}
		}
		require.Fail(t, "no such connection")
		return ""
	}
	here, there := inspected(t, os.Getpid()), inspected(t, cmd.Process.Pid)
	require.NotNil(t, here)
	require.NotNil(t, there)
	hereID := id(here, c.LocalAddr().String())
	for kind, look := range map[ctnet.EventKind]func() ([]ctnet.EndEvents, error){
		ctnet.EventDialed:   func() ([]ctnet.EndEvents, error) { return here.Events(t.Context(), hereID) },
		ctnet.EventAccepted: func() ([]ctnet.EndEvents, error) { return there.Events(t.Context(), id(there, t.Name())) },
	} {
		hangs := func() (e ctnet.EndEvents, last ctnet.Event) {
			ends, err := look()
			require.NoError(t, err)
			require.Len(t, ends, 1)
			require.Equal(t, kind, ends[0].Events[0].Kind)
			return ends[0], ends[0].Events[len(ends[0].Events)-1]
		}
		var first ctnet.Event
		harness.Eventually(t, func() bool {
			_, first = hangs()
			return first.Kind == ctnet.EventStallData && first.Ended == ""
		})
		harness.Eventually(t, func() bool {
			e, later := hangs()
			require.Equal(t, ctnet.StateEstablished, e.State)
			require.Equal(t, ctnet.EventStallData, later.Kind)
			require.Empty(t, later.Ended)
			require.WithinDuration(t, first.At, later.At, time.Minute, "it is the same stall")
			require.WithinDuration(t, time.Now(), later.At.Add(later.For), time.Minute)
			return later.For > first.For+10*time.Millisecond
		})
	}
	require.Equal(t, hereID, a.Events(hereID)[0].ID)
	for _, none := range []string{"9.9.9.9", "", strings.Repeat("9", 300)} {
		_, err := here.Events(t.Context(), none)
		require.ErrorIs(t, err, syscall.ESRCH)
		require.Empty(t, a.Events(none))
	}
	_, err := (&ctnet.Snapshot{}).Events(t.Context(), hereID)
	require.ErrorIs(t, err, syscall.EINVAL)

	require.NoError(t, there.ResetConn(t.Context(), id(there, t.Name())))
	require.ErrorIs(t, <-read, syscall.ECONNRESET)
	ends, err := here.Events(t.Context(), hereID)
	require.NoError(t, err)
	var text []string
	for _, v := range ends[0].Events {
		text = append(text, string(v.Kind)+" "+string(v.Ended))
	}
	require.Contains(t, text, "stall-data ended")
	require.Equal(t, "reset-seen ", text[len(text)-1])
}
