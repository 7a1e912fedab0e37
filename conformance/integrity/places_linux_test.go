package integrity

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// There are other applications and processes on Linux only.
func init() {
	placeNames = append(placeNames, twoApps)
	crossings[twoApps] = func(t *testing.T, seed uint64, network, address string, x *exchange) (*ctnet.App, string) {
		at := serveHere(t, harness.NewApp(t), seed, network, address, x)
		return harness.NewApp(t), at
	}
	crossings["two processes"] = func(t *testing.T, seed uint64, network, address string, x *exchange) (*ctnet.App, string) {
		p := start(t, "serve", fmt.Sprint(seed), network, address)
		x.join(p.out, p.in)
		return harness.NewApp(t), p.address
	}
	roles["serve"] = serveRole
}

// serveRole is the server's side of TestTraffic.
func serveRole() {
	x := newExchange()
	over := x.join(os.Stdin, os.Stdout) // before there can be anything to tell
	s := serve(nil, argNumber(0), arg(1), arg(2), x)
	fmt.Println(s.ln.Addr())
	<-over
	s.end()
	if n := left(nil); n != 0 {
		harness.Check(fmt.Errorf("%d connections are left", n))
	}
}

// A process is another one that plays a role.
type process struct {
	in      io.WriteCloser
	out     *bufio.Reader
	address string // where it listens, which is what it says first
}

// argsEnv is the environment variable with the arguments of a role.
const argsEnv = "CTNET_TEST_ARGS"

// start starts another process. It ends when its standard input is closed, which is done
// at the test's end, and without an error.
func start(t *testing.T, role string, args ...string) *process {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), harness.RoleEnv+"="+role, argsEnv+"="+strings.Join(args, "\n"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		quit := time.AfterFunc(limit, func() { cmd.Process.Signal(syscall.SIGQUIT) }) // it says where it hangs
		defer quit.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other process: %v", err)
		}
	})
	p := &process{in: in, out: bufio.NewReader(out)}
	line, err := p.out.ReadString('\n')
	require.NoError(t, err)
	p.address = strings.TrimSpace(line)
	return p
}

func arg(i int) string { return strings.Split(os.Getenv(argsEnv), "\n")[i] }

func argNumber(i int) uint64 {
	n, err := strconv.ParseUint(arg(i), 10, 64)
	harness.Check(err)
	return n
}
