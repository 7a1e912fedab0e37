package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/packets"
	"github.com/stretchr/testify/require"
)

// roleEnv has the test's binary be the command.
const roleEnv = "CTSS_TEST_RUN"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "ctss":
		main()
	case "dial": // the address that is the argument, and wait for data until the standard input ends
		c, err := ctnet.Dial("tcp", os.Args[1])
		if err != nil {
			panic(err)
		}
		go c.Read(make([]byte, 1))
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case "look": // at the kernel's sockets of the parent
		_, err := kernelConns([]ctnet.Snapshot{{PID: os.Getppid()}})
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command returns ctss with arguments, as a process.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleEnv+"=ctss", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// meet makes a connection on an address of network tcp.
func meet(t *testing.T) (c, s net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctss-") // t.TempDir's is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CTNET_DIR", dir)
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	c, err = ctnet.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	s, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	require.IsType(t, (*ctnet.Conn)(nil), c)
	return c, s
}

// TestRun asks a real process, this one, in all ways.
func TestRun(t *testing.T) {
	c, s := meet(t)
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	here := fmt.Sprintf(",pid=%d)", os.Getpid())
	out, err := command(t, "-tanpmie").Output()
	require.NoError(t, err)
	text := string(out)
	require.Contains(t, text, here)
	require.Contains(t, text, "bytes_sent:5")
	require.Contains(t, text, "exe:"+os.Args[0])
	require.Regexp(t, `(?m)^tcp +LISTEN +0 +4096 `+s.LocalAddr().String()+` +\*$`, text)
	require.Regexp(t, `(?m)^tcp/k +LISTEN +0 +- `+s.LocalAddr().String()+` +\*$`, text)
	require.Regexp(t, `(?m)^tcp +ESTABLISHED +5 +0 `+s.LocalAddr().String()+` +`+c.LocalAddr().String()+`$`, text)
	require.Contains(t, text, " itself ")

	out, err = command(t, "-n").Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), "LISTEN")
	out, err = command(t, "-s").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "of 1 applications")
	out, err = command(t, "--complete=ports").Output()
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(s.LocalAddr().String())
	require.NoError(t, err)
	require.Contains(t, string(out), ":"+port+"\n")
	kernel, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer kernel.Close()
	out, err = command(t, "--why").Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), kernel.Addr().String())
	k, err := ctnet.Dial("tcp", kernel.Addr().String())
	require.NoError(t, err)
	defer k.Close()
	out, err = command(t, "--why").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "absent")
	require.Contains(t, string(out), kernel.Addr().String())
	out, err = command(t, "-n", "dst", kernel.Addr().String()).Output()
	require.NoError(t, err)
	require.Regexp(t, `(?m)^tcp/k +ESTABLISHED +0 +0 `+k.LocalAddr().String()+` +`+kernel.Addr().String()+`$`, string(out))

	out, err = command(t, "-aj").Output()
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(out, &r))
	require.Len(t, r.Applications, 1)
	require.Len(t, r.Applications[0].Connections, 2)
}

