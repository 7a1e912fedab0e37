package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/packets"
	"github.com/stretchr/testify/require"
)

// A capture is one that this process has asked for.
type capture struct {
	t      testing.TB
	began  chan struct{} // closed when the file has begun: then the tap is set
	wrote  chan struct{} // has an element after each Write
	stop   context.CancelFunc
	done   chan struct{}
	counts ctnet.CaptureCounts
	err    error // of CaptureConn

	mu   sync.Mutex
	file bytes.Buffer
	hold sync.Mutex // keeps Write from returning
}

func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.file.Len() == 0 {
		close(c.began)
	}
	c.file.Write(b)
	c.mu.Unlock()
	select {
	case c.wrote <- struct{}{}:
	default:
	}
	c.hold.Lock()
	defer c.hold.Unlock()
	return len(b), nil
}

// startCapture begins a capture and waits until it has begun.
func startCapture(t testing.TB, s *ctnet.Snapshot, id string, config ctnet.CaptureConfig) *capture {
	t.Helper()
	c := &capture{t: t, began: make(chan struct{}), wrote: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	t.Cleanup(func() {
		cancel()
		<-c.done
	})
	go func() {
		defer close(c.done)
		c.counts, c.err = s.CaptureConn(ctx, id, c, config)
	}()
	select {
	case <-c.began:
	case <-c.done:
		require.NoError(t, c.err)
	}
	return c
}

// read waits for the end of the capture, and returns what it has seen.
func (c *capture) read() (file *packets.File, sent, received packets.Stream) {
	c.t.Helper()
	harness.RequireWithin(c.t, time.Minute, c.done, "the capture to end")
	return c.parse()
}

func (c *capture) parse() (file *packets.File, sent, received packets.Stream) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	file, err := packets.Read(c.file.Bytes())
	require.NoError(c.t, err)
	sent, received, err = file.Streams(c.local(file))
	require.NoError(c.t, err)
	return file, sent, received
}

// local returns the address of the captured end in the file.
func (c *capture) local(f *packets.File) netip.AddrPort {
	text := f.Interface[3]
	_, where, invented := strings.Cut(text, "in the packets the local address is ")
	if !invented {
		_, where, _ = strings.Cut(text, "local address ")
	}
	at, err := netip.ParseAddrPort(strings.FieldsFunc(where, func(r rune) bool { return r == ',' || r == ' ' })[0])
	require.NoError(c.t, err, text)
	return at
}

// connIn returns the Snapshot of a process and the ID of the connection there whose remote address is given.
func connIn(t testing.TB, pid int, remote string) (s *ctnet.Snapshot, id string) {
	t.Helper()
	all, _ := ctnet.Inspect(t.Context()) // other processes on the machine may not answer
	for i := range all {
		for _, info := range all[i].Connections {
			if all[i].PID == pid && info.Remote == remote {
				return &all[i], info.ID
			}
		}
	}
	require.Fail(t, "there is no such connection", "%d %s", pid, remote)
	return nil, ""
}

func init() { roles["web"], roles["capturer"] = webServer, capturer }

// webServer serves HTTP/1 and HTTP/2 without TLS on one address, and with it on another one.
func webServer() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d\n", r.Proto, r.URL.Path, n)
		w.Write(bytes.Repeat([]byte("x"), 100_000))
	})
	plain := http.Server{Handler: handler, Protocols: new(http.Protocols)}
	plain.Protocols.SetHTTP1(true)
	plain.Protocols.SetUnencryptedHTTP2(true)
	ln := listen()
	go plain.Serve(ln)
	secure, err := ctnet.Listen("ct", os.Getenv("CTNET_TEST_BACK"))
	harness.Check(err)
	server := httptest.NewUnstartedServer(handler)
	server.Listener = secure
	server.StartTLS()
	untilStdinCloses(ln.Addr())
}

