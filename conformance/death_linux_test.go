package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

func init() {
	roles["storm"] = storm
	roles["dial many"] = dialMany
	roles["no accept"] = noAccept
	roles["close while dialing"] = closeWhileDialing
	roles["close amid dials"] = closeAmidDials
}

// A request is its length and its bytes, at most maxRequest. The reply is the
// bytes. Then the client closes, and the server after it.
const maxRequest = 100_000

func sendRequest(c net.Conn, size int) (sent []byte, err error) {
	b := make([]byte, 4+size)
	binary.LittleEndian.PutUint32(b, uint32(size))
	for i := range size {
		b[4+i] = byte(i ^ size)
	}
	_, err = c.Write(b)
	return b[4:], err
}

func readRequest(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > maxRequest {
		return nil, fmt.Errorf("a request of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	for i := range b {
		if b[i] != byte(i^len(b)) {
			return nil, fmt.Errorf("byte %d of %d is wrong", i, len(b))
		}
	}
	return b, nil
}

// errTruncated is an end of the stream, as of a peer that closed in order, where
// there can be none.
var errTruncated = errors.New("io.EOF before the end")

// truncated makes an early io.EOF an error of its own.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errTruncated
	}
	return err
}

// cycle dials, sends a request, reads the reply, and closes.
func cycle(a *ctnet.App, name string, size int) error {
	d := ctnet.Dialer{App: a}
	c, err := d.Dial("ct", name)
	if err != nil {
		return err
	}
	defer c.Close()
	sent, err := sendRequest(c, size)
	if err != nil {
		return err
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return truncated(err)
	}
	if !bytes.Equal(sent, got) {
		return errors.New("the reply differs from the request")
	}
	return nil
}

func requestSize(rnd *rand.Rand) int { return 1 + rnd.IntN(1<<(1+rnd.IntN(16))) }

// newSeed returns a source of random numbers, and logs how to get the same again.
func newSeed(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// kill sends SIGKILL, and reap waits until the process is dead of it.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
}

func reap(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled() && status.Signal() == syscall.SIGKILL, "%v", cmd.ProcessState)
}

// storm has 16 goroutines do cycles against NAME.
func storm() {
	for i := range 16 {
		rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(i)))
		go func() {
			for {
				harness.Check(cycle(nil, os.Getenv("CTNET_TEST_NAME"), requestSize(rnd)))
			}
		}()
	}
	untilStdinCloses()
}

// dialMany dials NAME, many times at once, and writes to what it gets.
func dialMany() {
	for range 500 {
		go func() {
			c, err := ctnet.Dial("ct", os.Getenv("CTNET_TEST_NAME"))
			harness.Check(err)
			_, err = c.Write([]byte("hello"))
			harness.Check(err)
		}()
	}
	untilStdinCloses()
}

// TestClientKilledWhileItDials kills a client while its Dials come in, most of
// which wait because the backlog is full. Those are forgotten; those that were
// answered can be accepted.
func TestClientKilledWhileItDials(t *testing.T) {
	rnd := newSeed(t)
	const backlog = 4
	a := harness.NewApp(t)
	var before leakcheck.Usage
	for round := range 9 {
		ln := listenOn(t, ctnet.ListenConfig{App: a, Backlog: backlog, Peer: ctnet.PeerLimits{HalfOpens: 1000}})
		waiting := func() int { return a.Snapshot().Listeners[0].Waiting }
		target := 20 + rnd.IntN(300)
		goroutines := runtime.NumGoroutine()
		cmd := startProcess(t, "dial many", t.Name())
		for start := time.Now(); waiting() < target; runtime.Gosched() {
			require.Less(t, time.Since(start), 10*time.Second)
		}
		kill(t, cmd)
		start := time.Now()
		reap(t, cmd)
		// When the pair's worker has ended it has seen all Dials and the death. That a
		// goroutine of an earlier test ends must not be taken for it.
		harness.Eventually(t, func() bool {
			return runtime.NumGoroutine() <= goroutines &&
				waiting() == backlog && a.Snapshot().Conns == backlog
		})
		require.Less(t, time.Since(start), time.Second)
		if round%3 != 2 {
			for range backlog {
				c, err := ln.AcceptConn()
				require.NoError(t, err)
				got, err := io.ReadAll(c)
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.True(t, strings.HasPrefix("hello", string(got)), "%q", got)
				require.NoError(t, c.Close())
			}
			require.Zero(t, waiting())
		}
		require.NoError(t, ln.Close())
		require.Zero(t, a.Snapshot().Conns)
		if round == 0 {
			before = harness.MeasureIdle(t)
		}
		leakcheck.RequireBack(t, before)
	}
}