// TestKill resets a connection, and nothing that the filter does not select.
func TestKill(t *testing.T) {
	c, s := meet(t)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	var errs bytes.Buffer
	cmd := command(t, "-K", "dst", "127.0.0.1:1")
	cmd.Stderr = &errs
	require.Error(t, cmd.Run())
	require.Contains(t, errs.String(), "no connection was reset")
	out, err := command(t, "-K", "sport = "+s.LocalAddr().String()[strings.LastIndexByte(s.LocalAddr().String(), ':'):]).Output()
	require.NoError(t, err)
	require.Contains(t, string(out), c.LocalAddr().String())
	require.ErrorIs(t, <-read, syscall.ECONNRESET)
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// TestEvents asks for the events of a connection that hangs: of both ends, if they are in this process, and if
// the other one is in another process.
func TestEvents(t *testing.T) {
	c, s := meet(t)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	hangs := func(e string) *regexp.Regexp {
		return regexp.MustCompile(`(?m)^ *[0-9][0-9a-zµ.]* +[0-9][0-9a-zµ.]* +\d+ +\d+ ` + regexp.QuoteMeta(e) + ` +waits for data$`)
	}
	client := c.LocalAddr().String()
	// until asks until the end hangs. On a busy machine an answer may take too long.
	until := func(end string, filter ...string) (text string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !hangs(end).MatchString(text); {
			require.True(t, time.Now().Before(deadline), text)
			out, err := command(t, append([]string{"--events", "-n"}, filter...)...).CombinedOutput()
			if text = string(out); err != nil {
				t.Log(text)
			}
		}
		return text
	}
	text := until(client, "src", client)
	require.Equal(t, 2, strings.Count(text, "ESTABLISHED"), text)
	require.Regexp(t, regexp.QuoteMeta(client)+" +dialed\n", text)
	require.Regexp(t, regexp.QuoteMeta(s.LocalAddr().String())+" +accepted\n", text)
	require.Equal(t, 1, strings.Count(text, "dialed"), "the filter selects one, and each connection is there once")

	// Another process dials.
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	other := command(t, ln.Addr().String())
	other.Env = append(other.Env, roleEnv+"=dial")
	in, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	defer other.Wait()
	defer in.Close()
	s2, err := ln.Accept()
	require.NoError(t, err)
	defer s2.Close()
	name := fmt.Sprintf("%s/%d", filepath.Base(os.Args[0]), other.Process.Pid)
	text = until(name, "dst = "+s2.RemoteAddr().String())
	require.Regexp(t, regexp.QuoteMeta(name)+" +dialed\n", text)
	require.Regexp(t, regexp.QuoteMeta(fmt.Sprintf("%s/%d", filepath.Base(os.Args[0]), os.Getpid()))+" +accepted\n", text)
	require.Equal(t, 2, strings.Count(text, "ESTABLISHED"), text)

	// Of all connections, each once.
	out, err := command(t, "--events", "-j", "state", "established").Output()
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(out, &r))
	require.Len(t, r.Ends, 4)

	var errs bytes.Buffer
	none := command(t, "--events", "id", "=", "9.9.9.9")
	none.Stderr = &errs
	require.Error(t, none.Run())
	require.Equal(t, "ctss: no connection is as the filter says\n", errs.String())
}

// TestEventsBounded has more connections than one call asks for.
func TestEventsBounded(t *testing.T) {
	dialer := &ctnet.Dialer{}
	_, s := meet(t)
	ln, err := ctnet.Listen("ct", t.Name())
	require.NoError(t, err)
	defer ln.Close()
	for range maxHistories {
		c, err := dialer.Dial("ct", t.Name())
		require.NoError(t, err)
		defer c.Close()
	}
	o := parsed(t, "--events", "state", "all")
	h, err := look(t.Context(), o)
	require.NoError(t, err)
	all, err := histories(t.Context(), o, h)
	require.ErrorContains(t, err, "more than 32 connections")
	require.Len(t, all, maxHistories)
	require.NotNil(t, s)
}

// TestClosedPipe has nobody read the output: the command ends, and says nothing of a panic.
func TestClosedPipe(t *testing.T) {
	meet(t)
	for _, args := range [][]string{{"-anpmie"}, {"-w"}, {"-aj"}} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, r.Close())
		cmd := command(t, args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &errs
		require.NoError(t, cmd.Start())
		w.Close()
		require.Error(t, cmd.Wait())
		require.Empty(t, errs.String())
	}
	// So it is when the writer is another one than standard output.
	var errs bytes.Buffer
	require.Equal(t, 1, run(t.Context(), []string{"-a"}, closedPipe{}, &errs))
	require.Equal(t, 1, run(t.Context(), []string{"-w"}, closedPipe{}, &errs))
	require.Empty(t, errs.String())
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestWatch has the live view written to a pipe, until it is interrupted.
func TestWatch(t *testing.T) {
	c, _ := meet(t)
	cmd := command(t, "-wn")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	frames := 0
	for s := bufio.NewScanner(out); s.Scan(); {
		require.NotContains(t, s.Text(), "\x1b")
		if strings.Contains(s.Text(), "1 applications, ") {
			frames++
		}
		if frames == 2 && strings.Contains(s.Text(), c.LocalAddr().String()) {
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			break
		}
	}
	require.Equal(t, 2, frames)
	io.Copy(io.Discard, out)
	require.NoError(t, cmd.Wait())
}

