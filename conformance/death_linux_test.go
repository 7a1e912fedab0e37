package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	roles["churn"] = churn
	roles["storm"] = storm
	roles["dial many"] = dialMany
	roles["survivor"] = survivor
	roles["no accept"] = noAccept
	roles["writer"] = writer
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

// errTruncated is an orderly end of the stream where the stream must not end in order.
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

// reply is a server's part of a cycle. It returns when the client has closed.
func reply(c net.Conn) error {
	defer c.Close()
	b, err := readRequest(c)
	if err != nil {
		return truncated(err)
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = c.Read(b[:1])
	if err == nil {
		err = errors.New("a byte after the request")
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

func requestSize(rnd *rand.Rand) int { return 1 + rnd.IntN(1<<(1+rnd.IntN(16))) }

// newSeed returns a source of random numbers, and logs its seed.
func newSeed(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// kill sends SIGKILL, and reap waits until the process is dead.
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

// churn accepts connections to NAME and replies, as fast as it can.
func churn() {
	ln, err := ctnet.Listen("ct", os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	go func() {
		for {
			c, err := ln.Accept()
			harness.Check(err)
			go func() { harness.Check(reply(c)) }()
		}
	}()
	untilStdinCloses()
}

// TestServerKilled kills a server while connections are dialed, used and closed
// all the time, by applications that know it and by new ones.
func TestServerKilled(t *testing.T) {
	rnd := newSeed(t)
	a := harness.NewApp(t)
	// The first round makes the application have what it keeps.
	var before leakcheck.Usage
	ends := make(map[string]int)
	for round := range 11 {
		cmd := startProcess(t, "churn", t.Name())
		target := int64(rnd.IntN(300))
		var cycles atomic.Int64
		var killed atomic.Bool
		reached := make(chan struct{})
		errs := make(chan error, 16)
		var running sync.WaitGroup
		for i := range cap(errs) {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
			running.Go(func() {
				for {
					app := a
					var err error
					if i%4 == 0 {
						if app, err = ctnet.NewApp(ctnet.AppConfig{}); err != nil {
							errs <- err
							return
						}
					}
					err = cycle(app, t.Name(), requestSize(rnd))
					if err != nil && !killed.Load() {
						err = fmt.Errorf("before the server was killed: %v", err)
					}
					if app != a {
						app.Close()
					}
					if err != nil {
						errs <- err
						return
					}
					if cycles.Add(1) == target {
						close(reached)
					}
				}
			})
		}
		done := harness.AllDone(&running)
		if target > 0 {
			select {
			case <-reached:
			case <-done:
			}
		}
		killed.Store(true)
		kill(t, cmd)
		harness.RequireWithin(t, time.Second, done, "a call after the server was killed")
		close(errs)
		for err := range errs {
			if !errors.Is(err, syscall.ECONNREFUSED) {
				require.ErrorIs(t, err, syscall.ECONNRESET, "after %d cycles", target)
			}
			var errno syscall.Errno
			require.ErrorAs(t, err, &errno)
			ends[opErrorOf(t, err).Op+": "+errno.Error()]++
		}
		reap(t, cmd)
		require.ErrorIs(t, cycle(a, t.Name(), 1), syscall.ECONNREFUSED)
		if round == 0 {
			before = harness.MeasureIdle(t)
		}
		leakcheck.RequireBack(t, before)
	}
	t.Logf("calls that failed: %v", ends)
}

// storm starts 16 goroutines that do cycles against NAME.
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

// streamSize is the length of a survivor's streams.
const streamSize = 1 << 20

// survivor sends streams to NAME and reads them back, until the connection to
// NAME-control, which it makes first, ends. It answers with the number of streams.
func survivor() {
	name := os.Getenv("CTNET_TEST_NAME")
	control, err := ctnet.Dial("ct", name+"-control")
	harness.Check(err)
	go survive(name, control)
	untilStdinCloses()
}

func survive(name string, control net.Conn) {
	_, err := io.ReadFull(control, make([]byte, 2)) // that it should go
	harness.Check(err)
	var stop atomic.Bool
	var streams atomic.Uint64
	var running sync.WaitGroup
	for i := range 2 {
		rnd := rand.NewChaCha8([32]byte{byte(i)})
		running.Go(func() {
			data := make([]byte, streamSize)
			for !stop.Load() {
				rnd.Read(data)
				c, err := ctnet.Dial("ct", name)
				harness.Check(err)
				var writing sync.WaitGroup
				writing.Go(func() {
					_, err := c.Write(data)
					harness.Check(err)
					harness.Check(c.(*ctnet.Conn).CloseWrite())
				})
				h := sha256.New()
				_, err = io.Copy(h, c)
				harness.Check(err)
				if want := sha256.Sum256(data); !bytes.Equal(want[:], h.Sum(nil)) {
					panic("the stream was spoiled")
				}
				writing.Wait()
				harness.Check(c.Close())
				streams.Add(1)
			}
		})
	}
	_, err = io.Copy(io.Discard, control)
	harness.Check(err)
	stop.Store(true)
	running.Wait()
	harness.Check(binary.Write(control, binary.LittleEndian, streams.Load()))
	harness.Check(control.Close())
}

// A stormServer replies to storms, and echoes the survivor's streams.
type stormServer struct {
	ln       *ctnet.Listener
	survivor atomic.Int64 // its PID

	killed  atomic.Bool // the storm is, so there may be errors
	target  atomic.Int64
	reached chan struct{} // that many replies

	active, replies, streams atomic.Int64

	mu     sync.Mutex
	wrong  []string       // what must not be
	resets map[string]int // what may be
}

func (s *stormServer) fail(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf("%s: %v", what, err))
}

func (s *stormServer) serve() {
	for {
		c, err := s.ln.AcceptConn()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.fail("Accept", err)
			return
		}
		if int64(c.PeerCred().PID) == s.survivor.Load() {
			go s.echo(c)
			continue
		}
		s.active.Add(1)
		go s.reply(c)
	}
}

func (s *stormServer) echo(c *ctnet.Conn) {
	defer c.Close()
	if n, err := io.Copy(c, c); n != streamSize || err != nil {
		s.fail("a stream of the survivor", fmt.Errorf("%d bytes, %v", n, err))
		return
	}
	s.streams.Add(1)
}

func (s *stormServer) reply(c *ctnet.Conn) {
	defer s.active.Add(-1)
	err := reply(c)
	switch {
	case err == nil:
		if s.replies.Add(1) == s.target.Load() {
			s.reached <- struct{}{}
		}
	case !s.killed.Load():
		s.fail("before the client was killed", err)
	case !errors.Is(err, syscall.ECONNRESET):
		s.fail("after the client was killed", err)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.resets[err.(*net.OpError).Op]++
	}
}

// TestClientKilled kills clients that dial, use and close connections all the
// time. Another client of the same listener is not affected.
func TestClientKilled(t *testing.T) {
	rnd := newSeed(t)
	a := harness.NewApp(t)
	// With a small backlog Dials wait to be answered.
	s := &stormServer{
		ln:      listenOn(t, ctnet.ListenConfig{App: a, Backlog: 4}),
		reached: make(chan struct{}, 1),
		resets:  make(map[string]int),
	}
	go s.serve()
	lc := ctnet.ListenConfig{App: a}
	controlLn, err := lc.Listen(t.Context(), "ct", t.Name()+"-control")
	require.NoError(t, err)
	defer controlLn.Close()

	round := func(pairs int) {
		t.Helper()
		s.killed.Store(false)
		s.replies.Store(0)
		s.target.Store(1 + rnd.Int64N(500))
		cmd := startProcess(t, "storm", t.Name())
		harness.RequireWithin(t, 10*time.Second, s.reached, "the storm")
		s.killed.Store(true)
		kill(t, cmd)
		start := time.Now()
		// Its memory stays until the last of its connections is closed, also those
		// that were not accepted yet.
		harness.Eventually(t, func() bool { return s.active.Load() == 0 && leakcheck.Mappings("ctnet events") == pairs })
		require.Less(t, time.Since(start), time.Second)
		require.Equal(t, pairs, leakcheck.Mappings("ctnet segment"))
		reap(t, cmd)
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Empty(t, s.wrong)
	}
	harness.MeasureIdle(t) // no pair is left of another test
	round(0)               // the application has what it keeps
	before := leakcheck.Now()

	cmd := startProcess(t, "survivor", t.Name())
	s.survivor.Store(int64(cmd.Process.Pid))
	control, err := controlLn.Accept()
	require.NoError(t, err)
	defer control.Close()
	_, err = control.Write([]byte("go"))
	require.NoError(t, err)
	progress := func() {
		t.Helper()
		n := s.streams.Load()
		harness.Eventually(t, func() bool { return s.streams.Load() > n+2 })
	}
	progress()
	for range 8 {
		round(2) // the survivor's are left
		progress()
	}
	require.NoError(t, control.(*ctnet.Conn).CloseWrite())
	var streams int64
	require.NoError(t, binary.Read(control, binary.LittleEndian, &streams))
	_, err = control.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	harness.Eventually(t, func() bool { return s.streams.Load() == streams })
	s.mu.Lock()
	require.Empty(t, s.wrong)
	t.Logf("%d streams; calls reset: %v", streams, s.resets)
	s.mu.Unlock()
	require.NoError(t, control.Close())
	kill(t, cmd)
	reap(t, cmd)
	leakcheck.RequireBack(t, before)
}

// dialMany dials NAME, many times at once, and writes to the connections.
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

// TestClientKilledWhileItDials kills a client while its Dials come in. Most of them wait because
// the backlog is full, and are forgotten. The answered ones can be accepted.
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

// pattern is what a writer's streams repeat.
var pattern = func() []byte {
	b := make([]byte, 65521)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// fillPattern fills b with a stream's bytes from a position on.
func fillPattern(b []byte, from int) {
	for len(b) > 0 {
		n := copy(b, pattern[from%len(pattern):])
		b, from = b[n:], from+n
	}
}

func requirePattern(t *testing.T, b []byte, from int) {
	t.Helper()
	want := make([]byte, len(b))
	fillPattern(want, from)
	require.True(t, bytes.Equal(want, b), "%d bytes from %d are wrong", len(b), from)
}

// writer writes to each connection to NAME for ever, in Writes most of which are
// larger than the fifo.
func writer() {
	ln, err := ctnet.Listen("ct", os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	go func() {
		for {
			c, err := ln.Accept()
			harness.Check(err)
			go func() {
				b := make([]byte, 4<<20)
				for pos := 0; ; {
					b := b[:1+rand.IntN(cap(b))]
					fillPattern(b, pos)
					n, err := c.Write(b)
					harness.Check(err)
					pos += n
				}
			}()
		}
	}()
	untilStdinCloses()
}

// TestKilledWhileWriting kills a process during Writes: the peer reads the bytes that it has
// published, and then gets ECONNRESET.
func TestKilledWhileWriting(t *testing.T) {
	rnd := newSeed(t)
	a := harness.NewApp(t)
	ways := map[string]func(c *ctnet.Conn, have int) ([]byte, error){
		"Read": func(c *ctnet.Conn, have int) (got []byte, err error) {
			for b := make([]byte, 100_000); ; {
				n, err := c.Read(b)
				got = append(got, b[:n]...)
				if err != nil {
					return got, err
				}
			}
		},
		"WriteTo": func(c *ctnet.Conn, have int) ([]byte, error) {
			var got bytes.Buffer
			_, err := c.WriteTo(&got) // nil is the end of a stream
			return got.Bytes(), err
		},
		"Peek": func(c *ctnet.Conn, have int) ([]byte, error) {
			b, err := c.Peek(min(have+1, ctnet.DefaultBuffer))
			got := bytes.Clone(b)
			n, err2 := c.Discard(have + 1)
			if n != have {
				err2 = fmt.Errorf("discarded %d of %d: %v", n, have, err2)
			}
			if have < ctnet.DefaultBuffer {
				err2 = errors.Join(err, err2)
			}
			return got, err2
		},
	}
	var before leakcheck.Usage
	for round := range harness.Long(3, 30) {
		cmd := startProcess(t, "writer", t.Name())
		type stream struct {
			*ctnet.Conn
			read int
		}
		streams := make(map[string][]*stream)
		var all []*stream
		for way := range ways {
			for range 3 {
				s := &stream{Conn: dialConn(t, a)}
				streams[way] = append(streams[way], s)
				all = append(all, s)
			}
		}
		// The first of each is full, and in the midst of the first Write or
		// close to its end. The others are read for a while.
		for range rnd.IntN(100) {
			for _, some := range streams {
				s := some[1+rnd.IntN(2)]
				b := make([]byte, 1+rnd.IntN(100_000))
				n, err := s.Read(b)
				require.NoError(t, err)
				requirePattern(t, b[:n], s.read)
				s.read += n
			}
		}
		for _, some := range streams {
			harness.Eventually(t, func() bool { return some[0].Buffered() == ctnet.DefaultBuffer })
		}
		kill(t, cmd)
		reap(t, cmd)
		for way, some := range streams {
			for _, s := range some {
				// The process is dead, so this is all that there will be.
				have := s.Buffered()
				var got []byte
				var err error
				done := make(chan struct{})
				go func() {
					got, err = ways[way](s.Conn, have)
					close(done)
				}()
				harness.RequireWithin(t, time.Second, done, way)
				require.ErrorIs(t, err, syscall.ECONNRESET, way)
				require.NotErrorIs(t, err, io.EOF, way)
				require.Equal(t, have, len(got), way)
				requirePattern(t, got, s.read)
				for range 2 {
					n, err := s.Read(make([]byte, 1))
					require.Zero(t, n)
					require.ErrorIs(t, err, syscall.ECONNRESET)
				}
			}
		}
		for _, s := range all {
			require.NoError(t, s.Close())
		}
		if round == 0 {
			before = harness.MeasureIdle(t)
		}
		leakcheck.RequireBack(t, before)
	}
}

// stop stops a process, and waits until all its threads have stopped. The process goes on at the
// end of the test at the latest.
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
