package conformance

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { harness.Main(m, roles) }

var roles = map[string]func(){
	"relay": relay,
	"echo":  echo,
	"dial":  dialOnly,
}

// A process is one that plays a role and is talked with by lines.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// launch starts a process. It does not wait for it.
func launch(t testing.TB, role string, env ...string) *process {
	t.Helper()
	p := startRole(t, role, env...)
	t.Cleanup(p.end)
	return p
}

// startRole is launch for a process that the caller ends.
func startRole(t testing.TB, role string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, harness.RoleEnv+"="+role)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &process{cmd, in, bufio.NewScanner(out)}
}

// end waits for the process, if it has not died.
func (p *process) end() {
	if p.cmd != nil {
		p.in.Close()
		p.cmd.Wait()
	}
}

// line returns the next line that the process says.
func (p *process) line(t testing.TB) string {
	t.Helper()
	require.True(t, p.out.Scan(), "the process has ended: %v", p.out.Err())
	return p.out.Text()
}

// ask says a line to the process, and returns its answer.
func (p *process) ask(t testing.TB, line string) string {
	t.Helper()
	_, err := io.WriteString(p.in, line+"\n")
	require.NoError(t, err)
	return p.line(t)
}

// startProcess starts the other process, which says "ready" when it is. It runs
// until the test ends or its standard input is closed.
func startProcess(t testing.TB, role, name string) *exec.Cmd {
	t.Helper()
	cmd, _ := startProcessOn(t, role, "ct", name, name+"-back")
	return cmd
}

// startProcessOn is startProcess for a network. It returns the address that the
// process listens on, too. back is what the relay connects to.
func startProcessOn(t testing.TB, role, network, address, back string) (*exec.Cmd, string) {
	t.Helper()
	p := launch(t, role, "CTNET_TEST_NETWORK="+network, "CTNET_TEST_NAME="+address, "CTNET_TEST_BACK="+back)
	return p.cmd, strings.TrimSpace(strings.TrimPrefix(p.line(t), "ready"))
}

// listen listens on the address that the process was given.
func listen() net.Listener {
	ln, err := ctnet.Listen(os.Getenv("CTNET_TEST_NETWORK"), os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	return ln
}

// untilStdinCloses says that the process is ready, and where it listens, and
// returns when it should end.
func untilStdinCloses(where ...any) {
	fmt.Println(append([]any{"ready"}, where...)...)
	io.Copy(io.Discard, os.Stdin)
}

// relay connects each connection with a new one to BACK, so that bytes from one
// to the other cross processes twice.
func relay() {
	ln := listen()
	go func() {
		for {
			in, err := ln.Accept()
			harness.Check(err)
			out, err := ctnet.Dial(ln.Addr().Network(), os.Getenv("CTNET_TEST_BACK"))
			harness.Check(err)
			go splice(in.(stream), out.(stream))
			go splice(out.(stream), in.(stream))
		}
	}()
	untilStdinCloses(ln.Addr())
}

// dialOnly dials BACK and keeps the connection.
func dialOnly() {
	c, err := ctnet.Dial(os.Getenv("CTNET_TEST_NETWORK"), os.Getenv("CTNET_TEST_BACK"))
	harness.Check(err)
	untilStdinCloses(c.LocalAddr())
	c.Close()
}

// A stream has the methods that connections of all networks have.
type stream interface {
	net.Conn
	CloseWrite() error
}

// splice copies until the end of the stream and passes the end on.
func splice(dst, src stream) {
	if _, err := io.Copy(dst, src); err != nil {
		if c, ok := dst.(*ctnet.Conn); ok {
			c.SetLinger(0)
		}
		dst.Close()
		src.Close()
		return
	}
	dst.CloseWrite()
}

// echo sends back the bytes that it reads.
func echo() {
	ln := listen()
	go echoOn(ln)
	untilStdinCloses(ln.Addr())
}

func echoOn(ln net.Listener) {
	for {
		c, err := ln.Accept()
		harness.Check(err)
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func TestConnTwoProcesses(t *testing.T) {
	startProcess(t, "relay", t.Name())
	back, err := ctnet.Listen("ct", t.Name()+"-back")
	require.NoError(t, err)
	t.Cleanup(func() { back.Close() })
	name := t.Name()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = ctnet.Dial("ct", name); err != nil {
			return
		}
		if c2, err = back.Accept(); err != nil {
			return
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// TestConnTwoProcessesNetworks is the same on the networks of the kernel's, by
// either path.
func TestConnTwoProcessesNetworks(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		for _, path := range []ctnet.Path{ctnet.AnyPath, ctnet.Kernel} {
			t.Run(network+"/"+map[ctnet.Path]string{ctnet.AnyPath: "cut-through", ctnet.Kernel: "fallback"}[path], func(t *testing.T) {
				t.Parallel()
				own := address
				if network == "unix" {
					own += fmt.Sprint(path)
				}
				lc := ctnet.ListenConfig{Path: path}
				back, err := lc.Listen(t.Context(), network, own)
				require.NoError(t, err)
				t.Cleanup(func() { back.Close() })
				if network == "unix" {
					own += "-relay" // the process leaves its file
				}
				_, at := startProcessOn(t, "relay", network, own, back.Addr().String())
				d := ctnet.Dialer{Path: path}
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					if c1, err = d.Dial(network, at); err != nil {
						return
					}
					if c2, err = back.Accept(); err != nil {
						return
					}
					if cut := path == ctnet.AnyPath; harness.IsCut(c1) != cut || harness.IsCut(c2) != cut {
						return nil, nil, nil, errors.New("the wrong path was taken")
					}
					return c1, c2, func() { c1.Close(); c2.Close() }, nil
				})
			})
		}
	}
}

// TestEchoChecksum sends a stream in writes of all sizes and reads it back.
func TestEchoChecksum(t *testing.T) {
	startProcess(t, "echo", t.Name())
	c, err := ctnet.Dial("ct", t.Name())
	require.NoError(t, err)
	defer c.Close()
	data := make([]byte, 16<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(data)
	want := sha256.Sum256(data)
	go func() {
		for r := bytes.NewReader(data); r.Len() > 0; {
			io.CopyN(c, r, min(int64(r.Len()), int64(rnd.Uint64()%100_000)+1))
		}
		c.(*ctnet.Conn).CloseWrite()
	}()
	h := sha256.New()
	n, err := io.Copy(h, c)
	require.NoError(t, err)
	require.EqualValues(t, len(data), n)
	require.Equal(t, want[:], h.Sum(nil))
}

// TestPeerKilled kills the other process while a Read waits and the fifo to it
// holds bytes.
func TestPeerKilled(t *testing.T) {
	cmd := startProcess(t, "echo", t.Name())
	c, err := ctnet.Dial("ct", t.Name())
	require.NoError(t, err)
	defer c.Close()
	b := make([]byte, 5)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)

	read := make(chan error)
	go func() {
		_, err := c.Read(b)
		read <- err
	}()
	require.NoError(t, cmd.Process.Kill())
	select {
	case err := <-read:
		require.ErrorIs(t, err, syscall.ECONNRESET)
	case <-time.After(time.Second):
		t.Fatal("Read still waits a second after the peer was killed")
	}
	_, err = c.Write(b)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = ctnet.Dial("ct", t.Name())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}
