package conformance

import (
	"context"
	"os"
	"syscall"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

// stateOf returns the state of the connection with these addresses in a snapshot.
func stateOf(s ctnet.Snapshot, c *ctnet.Conn) (info ctnet.ConnInfo, ok bool) {
	for _, info := range s.Connections {
		if info.Local == c.LocalAddr().String() && info.Remote == c.RemoteAddr().String() {
			return info, true
		}
	}
	return info, false
}

func TestSnapshotStates(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
		c, s := connectTo(t, ln, client)
		require.Equal(t, []ctnet.ListenerInfo{{Network: "ct", Address: t.Name(), Backlog: 1}}, server.Snapshot().Listeners)
		is := func(a *ctnet.App, end *ctnet.Conn, state string) ctnet.ConnInfo {
			t.Helper()
			info, ok := stateOf(a.Snapshot(), end)
			require.True(t, ok)
			require.Equal(t, state, info.State)
			return info
		}

		is(client, c, ctnet.StateEstablished)
		writeString(t, c, "hello")
		info := is(client, c, ctnet.StateEstablished)
		require.Equal(t, 5, info.SendQueue)
		require.Equal(t, ctnet.DefaultBuffer, info.SendBuffer)
		require.Equal(t, os.Getpid(), info.Peer.PID)
		require.Equal(t, 5, is(server, s, ctnet.StateEstablished).RecvQueue)
		readString(t, s, "hello")
		require.Zero(t, is(client, c, ctnet.StateEstablished).SendQueue)

		require.NoError(t, c.CloseWrite())
		is(client, c, ctnet.StateFinWait)
		is(server, s, ctnet.StateCloseWait)
		writeString(t, s, "view")
		_, err := c.Peek(4)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		is(client, c, ctnet.StateClosed)
		c.Discard(0)
		_, ok := stateOf(client.Snapshot(), c)
		require.False(t, ok)
		require.NoError(t, s.Close())
		require.Zero(t, client.Snapshot().Conns)

		first := dialConn(t, client)
		ctx, cancel := context.WithCancel(t.Context())
		p := startDial(t, ctx, client)
		defer func() {
			cancel()
			<-p.done
		}()
		is(client, first, ctnet.StateEstablished)
		halfOpens := func(a *ctnet.App) (n int) {
			for _, info := range a.Snapshot().Connections {
				if info.State == ctnet.StateHalfOpen {
					n++
				}
			}
			return n
		}
		harness.Eventually(t, func() bool { return halfOpens(client) > 0 && halfOpens(server) > 0 })
		require.Equal(t, []ctnet.ListenerInfo{{Network: "ct", Address: t.Name(), Backlog: 1, Waiting: 2}}, server.Snapshot().Listeners)
	})
}

// TestSnapshotCounts has what a Snapshot counts, and where it says the connections are.
func TestSnapshotCounts(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
		c, s := connectTo(t, ln, client)
		writeString(t, c, "hello")
		readString(t, s, "hello")
		writeString(t, s, "four")
		sent, ok := stateOf(client.Snapshot(), c)
		require.True(t, ok)
		require.EqualValues(t, 5, sent.Send.Bytes)
		require.EqualValues(t, 1, sent.Send.Ops)
		require.EqualValues(t, 0, sent.Recv.Bytes)
		require.Equal(t, 4, sent.RecvQueue)
		require.Equal(t, 4, sent.Recv.High)
		got, ok := stateOf(server.Snapshot(), s)
		require.True(t, ok)
		require.EqualValues(t, 5, got.Recv.Bytes)
		require.EqualValues(t, 4, got.Send.Bytes)
		require.Greater(t, got.Age, got.Idle)
		require.Equal(t, []int{sent.Segment, sent.Slot}, []int{got.Segment, got.Slot})

		inside := server == client
		for _, side := range []struct {
			app  *ctnet.App
			role string
			conn ctnet.ConnInfo
		}{{client, ctnet.RoleDialed, sent}, {server, ctnet.RoleListened, got}} {
			var snap ctnet.Snapshot
			harness.Eventually(t, func() bool { // on a busy machine counting may take too long
				snap = side.app.Snapshot()
				require.Len(t, snap.Pairs, 1)
				return snap.Pairs[0].Resident >= 0
			})
			p := snap.Pairs[0]
			require.Equal(t, side.conn.Pair, p.ID)
			require.Equal(t, side.conn.Worker, p.Worker)
			require.Equal(t, 1, p.Conns)
			require.Equal(t, 1, p.Segments)
			require.Equal(t, snap.Bytes, p.Mapped)
			require.Positive(t, p.Resident)
			require.Less(t, p.Resident, p.Mapped/4)
			require.Equal(t, ctnet.DefaultBuffer, p.RecvBuffer)
			require.Positive(t, p.FreeSlots)
			require.Equal(t, os.Getpid(), p.Peer.PID)
			exe, err := os.Executable()
			require.NoError(t, err)
			require.Equal(t, exe, p.PeerExe)
			require.Equal(t, exe, snap.Exe)
			if inside {
				require.Equal(t, ctnet.RoleInside, p.Role)
				require.Equal(t, -1, p.Worker)
			} else {
				require.Equal(t, side.role, p.Role)
				require.Equal(t, "ct:"+t.Name(), p.Name)
				require.GreaterOrEqual(t, p.Worker, 0)
			}
		}

		// The next connection has another ID, in the same slot or not.
		require.NoError(t, s.Close())
		info, ok := stateOf(client.Snapshot(), c)
		require.True(t, ok)
		require.Equal(t, ctnet.StateCloseWait, info.State)
		require.NoError(t, c.CloseWrite())
		info, _ = stateOf(client.Snapshot(), c)
		require.Equal(t, ctnet.StateClosing, info.State)
		readString(t, c, "four")
		require.NoError(t, c.Close())
		require.Zero(t, client.Snapshot().Reset)
		c, s = connectTo(t, ln, client)
		info, ok = stateOf(client.Snapshot(), c)
		require.True(t, ok)
		require.NotEqual(t, sent.ID, info.ID)

		require.NoError(t, s.SetLinger(0))
		require.NoError(t, s.Close())
		info, ok = stateOf(client.Snapshot(), c)
		require.True(t, ok)
		require.Equal(t, ctnet.StateReset, info.State)
		require.NoError(t, c.Close())
		ends := server.Snapshot().Reset
		if !inside {
			ends += client.Snapshot().Reset
		}
		require.EqualValues(t, 2, ends)

		// Dials that are given up, and that are refused.
		first := dialConn(t, client)
		ctx, cancel := context.WithCancel(t.Context())
		p := startDial(t, ctx, client)
		harness.Eventually(t, func() bool { return server.Snapshot().Listeners[0].Waiting == 2 })
		cancel()
		<-p.done
		require.ErrorIs(t, p.err, context.Canceled)
		require.EqualValues(t, 1, client.Snapshot().Cancelled)
		harness.Eventually(t, func() bool { return server.Snapshot().Cancelled == 1 })
		require.Zero(t, server.Snapshot().Refused)
		p = startDial(t, t.Context(), client)
		require.NoError(t, ln.Close())
		<-p.done
		require.ErrorIs(t, p.err, syscall.ECONNREFUSED)
		refused := server.Snapshot().Refused
		require.Positive(t, refused)
		require.LessOrEqual(t, refused, uint64(3), "a Dial tries three times")
		first.Close()
	})
}

