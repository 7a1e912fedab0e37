package pair

import (
	"os/exec"
	"syscall"
	"testing"

	"cutthrough.example/internal/rendezvous"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestProcess says nothing of a process that has the number of a peer that has ended.
func TestProcess(t *testing.T) {
	start := func() (pid, fd int, end func()) {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return cmd.Process.Pid, fd, func() {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	live, liveFD, endLive := start()
	defer endLive()
	_, endedFD, end := start()
	end()
	require.NoError(t, syscall.Kill(live, syscall.SIGSTOP))
	_, err := syscall.Wait4(live, nil, syscall.WUNTRACED, nil)
	require.NoError(t, err)

	p := &pair{cred: rendezvous.Cred{PID: live}}
	p.refs.Store(1)
	for _, fd := range []int{liveFD, -1} {
		p.source.Process = fd
		exe, stopped := p.process()
		require.NotEmpty(t, exe)
		require.True(t, stopped)
	}
	unknown := func() {
		t.Helper()
		exe, stopped := p.process()
		require.Empty(t, exe)
		require.False(t, stopped)
	}
	p.source.Process = endedFD
	unknown()
	p.source.Process = liveFD
	p.dead.Store(true)
	unknown()
	p.dead.Store(false)
	p.cred.PID = 0
	unknown()
	p.cred.PID = live
	p.refs.Store(0)
	unknown()
}