// A recorder keeps what passes a connection.
type recorder struct {
	net.Conn
	mu       sync.Mutex
	out, in  bytes.Buffer
	writeSem sync.Mutex
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writeSem.Lock() // so that the order is that of the connection
	defer r.writeSem.Unlock()
	n, err := r.Conn.Write(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Write(b[:n])
	return n, err
}

// TestCaptureProtocols captures what real protocols send, at a server in another process. Each byte is in the
// file, and tshark, if it is there, recognises the protocols.
func TestCaptureProtocols(t *testing.T) {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	for _, test := range []struct {
		name, network, address string
		url                    string
		transport              *http.Transport
		protocol               string   // that tshark finds
		decode                 []string // what it has to be told, as of a socket on a port that it doesn't know
	}{
		{"HTTP1", "tcp", "127.0.0.1:0", "http://it/hello", &http.Transport{}, "HTTP", nil},
		{"HTTP1 over IPv6", "tcp", "[::1]:0", "http://it/hello", &http.Transport{}, "HTTP", nil},
		{"HTTP2", "ct", "captured", "http://it/hello", &http.Transport{Protocols: h2c}, "HTTP2", []string{"-d", "tcp.port==60002,http2"}},
		{"TLS", "ct", "captured", "https://it/hello", &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, "TLSv1.3", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := strings.ReplaceAll(t.Name(), "/", "-")
			address, network := test.address, test.network
			if network == "ct" {
				address = name
			} else if ln, err := net.Listen("tcp", address); err != nil {
				t.Skip("there is no IPv6")
			} else {
				ln.Close()
			}
			cmd, at := startProcessOn(t, "web", network, address, name+"-tls")
			if strings.HasPrefix(test.url, "https") {
				at = name + "-tls"
			}
			c, err := ctnet.Dial(network, at)
			require.NoError(t, err)
			require.True(t, harness.IsCut(c))
			defer c.Close()
			s, id := connIn(t, cmd.Process.Pid, c.LocalAddr().String())
			got := startCapture(t, s, id, ctnet.CaptureConfig{})

			r := &recorder{Conn: c}
			test.transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return r, nil }
			client := &http.Client{Transport: test.transport}
			for i := range 3 {
				resp, err := client.Post(test.url, "text/plain", strings.NewReader(strings.Repeat("y", i*50_000)))
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			client.CloseIdleConnections()
			c.Close()

			file, sent, received := got.read()
			require.NoError(t, got.err)
			r.mu.Lock()
			defer r.mu.Unlock()
			require.True(t, bytes.Equal(r.out.Bytes(), received.Data), "%d %d", r.out.Len(), len(received.Data))
			require.True(t, bytes.HasPrefix(sent.Data, r.in.Bytes()), "%d %d", r.in.Len(), len(sent.Data))
			require.Zero(t, sent.Missed+received.Missed)
			require.True(t, sent.Fin || sent.Reset) // a TLS server closes without having seen the client's end
			require.EqualValues(t, packets.SYN, file.Packets[0].Flags)
			require.Equal(t, ctnet.CaptureCounts{
				Packets: uint64(len(file.Packets)), Sent: uint64(len(sent.Data)), Received: uint64(len(received.Data)),
			}, got.counts)
			require.Contains(t, file.Interface[1], fmt.Sprintf("process %d", cmd.Process.Pid))
			require.Contains(t, file.Interface[3], "remote address "+c.LocalAddr().String())
			if network == "tcp" {
				require.Equal(t, c.LocalAddr().String(), file.Packets[0].From.String())
				require.Equal(t, c.RemoteAddr().String(), file.Packets[0].To.String())
			}
			requireTshark(t, got.file.Bytes(), test.protocol, test.decode...)
		})
	}
}

