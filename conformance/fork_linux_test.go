package conformance

import (
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
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	roles["forker"] = forker
	roles["heir"] = heir
}

// forker echoes, and dials BACK and echoes there. It starts an heir at each line that it reads,
// with none of its descriptors or all of them, and answers with the heir's PID.
func forker() {
	ln, err := ctnet.Listen("ct", os.Getenv("CTNET_TEST_NAME"))
	harness.Check(err)
	go func() {
		for {
			c, err := ln.Accept()
			harness.Check(err)
			go io.Copy(c, c)
		}
	}()
	c, err := ctnet.Dial("ct", os.Getenv("CTNET_TEST_BACK"))
	harness.Check(err)
	go io.Copy(c, c)
	fmt.Println("ready")
	for {
		var what string
		if _, err := fmt.Scanln(&what); err != nil {
			return
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), harness.RoleEnv+"=heir")
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr // the test ends it by closing the former
		if what == "all" {
			cmd.ExtraFiles = allDescriptors()
		}
		said, err := cmd.StdoutPipe()
		harness.Check(err)
		harness.Check(cmd.Start())
		var n int
		_, err = fmt.Fscan(said, &n)
		harness.Check(err)
		fmt.Println(cmd.Process.Pid, n)
	}
}

// allDescriptors returns duplicates of all of this process's, as a fork has them.
func allDescriptors() (files []*os.File) {
	names, err := os.ReadDir("/proc/self/fd")
	harness.Check(err)
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		harness.Check(err)
		if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			files = append(files, os.NewFile(uintptr(dup), name.Name()))
		} else if err != unix.EBADF { // that of the directory
			harness.Check(err)
		}
	}
	return files
}

// heir says how many sockets it has, does nothing, and lives until its standard input ends.
func heir() {
	names, err := os.ReadDir("/proc/self/fd")
	harness.Check(err)
	sockets := 0
	for _, name := range names {
		if to, _ := os.Readlink("/proc/self/fd/" + name.Name()); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	fmt.Println(sockets)
	io.Copy(io.Discard, os.Stdin)
}

// TestForkedChildOutlives kills a process whose child lives on: its connections end, as server
// and as client, and no descriptor that the child was given keeps them alive.
func TestForkedChildOutlives(t *testing.T) {
	for _, inherits := range []string{"nothing", "all"} {
		t.Run(inherits, func(t *testing.T) {
			leakcheck.Check(t)
			a := harness.NewApp(t)
			lc := ctnet.ListenConfig{App: a}
			ln, err := lc.Listen(t.Context(), "ct", t.Name()+"-back")
			require.NoError(t, err)
			defer ln.Close()
			p := launch(t, "forker", "CTNET_TEST_NAME="+t.Name(), "CTNET_TEST_BACK="+t.Name()+"-back")
			require.Equal(t, "ready", p.line(t))
			accepted := acceptConn(t, ln.(*ctnet.Listener))
			conns := []*ctnet.Conn{dialConn(t, a), accepted}
			for _, c := range conns {
				requireEcho(t, c)
			}
			var child, sockets int
			_, err = fmt.Sscan(p.ask(t, inherits), &child, &sockets)
			require.NoError(t, err)
			if inherits == "all" {
				require.GreaterOrEqual(t, sockets, 3) // the door, and two control channels
			} else {
				require.Zero(t, sockets)
			}
			for _, c := range conns {
				requireEcho(t, c)
				writeString(t, c, "left")
				harness.Eventually(t, func() bool { return c.Buffered() == len("left") })
			}
			kill(t, p.cmd)
			// Not reap: Wait would wait for the child, which has the output too.
			_, err = p.cmd.Process.Wait()
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(child, 0), "the child has died")
			for _, c := range conns {
				readString(t, c, "left")
				read := startCall(c.Read, make([]byte, 1))
				harness.RequireWithin(t, time.Second, read.done, "Read, when a child has the descriptors of the peer,")
				require.ErrorIs(t, read.err, syscall.ECONNRESET)
				_, err := c.Write([]byte("x"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.NoError(t, c.Close())
			}
			require.NoError(t, syscall.Kill(child, 0), "the child has died")
			// The child of a child of this process: its death is seen by that it has no files.
			require.NoError(t, p.in.Close())
			harness.Eventually(t, func() bool { return syscall.Kill(child, 0) != nil || isZombie(child) })
		})
	}
}

func isZombie(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return state == "" || state[0] == 'Z'
}
