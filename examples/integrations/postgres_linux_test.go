package integrations

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A PostgreSQL server, if one is installed, behind a relay.
func init() {
	if _, err := exec.LookPath("initdb"); err != nil {
		return
	}
	postgresServers = append(postgresServers, struct {
		name  string
		start func(testing.TB) func(testing.TB, net.Listener)
	}{"PostgreSQL", func(t testing.TB) func(testing.TB, net.Listener) {
		socket := startPostgres(t)
		return func(t testing.TB, ln net.Listener) {
			acceptAll(t, ln, func(c net.Conn) {
				up, err := net.Dial("unix", socket)
				if err != nil {
					return
				}
				relay(c, up)
			})
		}
	}})
}

// relay copies both ways until both have ended.
func relay(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyAll(b, a)
		b.(interface{ CloseWrite() error }).CloseWrite()
	}()
	copyAll(a, b)
	a.Close()
	b.Close()
	<-done
}

// copyAll is io.Copy without splice, for which package net keeps pipes until the
// garbage is collected. They would look like a leak.
func copyAll(w io.Writer, r io.Reader) {
	io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{r})
}

// startPostgres starts a server that runs until the test ends, or this process
// does, and returns its socket. The server refuses to be root's.
func startPostgres(t testing.TB) (socket string) {
	dir, err := os.MkdirTemp("", "ctnet-postgres-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	var attr *syscall.SysProcAttr
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		require.NoError(t, err)
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		require.NoError(t, os.Chown(dir, uid, gid))
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	data := filepath.Join(dir, "data")

	initdb := exec.Command("initdb", "-D", data, "-U", "gopher", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	out, err := initdb.CombinedOutput()
	require.NoError(t, err, "%s", out)

	server := exec.Command("sh", "-c", `postgres "$@" & cat; kill -INT $!; wait`, "sh",
		"-D", data, "-k", dir, "-F", "-c", "listen_addresses=", "-c", "lc_messages=C")
	server.Dir, server.SysProcAttr = dir, attr
	stdin, err := server.StdinPipe()
	require.NoError(t, err)
	stderr, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	log := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "ready to accept connections"); {
		line, err = log.ReadString('\n')
		require.NoError(t, err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, log)
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-drained
		server.Wait()
	})
	return filepath.Join(dir, ".s.PGSQL.5432")
}