// requireTshark has tshark, if it is there, find a protocol in a file, and nothing wrong.
func requireTshark(t *testing.T, file []byte, protocol string, decode ...string) {
	path, err := exec.LookPath("tshark")
	if err != nil {
		t.Log("there is no tshark")
		return
	}
	name := filepath.Join(t.TempDir(), "file.pcapng")
	require.NoError(t, os.WriteFile(name, file, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tshark := func(args ...string) string {
		var errs bytes.Buffer
		// By what flows first: the dialing end's port, which the listener has chosen, may be that of some protocol.
		args = append(args, "-r", name, "-o", "tcp.try_heuristic_first:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
		cmd := exec.CommandContext(ctx, path, append(args, decode...)...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		require.NoError(t, err, errs.String())
		return string(out)
	}
	require.Contains(t, strings.Fields(tshark("-T", "fields", "-e", "_ws.col.Protocol")), protocol)
	require.Empty(t, tshark("-Y", "tcp.analysis.flags or tcp.checksum.status == 0 or ip.checksum.status == 0 or _ws.malformed"))
}

// TestCaptureAgain begins captures one after the other. A second one at the same time is refused, and one that
// follows at once is not.
func TestCaptureAgain(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	c := dial(t, a, t.Name())
	defer c.Close()
	s, id := connIn(t, cmd.Process.Pid, c.LocalAddr().String())
	before := leakcheck.Now()
	var flowed int
	for range 50 {
		got := startCapture(t, s, id, ctnet.CaptureConfig{})
		_, err := s.CaptureConn(t.Context(), id, io.Discard, ctnet.CaptureConfig{})
		require.ErrorIs(t, err, syscall.EBUSY)
		require.ErrorContains(t, err, "another process captures the connection")
		requireEcho(t, c)
		n := 0
		for received := 0; received == 0 || n == 0; {
			<-got.wrote // each packet comes soon
			got.mu.Lock()
			file, err := packets.Read(got.file.Bytes())
			got.mu.Unlock()
			require.NoError(t, err)
			if len(file.Packets) > 0 {
				sent, in, err := file.Streams(got.local(file))
				require.NoError(t, err)
				n, received = len(sent.Data), len(in.Data)
			}
		}
		got.stop()
		file, sent, received := got.read()
		require.ErrorIs(t, got.err, context.Canceled)
		require.Equal(t, sent.Data, received.Data)
		require.EqualValues(t, flowed, sent.Start)
		require.EqualValues(t, flowed, received.Start)
		require.Equal(t, flowed == 0, file.Packets[0].Flags == packets.SYN)
		require.NotNil(t, file.Tail)
		flowed += n
	}
	_, err := s.CaptureConn(t.Context(), "1.2.3.4", io.Discard, ctnet.CaptureConfig{})
	require.ErrorIs(t, err, syscall.ESRCH)
	_, err = s.CaptureConn(t.Context(), strings.Repeat("9", 300), io.Discard, ctnet.CaptureConfig{})
	require.ErrorIs(t, err, syscall.ESRCH)
	_, err = (&ctnet.Snapshot{}).CaptureConn(t.Context(), id, io.Discard, ctnet.CaptureConfig{})
	require.ErrorIs(t, err, syscall.EINVAL)
	failed := errors.New("failed")
	_, err = s.CaptureConn(t.Context(), id, failingWriter{failed}, ctnet.CaptureConfig{})
	require.ErrorIs(t, err, failed)

	// With limits.
	got := startCapture(t, s, id, ctnet.CaptureConfig{Count: 2, SnapLen: 43})
	requireEcho(t, c)
	file, sent, received := got.read()
	require.NoError(t, got.err)
	require.Len(t, file.Packets, 2)
	require.Equal(t, []string{"hel", "hel"}, []string{string(sent.Data), string(received.Data)})
	got.stop()
	leakcheck.RequireBack(t, before)
}

type failingWriter struct{ error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.error }

// A logged is what a Logger was told.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// lines returns the lines that have a message.
func (l *logged) lines(t testing.TB, message string) (all []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal(line, &m))
		if m["msg"] == message {
			all = append(all, m)
		}
	}
	return all
}

// ownSnapshot returns the Snapshot, as Inspect finds it, of an application of this process.
func ownSnapshot(t testing.TB, a *ctnet.App) *ctnet.Snapshot {
	t.Helper()
	all, _ := ctnet.Inspect(t.Context())
	for i := range all {
		if all[i].App == a.Snapshot().App {
			return &all[i]
		}
	}
	require.Fail(t, "the application was not found")
	return nil
}

// TestCaptureApp captures connections of one application, inside it and with another one: it logs that, there are
// only so many at a time, and Close ends them with what has flowed before.
func TestCaptureApp(t *testing.T) {
	inBoth(t, func(t *testing.T, a, b *ctnet.App) {
		inside := a == b
		var log logged
		before := leakcheck.Now()
		server, err := ctnet.NewApp(ctnet.AppConfig{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
		require.NoError(t, err)
		client := server
		if !inside {
			client, err = ctnet.NewApp(ctnet.AppConfig{})
			require.NoError(t, err)
		}
		ln := listenOn(t, ctnet.ListenConfig{App: server})
		var captures []*capture
		var clients, servers []*ctnet.Conn
		for range 9 {
			c, s := connectTo(t, ln, client)
			clients, servers = append(clients, c), append(servers, s)
		}
		snapshot := ownSnapshot(t, server)
		ids := make(map[string]bool)
		for _, info := range snapshot.Connections {
			ids[info.ID] = true
		}
		require.Len(t, ids, 9)
		for id := range ids {
			if len(captures) == 8 {
				_, err := snapshot.CaptureConn(t.Context(), id, io.Discard, ctnet.CaptureConfig{})
				require.ErrorIs(t, err, syscall.ENOBUFS)
				break
			}
			captures = append(captures, startCapture(t, snapshot, id, ctnet.CaptureConfig{}))
		}
		for i := range clients {
			writeString(t, clients[i], "question")
			readString(t, servers[i], "question")
			writeString(t, servers[i], "answer")
			readString(t, clients[i], "answer")
		}
		writeString(t, clients[0], "unread")
		require.NoError(t, server.Close())
		for _, c := range captures {
			_, sent, received := c.read()
			require.NoError(t, c.err)
			question, answer := received, sent
			if strings.HasPrefix(string(sent.Data), "question") {
				question, answer = sent, received // inside, the dialing end is captured
			}
			require.True(t, strings.HasPrefix(string(question.Data), "question"))
			require.Equal(t, "answer", string(answer.Data))
			require.True(t, sent.Reset || sent.Fin)
		}
		began := log.lines(t, "ctnet: another process captures a connection")
		require.Len(t, began, 8)
		for _, line := range began {
			require.EqualValues(t, os.Getpid(), line["pid"])
			require.EqualValues(t, os.Geteuid(), line["uid"])
			require.True(t, ids[line["id"].(string)])
		}
		ended := log.lines(t, "ctnet: the capture of a connection has ended")
		require.Len(t, ended, 8)
		for _, line := range ended {
			require.GreaterOrEqual(t, line["sent"].(float64)+line["received"].(float64), 14.0)
			require.Zero(t, line["dropped"])
		}
		if !inside {
			require.NoError(t, client.Close())
		}
		for i := range clients {
			clients[i].Close()
			servers[i].Close()
		}
		ln.Close()
		for _, c := range captures {
			c.stop()
		}
		leakcheck.RequireBack(t, before)
	})
}

// TestCaptureDialer captures a connection of an application that does not listen, for longer than a handshake may
// take, and until that is closed. It begins while bytes flow.
func TestCaptureDialer(t *testing.T) {
	before := leakcheck.Now()
	server, client := harness.NewApp(t), harness.NewApp(t)
	c, s := connectTo(t, listenOn(t, ctnet.ListenConfig{App: server}), client)
	go io.Copy(s, s)
	stop := make(chan struct{})
	var flowing sync.WaitGroup
	flowing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				requireEcho(t, c)
			}
		}
	})
	snapshot, id := connIn(t, os.Getpid(), c.RemoteAddr().String())
	for range 30 {
		got := startCapture(t, snapshot, id, ctnet.CaptureConfig{Count: 100})
		_, sent, received := got.read()
		require.NoError(t, got.err)
		require.Zero(t, sent.Missed+received.Missed)
		require.Contains(t, strings.Repeat("hello", 100), string(sent.Data))
		require.Contains(t, strings.Repeat("hello", 100), string(received.Data))
		got.stop()
	}
	close(stop)
	flowing.Wait()
	got := startCapture(t, snapshot, id, ctnet.CaptureConfig{})
	time.Sleep(1200 * time.Millisecond) // longer than a handshake may take
	requireEcho(t, c)
	require.NoError(t, client.Close())
	_, sent, received := got.read()
	require.NoError(t, got.err)
	require.Equal(t, []string{"hello", "hello"}, []string{string(sent.Data), string(received.Data)})
	require.True(t, sent.Reset || sent.Fin)
	got.stop()
	require.NoError(t, server.Close())
	leakcheck.RequireBack(t, before)
}