// noAccept listens on NAME and doesn't accept: the second Dial waits.
func noAccept() {
	lc := ctnet.ListenConfig{Backlog: 1}
	ln, err := lc.Listen(context.Background(), "ct", os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	defer ln.Close()
	untilStdinCloses()
}

// TestKilledWhileDialWaits kills a server while Dials wait because its backlog is
// full.
func TestKilledWhileDialWaits(t *testing.T) {
	a := harness.NewApp(t)
	var before leakcheck.Usage
	for round := range 4 {
		cmd := startProcess(t, "no accept", t.Name())
		answered := dialConn(t, a)
		writeString(t, answered, "hello")
		var waiting []*pendingDial
		for range 8 {
			waiting = append(waiting, startDial(t, t.Context(), a))
		}
		kill(t, cmd)
		start := time.Now()
		for _, p := range waiting {
			harness.RequireWithin(t, time.Second, p.done, "Dial after the server was killed")
			require.Nil(t, p.conn)
			require.ErrorIs(t, p.err, syscall.ECONNREFUSED)
			e := opErrorOf(t, p.err)
			require.Equal(t, "dial", e.Op)
			require.False(t, e.Timeout())
		}
		requireReset(t, answered)
		require.Less(t, time.Since(start), time.Second)
		require.NoError(t, answered.Close())
		reap(t, cmd)
		if round == 0 {
			before = harness.MeasureIdle(t)
		}
		leakcheck.RequireBack(t, before)
	}
}

// stop stops a process, which goes on at the end of the test if not before, and
// waits until all its threads have stopped.
func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGCONT) })
	harness.Eventually(t, func() bool {
		dir := fmt.Sprintf("/proc/%d/task/", cmd.Process.Pid)
		threads, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, thread := range threads {
			stat, err := os.ReadFile(dir + thread.Name() + "/stat")
			require.NoError(t, err)
			if _, state, _ := strings.Cut(string(stat), ") "); state[0] != 'T' {
				return false
			}
		}
		return true
	})
}

// A pendingCall is a Read or Write that is waiting, or about to.
type pendingCall struct {
	n    int
	err  error
	done chan struct{}
}

func startCall(call func([]byte) (int, error), b []byte) *pendingCall {
	p := &pendingCall{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.n, p.err = call(b)
	}()
	return p
}

func (p *pendingCall) require(t *testing.T, n int, err error) {
	t.Helper()
	harness.RequireWithin(t, time.Second, p.done, "a call with a stopped peer")
	require.ErrorIs(t, p.err, err)
	require.Equal(t, n, p.n)
}

// measureWarm measures after an application has come, dialed, and gone.
func measureWarm(t *testing.T) leakcheck.Usage {
	t.Helper()
	a := harness.NewApp(t)
	requireEchoOnce(t, a)
	require.NoError(t, a.Close())
	return harness.MeasureIdle(t)
}

// TestPeerStopped stops a server: deadlines and Close work, and when it goes on
// so do the connections that were not closed.
func TestPeerStopped(t *testing.T) {
	cmd := startProcess(t, "echo", t.Name())
	before := measureWarm(t)
	a := harness.NewApp(t)
	conns := make([]*ctnet.Conn, 6)
	for i := range conns {
		conns[i] = dialConn(t, a)
		requireEcho(t, conns[i])
	}
	reader, writer, closedReader, closedWriter, idle := conns[0], conns[1], conns[2], conns[3], conns[4]
	for _, c := range conns {
		// The server's io.Copy lets go of the bytes after it has sent them back.
		harness.Eventually(t, func() bool { return sendQueue(a, c) == 0 })
	}
	stop(t, cmd)

	const wait = 20 * time.Millisecond
	big := bytes.Repeat([]byte("0123456789abcdef"), 4*ctnet.DefaultBuffer/16)
	read := startCall(reader.Read, make([]byte, 1))
	write := startCall(writer.Write, big)
	closedRead := startCall(closedReader.Read, make([]byte, 1))
	closedWrite := startCall(closedWriter.Write, big)

	require.NoError(t, reader.SetReadDeadline(time.Now().Add(wait)))
	read.require(t, 0, os.ErrDeadlineExceeded)
	harness.Eventually(t, func() bool { return sendQueue(a, writer) == ctnet.DefaultBuffer })
	require.NoError(t, writer.SetWriteDeadline(time.Now().Add(wait)))
	write.require(t, ctnet.DefaultBuffer, os.ErrDeadlineExceeded)
	other := harness.NewApp(t)
	for _, app := range []*ctnet.App{a, other} { // a pair that is there, and a new one
		start := time.Now()
		d := ctnet.Dialer{App: app, Timeout: wait}
		_, err := d.Dial("ct", t.Name())
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, opErrorOf(t, err).Timeout())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(wait, cancel)
		d.Timeout = 0
		_, err = d.DialContext(ctx, "ct", t.Name())
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, time.Since(start), time.Second)
	}
	harness.Eventually(t, func() bool { return sendQueue(a, closedWriter) == ctnet.DefaultBuffer })
	start := time.Now()
	for _, c := range []*ctnet.Conn{closedReader, closedWriter, idle} {
		require.NoError(t, c.Close())
	}
	closedRead.require(t, 0, net.ErrClosed)
	closedWrite.require(t, ctnet.DefaultBuffer, net.ErrClosed)
	require.Less(t, time.Since(start), time.Second)

	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	for _, c := range []*ctnet.Conn{reader, writer, conns[5]} {
		require.NoError(t, c.SetDeadline(time.Time{}))
		if c == writer {
			got := make([]byte, ctnet.DefaultBuffer)
			_, err := io.ReadFull(c, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(big[:len(got)], got))
		}
		requireEcho(t, c)
		require.NoError(t, c.Close())
	}
	requireEchoOnce(t, a)
	requireEchoOnce(t, other)
	require.NoError(t, a.Close())
	require.NoError(t, other.Close())
	leakcheck.RequireBack(t, before)
	kill(t, cmd) // with the race detector it takes a second to end
}

