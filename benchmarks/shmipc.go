//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/cloudwego/shmipc-go"
)

// shmipc-go multiplexes streams over a session, which two processes set up once.
// Its listener and its Stream are a net.Listener and a net.Conn, so workloads use
// them as they use all others; what it calls a session takes the place of what
// ctnet does behind Dial.

func init() {
	// It writes warnings to the standard output.
	shmipc.SetLogLevel(5)
}

func listenShmipc(dir string) (net.Listener, string, error) {
	path := filepath.Join(dir, "shmipc")
	ln, err := shmipc.Listen(path)
	return ln, path, err
}

var shmipcSession = sync.OnceValues(func() (*shmipc.SessionManager, error) {
	conf := shmipc.DefaultSessionManagerConfig()
	conf.Network = "unix"
	conf.Address = shmipcAddress
	// Files, as its default is, would remain if this process were killed.
	conf.MemMapType = shmipc.MemMapTypeMemFd
	conf.ShareMemoryPathPrefix = fmt.Sprintf("/dev/shm/benchmarks-%d", os.Getpid())
	conf.QueuePath = conf.ShareMemoryPathPrefix + "-queue"
	return shmipc.NewSessionManager(conf)
})

var shmipcAddress string

func dialShmipc(_ context.Context, address string) (net.Conn, error) {
	shmipcAddress = address
	s, err := shmipcSession()
	if err != nil {
		return nil, err
	}
	return s.GetStream()
}