// TestCaptureStopped closes an application while a process that is stopped captures a connection. Nothing is left.
func TestCaptureStopped(t *testing.T) {
	before := leakcheck.Now()
	server, client := harness.NewApp(t), harness.NewApp(t)
	c, s := connectTo(t, listenOn(t, ctnet.ListenConfig{App: server}), client)
	p := launch(t, "capturer", "CTNET_TEST_NAME="+fmt.Sprint(os.Getpid()), "CTNET_TEST_BACK="+c.LocalAddr().String())
	require.Equal(t, "capturing", p.line(t))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	go io.Copy(io.Discard, s)
	for range 100 {
		_, err := c.Write(make([]byte, 256<<10))
		require.NoError(t, err)
	}
	require.NoError(t, server.Close())
	require.NoError(t, client.Close())
	// The pipes to the process, and what os/exec does for them.
	harness.Eventually(t, func() bool { return leakcheck.Now().Goroutines <= before.Goroutines })
	require.NoError(t, p.cmd.Process.Kill())
	p.cmd.Wait()
}

// TestCaptureAppClose closes an application while code of others uses the memory of a connection that is captured: the
// capture does not wait for that.
func TestCaptureAppClose(t *testing.T) {
	server, client := harness.NewApp(t), harness.NewApp(t)
	c, s := connectTo(t, listenOn(t, ctnet.ListenConfig{App: server}), client)
	snapshot, id := connIn(t, os.Getpid(), c.LocalAddr().String())
	got := startCapture(t, snapshot, id, ctnet.CaptureConfig{})
	block, blocked, free := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(free)
		s.WriteTo(blockingWriter{block, blocked})
	}()
	writeString(t, c, "hello")
	<-blocked
	require.NoError(t, server.Close())
	_, _, received := got.read()
	require.NoError(t, got.err)
	require.Equal(t, "hello", string(received.Data))
	close(block)
	<-free
}