// TestNoPermission has another user look, who may see nothing of this one's.
func TestNoPermission(t *testing.T) {
	_, err := kernelConns([]ctnet.Snapshot{{PID: 1 << 30}})
	require.NoError(t, err, "it has exited")
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	meet(t)
	stranger := func(role string) (stdout, stderr string) {
		cmd := command(t, "-anp")
		cmd.Path = "/proc/self/exe" // the other user may not go into the directory where it is
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		cmd.Env = append(cmd.Env, "CTNET_DIR=", roleEnv+"="+role)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		require.NoError(t, cmd.Run(), errs.String())
		return out.String(), errs.String()
	}
	// In the network namespace, where this process listens too.
	t.Setenv("CTNET_DIR", "")
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	out, errs := stranger("ctss")
	require.NotContains(t, out, ln.Addr().String())
	require.Equal(t, 1, strings.Count(out, "\n"), out)
	require.Equal(t, "ctss: no program of this user uses ctnet here; root sees those of all users\n", errs)
	out, _ = stranger("look")
	require.Regexp(t, fmt.Sprintf("^the kernel's sockets of process %d: .*permission denied\n$", os.Getpid()), out)
}

// TestNewKernelConn has sockets as they are shown.
func TestNewKernelConn(t *testing.T) {
	mapped := netip.MustParseAddrPort("[::ffff:127.0.0.1]:8080")
	require.Equal(t,
		kernelConn{Network: "tcp", State: "LISTEN", Local: "127.0.0.1:8080", Remote: "*", RecvQueue: 3, SendQueue: -1},
		newKernelConn(hostnet.TCPSocket{Local: mapped, Remote: netip.MustParseAddrPort("[::]:0"), State: 10, RecvQueue: 3, Inode: 1}))
	require.Equal(t,
		kernelConn{Network: "tcp", State: "CLOSE-WAIT", Local: "127.0.0.1:8080", Remote: "[::1]:80", RecvQueue: 5, SendQueue: 16},
		newKernelConn(hostnet.TCPSocket{Local: mapped, Remote: netip.MustParseAddrPort("[::1]:80"), State: 8, RecvQueue: 5, SendQueue: 16}))
}

// TestCompletion has bash complete words.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := command(t, "completion", shell).Output()
		require.NoError(t, err)
		if path, err := exec.LookPath(shell); err == nil {
			cmd := exec.Command(path, "-n")
			cmd.Stdin = bytes.NewReader(out)
			text, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", text)
		}
		_, predicates, ok := strings.Cut(string(out), "state exclude src dst sport dport")
		require.True(t, ok, shell)
		for _, word := range []string{"id", "pid", "age", "idle", "space"} {
			require.Regexp(t, `^[ a-z]*\b`+word+`\b`, predicates, shell)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script, err := command(t, "completion", "bash").Output()
	require.NoError(t, err)
	for words, want := range map[string]string{
		"ctss st":            "state",
		"ctss state est":     "established",
		"ctss --wh":          "--why",
		"ctss --ev":          "--events",
		"ctss dport = : 80":  "8080 8081",
		"ctss dport = :":     "443 8080 8081",
		"ctss sport : 8":     "8080 8081",
		"ctss dst svc/":      "svc/echo",
		"ctss completion f":  "fish",
		"ctss -a exclude cl": "close-wait closing closed",
		"ctss -s ag":         "age",
		"ctss id":            "id idle",
		"ctss -a sp":         "sport space",
	} {
		fake := `ctss() { case $1 in --complete=ports) printf ':443\n:8080\n:8081\n' ;; --complete=names) echo svc/echo ;; esac; }
COMP_WORDS=(` + quote(words) + `); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _ctss; echo "${COMPREPLY[*]}"`
		cmd := exec.Command(bash)
		cmd.Stdin = strings.NewReader(string(script) + fake)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, want+"\n", string(out), words)
	}
}

// quote quotes each word for bash.
func quote(words string) string {
	var all []string
	for _, w := range strings.Fields(words) {
		all = append(all, "'"+w+"'")
	}
	return strings.Join(all, " ")
}

