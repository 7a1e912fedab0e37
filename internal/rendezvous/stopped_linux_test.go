package rendezvous

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIsStopped stops a process whose name looks like the end of another one's, and has it go on and end.
func TestIsStopped(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	b, err := os.ReadFile(sleep)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "x) T (y")
	require.NoError(t, os.WriteFile(name, b, 0o755))
	cmd := exec.Command(name, "1000")
	cmd.Args[0] = "sleep" // of programs that are many in one file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		require.False(t, IsStopped(cmd.Process.Pid), "it has ended")
	}()
	pid := cmd.Process.Pid
	require.False(t, IsStopped(pid))
	change := func(signal syscall.Signal, options int) {
		require.NoError(t, syscall.Kill(pid, signal))
		_, err := syscall.Wait4(pid, nil, options, nil)
		require.NoError(t, err)
	}
	change(syscall.SIGSTOP, syscall.WUNTRACED)
	require.True(t, IsStopped(pid))
	change(syscall.SIGCONT, 8) // WCONTINUED
	require.False(t, IsStopped(pid))
	require.False(t, IsStopped(0), "a process of which nothing is known")
	require.False(t, IsStopped(1<<30), "there is none")
}