// A blockingWriter waits in Write.
type blockingWriter struct{ block, blocked chan struct{} }

func (w blockingWriter) Write(b []byte) (int, error) {
	close(w.blocked)
	<-w.block
	return len(b), nil
}

// TestCaptureHalfOpen asks for a capture of a connection that was not accepted yet by the backlog.
func TestCaptureHalfOpen(t *testing.T) {
	server, client := harness.NewApp(t), harness.NewApp(t)
	listenOn(t, ctnet.ListenConfig{App: server, Backlog: 1})
	first := dialConn(t, client)
	defer first.Close()
	ctx, cancel := context.WithCancel(t.Context())
	p := startDial(t, ctx, client)
	defer func() {
		cancel()
		<-p.done
	}()
	harness.Eventually(t, func() bool {
		s := ownSnapshot(t, client)
		for _, info := range s.Connections {
			if info.State == ctnet.StateHalfOpen {
				_, err := s.CaptureConn(t.Context(), info.ID, io.Discard, ctnet.CaptureConfig{})
				require.ErrorIs(t, err, syscall.ENOTCONN)
				return true
			}
		}
		return false
	})
}

// TestCaptureFlood has a capturing process that takes nothing for some time. The connection goes on meanwhile,
// and what is missing in the file is said there.
func TestCaptureFlood(t *testing.T) {
	a := harness.NewApp(t)
	cmd := startProcess(t, "echo", t.Name())
	c := dial(t, a, t.Name())
	defer c.Close()
	s, id := connIn(t, cmd.Process.Pid, c.LocalAddr().String())
	got := startCapture(t, s, id, ctnet.CaptureConfig{})
	got.hold.Lock()
	const size = 64 << 20 // the capture holds 8 MiB
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 31 >> 5)
	}
	var writing sync.WaitGroup
	writing.Go(func() { c.Write(data) })
	back := make([]byte, size)
	_, err := io.ReadFull(c, back)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, back))
	writing.Wait()
	got.hold.Unlock()
	// From here on it keeps up.
	harness.Eventually(t, func() bool {
		requireEcho(t, c)
		_, sent, _ := got.parse()
		return bytes.HasSuffix(sent.Data, []byte("hello"))
	})
	require.NoError(t, c.Close())
	file, sent, received := got.read()
	require.NoError(t, got.err)
	require.Positive(t, sent.Missed)
	require.Positive(t, received.Missed)
	require.Positive(t, got.counts.Dropped)
	require.Equal(t, received.Missed+len(received.Data), int(got.counts.Received))
	require.Equal(t, sent.Missed+len(sent.Data), int(got.counts.Sent))
	var said uint64
	for _, p := range file.Packets {
		said += p.Dropped
		if at := int(p.Seq) - 1; len(p.Data) > 0 && at+len(p.Data) <= size {
			require.True(t, bytes.Equal(data[at:at+len(p.Data)], p.Data))
		}
	}
	require.Equal(t, said, got.counts.Dropped)
	require.Contains(t, file.Tail[1], fmt.Sprintf("%d packets are missing", said))
}