// TestDump captures a connection into a file, and to standard output.
func TestDump(t *testing.T) {
	c, s := meet(t)
	id := func() string {
		out, err := command(t, "--complete=ids").Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}()
	require.NotEmpty(t, id)
	// The end that has dialed is captured, as both are in one application.
	exchange := func(text string) {
		_, err := c.Write([]byte(text))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, len(text)))
		require.NoError(t, err)
	}
	// start starts a dump, and waits until it captures.
	start := func(out io.Writer, args ...string) (cmd *exec.Cmd, errs *bufio.Reader) {
		cmd = command(t, append([]string{"dump", id}, args...)...)
		cmd.Stdout = out
		r, err := cmd.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		errs = bufio.NewReader(r)
		line, err := errs.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "capturing connection "+id+" of process "+fmt.Sprint(os.Getpid()), line)
		return cmd, errs
	}
	sent := func(b []byte) packets.Stream {
		f, err := packets.Read(b)
		require.NoError(t, err)
		out, _, err := f.Streams(c.LocalAddr().(*net.TCPAddr).AddrPort())
		require.NoError(t, err)
		return out
	}

	path := filepath.Join(t.TempDir(), "file.pcapng")
	cmd, errs := start(nil, "-w", path, "-p", fmt.Sprint(os.Getpid()))
	busy, err := command(t, "dump", "-w", path+"2", id).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(busy), "another process captures the connection")
	require.NoFileExists(t, path+"2")
	exchange("hello")
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(path)
		return err == nil && string(sent(b).Data) == "hello"
	}, time.Minute, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	last, _ := io.ReadAll(errs)
	require.NoError(t, cmd.Wait())
	require.Equal(t, "ctss: 4 packets, 5 bytes sent, 0 bytes received\n", string(last))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	// It ends after so many packets, and cuts them.
	var out bytes.Buffer
	cmd, _ = start(&out, "-w", "-", "-c", "2", "-s", "42")
	exchange("one")
	exchange("two")
	require.NoError(t, cmd.Wait())
	require.Equal(t, "ontw", string(sent(out.Bytes()).Data))

	// It ends when nobody reads the pipe, with bytes to write and without.
	for _, idle := range []bool{true, false} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		cmd, errs = start(w, "-w", "-")
		w.Close()
		_, err = r.Read(make([]byte, 64<<10)) // the start of the file is written
		require.NoError(t, err)
		r.Close()
		if !idle {
			exchange("more")
		}
		last, _ = io.ReadAll(errs)
		require.Error(t, cmd.Wait())
		require.Contains(t, string(last), "nobody reads the output any more")
	}

	// It can be interrupted while nobody takes what it writes.
	stuck := blockingWriter{make(chan struct{}), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(chan string, 1)
	go func() {
		var errs bytes.Buffer
		run(ctx, []string{"dump", id, "-w", "-"}, stuck, &errs)
		said <- errs.String()
	}()
	<-stuck.blocked
	cancel()
	require.Contains(t, <-said, "the output takes nothing any more")
	close(stuck.block)
	signal.Reset(syscall.SIGPIPE)

	// It ends with the connection.
	cmd, errs = start(nil, "-w", path)
	require.NoError(t, c.Close())
	io.Copy(io.Discard, errs)
	require.NoError(t, cmd.Wait())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, sent(b).Fin)
	require.NoError(t, s.Close()) // the other end has the same ID
	gone, err := command(t, "dump", id, "-w", path).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(gone), "there is no connection with the ID "+id)
}

// A blockingWriter waits in its first Write.
type blockingWriter struct{ block, blocked chan struct{} }

func (w blockingWriter) Write(b []byte) (int, error) {
	close(w.blocked)
	<-w.block
	return 0, errors.New("it was blocked")
}

// TestDumpAmbiguous has two processes with the same ID.
func TestDumpAmbiguous(t *testing.T) {
	ids := []ctnet.ConnInfo{{ID: "1.0.0.1"}}
	all := []ctnet.Snapshot{{PID: 1, Connections: append(ids, ids...)}, {PID: 2, Connections: ids}}
	d := dump{id: "1.0.0.1"}
	_, err := d.choose(all)
	require.ErrorContains(t, err, "processes 1, 2 have a connection with the ID 1.0.0.1: add -p")
	d.pid = 1
	app, err := d.choose(all)
	require.NoError(t, err)
	require.Equal(t, 1, app.PID)
}