// sendQueue returns how many bytes wait to be read by the peer.
func sendQueue(a *ctnet.App, c *ctnet.Conn) int {
	for _, info := range a.Snapshot().Connections {
		if info.Local == c.LocalAddr().String() && info.Remote == c.RemoteAddr().String() {
			return info.SendQueue
		}
	}
	return -1
}

// TestAppCloseServerStopped closes an application whose peer, which it has dialed,
// is stopped.
func TestAppCloseServerStopped(t *testing.T) {
	cmd := startProcess(t, "echo", t.Name())
	before := measureWarm(t)
	a := harness.NewApp(t)
	var calls []*pendingCall
	conns := make([]*ctnet.Conn, 10)
	for i := range conns {
		conns[i] = dialConn(t, a)
		requireEcho(t, conns[i])
		calls = append(calls, startCall(conns[i].Read, make([]byte, 1)))
	}
	stop(t, cmd)
	write := startCall(conns[0].Write, make([]byte, 2*ctnet.DefaultBuffer))
	harness.Eventually(t, func() bool { return sendQueue(a, conns[0]) == ctnet.DefaultBuffer })
	start := time.Now()
	require.NoError(t, a.Close())
	require.Less(t, time.Since(start), time.Second)
	for _, call := range calls {
		call.require(t, 0, net.ErrClosed)
	}
	write.require(t, ctnet.DefaultBuffer, net.ErrClosed)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	measureWarm(t) // the server is well
	leakcheck.RequireBack(t, before)
	kill(t, cmd)
}