// capturer captures the connection of the process CTNET_TEST_NAME with the remote address CTNET_TEST_BACK.
func capturer() {
	all, _ := ctnet.Inspect(context.Background())
	for i := range all {
		for _, info := range all[i].Connections {
			if fmt.Sprint(all[i].PID) == os.Getenv("CTNET_TEST_NAME") && info.Remote == os.Getenv("CTNET_TEST_BACK") {
				_, err := all[i].CaptureConn(context.Background(), info.ID, &firstWrite{}, ctnet.CaptureConfig{})
				fmt.Println(err)
				return
			}
		}
	}
	fmt.Println("not found")
}

// A firstWrite says that it was written to.
type firstWrite struct{ said bool }

func (w *firstWrite) Write(b []byte) (int, error) {
	if !w.said {
		w.said = true
		fmt.Println("capturing")
	}
	return len(b), nil
}

// TestCaptureDeaths kills and stops both processes of a capture at any time.
func TestCaptureDeaths(t *testing.T) {
	a := harness.NewApp(t)
	for i := range 6 {
		name := fmt.Sprint(t.Name(), i)
		cmd := startProcess(t, "echo", name)
		c := dial(t, a, name)
		defer c.Close()
		remote := c.LocalAddr().String()
		for range 3 {
			p := launch(t, "capturer", "CTNET_TEST_NAME="+fmt.Sprint(cmd.Process.Pid), "CTNET_TEST_BACK="+remote)
			require.Equal(t, "capturing", p.line(t))
			requireEcho(t, c)
			if i%2 == 0 {
				// One that is stopped keeps the capture, and nobody waits for it.
				require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
				for range 100 {
					var writing sync.WaitGroup
					writing.Go(func() { c.Write(make([]byte, 256<<10)) })
					_, err := io.ReadFull(c, make([]byte, 256<<10))
					require.NoError(t, err)
					writing.Wait()
				}
			}
			require.NoError(t, p.cmd.Process.Kill())
			p.cmd.Wait()
		}
		s, id := connIn(t, cmd.Process.Pid, remote)
		got := startCapture(t, s, id, ctnet.CaptureConfig{})
		requireEcho(t, c)
		harness.Eventually(t, func() bool {
			_, sent, _ := got.parse()
			return string(sent.Data) == "hello"
		})
		if i%2 == 0 {
			require.NoError(t, cmd.Process.Kill())
			file, _, _ := got.read()
			require.ErrorContains(t, got.err, "it has exited, or hung up")
			require.NotNil(t, file.Tail, "the file is whole")
			continue
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		got.stop()
		got.read()
		require.ErrorIs(t, got.err, context.Canceled)
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		requireEcho(t, c)
		got = startCapture(t, s, id, ctnet.CaptureConfig{})
		require.NoError(t, c.Close())
		_, sent, received := got.read()
		require.NoError(t, got.err)
		require.True(t, sent.Fin && received.Fin)
	}
}