// TestSnapshotTotals has what stays when connections are gone, and the limits.
func TestSnapshotTotals(t *testing.T) {
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		totals := func() (all ctnet.Totals) {
			all = server.Snapshot().Totals
			if server != client {
				other := client.Snapshot().Totals
				all.Dialed += other.Dialed
				for _, sum := range []struct{ to, from *ctnet.FlowTotals }{{&all.Recv, &other.Recv}, {&all.Send, &other.Send}} {
					sum.to.Bytes += sum.from.Bytes
					sum.to.Ops += sum.from.Ops
					sum.to.Transfers += sum.from.Transfers
				}
			}
			return all
		}
		for i := range uint64(5) {
			c, s := connectTo(t, ln, client)
			writeString(t, c, "hello")
			readString(t, s, "hello")
			writeString(t, s, "four")
			check := func() {
				t.Helper()
				now := totals()
				require.Equal(t, i+1, now.Dialed)
				require.Equal(t, i+1, now.Accepted)
				require.Equal(t, 9*(i+1), now.Send.Bytes)
				require.Equal(t, 2*(i+1), now.Send.Ops)
				require.Equal(t, 2*(i+1), now.Send.Transfers)
				require.Equal(t, 5*(i+1), now.Recv.Bytes)
				require.Equal(t, i+1, now.Recv.Ops)
			}
			if i%2 == 0 {
				check()
			}
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
			check()
		}
	})

	a, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: 7, MaxBytes: 8 << 20, MaxMemory: 9 << 20})
	require.NoError(t, err)
	defer a.Close()
	require.Equal(t, ctnet.Limits{Conns: 7, Segments: 8_192, Bytes: 8 << 20, Memory: 9 << 20}, a.Snapshot().Limits)
}

// TestInspect asks another process.
func TestInspect(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	c := dial(t, a, t.Name())
	defer c.Close()
	requireEcho(t, c)
	before := leakcheck.Now()
	find := func() (found *ctnet.Snapshot) {
		all, err := ctnet.Inspect(t.Context())
		require.NoError(t, err)
		for _, s := range all {
			if s.PID == cmd.Process.Pid {
				require.Nil(t, found, "twice the same application")
				found = &s
			}
		}
		return found
	}
	s := find()
	require.NotNil(t, s)
	require.Equal(t, []ctnet.ListenerInfo{{Network: "ct", Address: t.Name(), Backlog: ctnet.DefaultBacklog}}, s.Listeners)
	require.Len(t, s.Connections, 1)
	require.Equal(t, c.LocalAddr().String(), s.Connections[0].Remote)
	require.EqualValues(t, 1, s.Conns)
	leakcheck.RequireBack(t, before)

	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.Nil(t, find()) // its socket file is still there
}

// TestInspectContext asks when there is no time left.
func TestInspectContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	listenOn(t, ctnet.ListenConfig{App: harness.NewApp(t)})
	all, err := ctnet.Inspect(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, all)
}