// TestAppCloseClientStopped closes an application whose peer, which has dialed it,
// is stopped, and has connections that were accepted, that were not, and Dials
// that wait.
func TestAppCloseClientStopped(t *testing.T) {
	echoing := startProcess(t, "echo", t.Name())
	measureWarm(t)
	kill(t, echoing)
	reap(t, echoing)
	before := leakcheck.Now()
	a := harness.NewApp(t)
	ln := listenOn(t, ctnet.ListenConfig{App: a, Backlog: 4})
	cmd := startProcess(t, "storm", t.Name())
	var conns []*ctnet.Conn
	for range 8 {
		conns = append(conns, acceptConn(t, ln))
	}
	for _, c := range conns {
		_, err := readRequest(c)
		require.NoError(t, err)
	}
	harness.Eventually(t, func() bool { return a.Snapshot().Listeners[0].Waiting == 8 })
	stop(t, cmd)
	read := startCall(conns[0].Read, make([]byte, 1))
	require.NoError(t, conns[0].SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	read.require(t, 0, os.ErrDeadlineExceeded)
	var calls []*pendingCall
	for _, c := range conns[1:] {
		calls = append(calls, startCall(c.Read, make([]byte, 1)))
	}
	write := startCall(conns[1].Write, make([]byte, 2*ctnet.DefaultBuffer))
	harness.Eventually(t, func() bool { return sendQueue(a, conns[1]) == ctnet.DefaultBuffer })
	start := time.Now()
	require.NoError(t, conns[0].Close())
	require.NoError(t, ln.Close())
	require.NoError(t, a.Close())
	require.Less(t, time.Since(start), time.Second)
	for _, call := range calls {
		call.require(t, 0, net.ErrClosed)
	}
	write.require(t, ctnet.DefaultBuffer, net.ErrClosed)
	kill(t, cmd)
	reap(t, cmd)
	leakcheck.RequireBack(t, before)
}

// closeWhileDialing closes an application while a Dial of it to NAME waits, and
// has the process PID continue then.
func closeWhileDialing() {
	name := os.Getenv("CTNET_TEST_NAME")
	pid, err := strconv.Atoi(os.Getenv("CTNET_TEST_PID"))
	harness.Check(err)
	goroutines := runtime.NumGoroutine()
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	d := ctnet.Dialer{App: a}
	ctx := &watchedContext{Context: context.Background(), watched: make(chan struct{})}
	until := func(what string, ok func() bool) {
		for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
			if time.Since(start) > time.Second {
				panic("after a second not yet: " + what)
			}
		}
	}
	if os.Getenv("CTNET_TEST_FULL") != "" {
		_, err := d.Dial("ct", name)
		harness.Check(err)
	}
	dialed := make(chan error, 1)
	go func() {
		_, err := d.DialContext(ctx, "ct", name)
		dialed <- err
	}()
	<-ctx.watched
	until("it attaches", func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		harness.Check(err)
		return bytes.Contains(maps, []byte("memfd:ctnet events"))
	})
	start := time.Now()
	harness.Check(a.Close())
	if took := time.Since(start); took > time.Second {
		panic(fmt.Sprintf("App.Close took %v", took))
	}
	harness.Check(syscall.Kill(pid, syscall.SIGCONT))
	until("Dial returns", func() bool { return len(dialed) > 0 })
	if err := <-dialed; !errors.Is(err, net.ErrClosed) {
		panic(fmt.Sprintf("Dial: %v", err))
	}
	until("nothing runs any more", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// closeAmidDials closes applications that are dialed, or dial, all the time.
func closeAmidDials() {
	rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), 0))
	name := os.Getenv("CTNET_TEST_NAME")
	newApp := func() *ctnet.App {
		a, err := ctnet.NewApp(ctnet.AppConfig{})
		harness.Check(err)
		return a
	}
	round := func(server, client *ctnet.App, doomed *ctnet.App, may func(error) bool) {
		lc := ctnet.ListenConfig{App: server, Backlog: 2}
		ln, err := lc.Listen(context.Background(), "ct", name)
		harness.Check(err)
		d := ctnet.Dialer{App: client, Timeout: 4 * time.Second}
		var dialing, accepting sync.WaitGroup
		for range 2 {
			accepting.Go(func() {
				for {
					c, err := ln.Accept()
					if errors.Is(err, net.ErrClosed) {
						return
					}
					harness.Check(err)
					c.Close()
				}
			})
		}
		var dials atomic.Int64
		target := rnd.Int64N(100)
		reached := make(chan struct{})
		for range 6 {
			dialing.Go(func() {
				for {
					if dials.Add(1) == target {
						close(reached)
					}
					c, err := d.Dial("ct", name)
					if err == nil {
						c.Close()
					} else if may(err) {
						return
					} else {
						panic(err)
					}
				}
			})
		}
		if target > 0 {
			<-reached
		}
		harness.Check(doomed.Close())
		dialing.Wait()
		ln.Close()
		accepting.Wait()
	}
	other := newApp()
	for range harness.Long(60, 600) {
		server := newApp()
		round(server, other, server, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
		client := newApp()
		round(other, client, client, func(err error) bool { return errors.Is(err, net.ErrClosed) })
		server, client = newApp(), newApp()
		round(server, client, server, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
		harness.Check(client.Close())
	}
	harness.Check(other.Close())
}

// inOtherProcess plays a role in another process, as it has been known to crash.
func inOtherProcess(t *testing.T, role string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), harness.RoleEnv+"="+role, "CTNET_TEST_NAME="+t.Name(), "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%.2000s", out)
}

// TestAppCloseWhileDialing closes an application while a Dial waits: because the
// backlog is full, or because the server's process is stopped and there has been
// no handshake.
func TestAppCloseWhileDialing(t *testing.T) {
	try := func(t *testing.T, cmd *exec.Cmd, env string) {
		inOtherProcess(t, "close while dialing", env, fmt.Sprintf("CTNET_TEST_PID=%d", cmd.Process.Pid))
		kill(t, cmd)
	}
	t.Run("full backlog", func(t *testing.T) {
		try(t, startProcess(t, "no accept", t.Name()), "CTNET_TEST_FULL=1")
	})
	t.Run("handshake", func(t *testing.T) {
		cmd := startProcess(t, "echo", t.Name())
		stop(t, cmd)
		try(t, cmd, "CTNET_TEST_FULL=")
	})
}

// TestAppCloseAmidDials closes applications at any moment of a handshake or Dial.
func TestAppCloseAmidDials(t *testing.T) { inOtherProcess(t, "close amid dials") }
