package ctnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

// Programs use more than net.Conn and net.Listener: they look for further methods that the types
// of package net have. The compiler checks here that ctnet's types have them too.

var (
	_ net.Conn      = (*ctnet.Conn)(nil)
	_ io.ReaderFrom = (*ctnet.Conn)(nil)
	_ io.WriterTo   = (*ctnet.Conn)(nil)
	_ halfCloser    = (*ctnet.Conn)(nil)
	_ tuner         = (*ctnet.Conn)(nil)
	_ peeker        = (*ctnet.Conn)(nil)
	_ socket        = (*ctnet.Conn)(nil)

	_ net.Listener   = (*ctnet.Listener)(nil)
	_ socketListener = (*ctnet.Listener)(nil)

	_ net.Addr     = (*ctnet.Addr)(nil)
	_ fmt.Stringer = (*ctnet.Addr)(nil)

	_ dialer       = (*ctnet.Dialer)(nil)
	_ listenConfig = (*ctnet.ListenConfig)(nil)
	_ dialer       = (*net.Dialer)(nil)
	_ listenConfig = (*net.ListenConfig)(nil)
	_              = http.Transport{DialContext: ctnet.DialContext}
)

// A halfCloser has the methods with which a relay passes on the end of one direction.
type halfCloser interface {
	CloseRead() error
	CloseWrite() error
}

// A tuner has the options of net.TCPConn that concern closing and memory.
type tuner interface {
	SetLinger(sec int) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

var (
	_ halfCloser     = (*net.TCPConn)(nil)
	_ halfCloser     = (*net.UnixConn)(nil)
	_ tuner          = (*net.TCPConn)(nil)
	_ socketListener = (*net.TCPListener)(nil)
	_ socketListener = (*net.UnixListener)(nil)
)

// A socket has a descriptor, or says why not.
type socket interface {
	syscall.Conn
	File() (*os.File, error)
}

var (
	_ socket = (*net.TCPConn)(nil)
	_ socket = (*net.UnixConn)(nil)
)

// A peeker has the methods of bufio.Reader that read in place.
type peeker interface {
	Buffered() int
	Peek(n int) ([]byte, error)
	Discard(n int) (int, error)
}

// A socketListener has the further methods of net.TCPListener and net.UnixListener.
type socketListener interface {
	socket
	SetDeadline(t time.Time) error
}

type dialer interface {
	Dial(network, address string) (net.Conn, error)
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

type listenConfig interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// The functions have the signatures of package net's.
var (
	_ = same(net.Dial, ctnet.Dial)
	_ = same(net.DialTimeout, ctnet.DialTimeout)
	_ = same(net.Listen, ctnet.Listen)
)

func same[F any](_, _ F) bool { return true }
