package ctgrpc_test

import (
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// TestServerKilled has one client of three servers in processes of their own,
// each of which is killed in the midst of a call.
func TestServerKilled(t *testing.T) {
	checkLeaks(t)
	cc := connect(t, "ct:///svc/process")
	client := testpb.NewTestServiceClient(cc)
	for range 3 {
		kill := startServer(t, "svc/process")
		requireEmptyCall(t, cc, grpc.WaitForReady(true))
		require.NoError(t, bidiStream(soon(t), client))
		stream, err := client.FullDuplexCall(soon(t))
		require.NoError(t, err)
		echo(t, stream, "hello")
		kill()
		_, err = stream.Recv()
		requireUnavailable(t, err)
	}
}

// startServer starts this binary as a server on a name.
func startServer(t testing.TB, name string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CTGRPC_TEST_SERVE="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		stdin.Close()
		cmd.Wait()
	})
	t.Cleanup(kill)
	ready := make([]byte, len("ready\n"))
	_, err = io.ReadFull(stdout, ready)
	require.NoError(t, err)
	return kill
}
