package ctnet

import (
	"net"
	"os"
	"runtime"
	"syscall"

	"cutthrough.example/internal/standin"
	"cutthrough.example/internal/syserr"
)

var errNoFile = syserr.New(syscall.EOPNOTSUPP, "the bytes are in shared memory, and no descriptor can carry them to another process; use Path: ctnet.Kernel for a connection that is to be handed on")

var errNoDescriptor = syserr.New(syscall.EOPNOTSUPP, "no socket can stand in for a descriptor on this system")

var errOtherUser = syserr.New(syscall.EOPNOTSUPP, "the peer is another user, whose credentials no socket of this process would show; use PeerCred")

// File fails with EOPNOTSUPP: another process could not get the bytes from a descriptor.
func (c *Conn) File() (*os.File, error) {
	defer runtime.KeepAlive(c)
	return nil, c.c.opError("file", errNoFile)
}

// SyscallConn returns the connection for raw system calls, as that of net.TCPConn does. Pools use it
// to find out whether an idle connection is still open.
//
// The descriptor is that of a unix socket, which stands in for the connection. The first raw call
// makes it, and it is closed with the connection.
//
//   - In the function of Read the descriptor has the stream's bytes, up to 64 KiB of them, and after
//     the last the end of the stream: read it, peek with recv, or poll it. What is not read
//     there is returned by the next Read. A function that returns false is called again when more
//     has come. While the function runs other readers wait. It must not wait itself for
//     bytes, as none come before it returns. It ends the view from the last [Conn.Peek].
//   - In the function of Write, the descriptor takes nothing: a write fails with EPIPE. A function
//     that returns false is called again when there is room in the fifo, if there was none, or when the
//     peer has closed.
//   - In the function of Control, and outside of all functions, the descriptor has no bytes, unless
//     another goroutine's Read runs. If the stream had ended when Control was called, and all bytes
//     had been read, it is at its end: it is readable and hung up, and a read returns 0 or
//     ECONNRESET. Otherwise poll finds nothing to read, also if there are bytes, or if another
//     goroutine was reading.
//
// Deadlines and Close end a Read and a Write that wait. Errors are those of package net, with Op
// "raw-read", "raw-write" and "raw-control".
//
// The options of the socket are those of a unix socket: there is no TCP_INFO. SO_PEERCRED returns the
// user and group of the peer on networks "unix" and "ct", and this process's number; [Conn.PeerCred]
// has the peer's. If the peer there is another user or group, Control, in which programs ask for it, fails
// with EOPNOTSUPP. On network "tcp", where a socket has no credentials, SO_PEERCRED returns this
// process's.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	defer runtime.KeepAlive(c)
	if !standin.Supported {
		return nil, c.c.opError("raw", errNoDescriptor)
	}
	return rawConn{c}, nil
}

// A rawConn is a Conn for raw calls. It keeps the Conn from being closed as garbage.
type rawConn struct{ c *Conn }

func (r rawConn) Control(f func(fd uintptr)) error {
	err := error(errOtherUser)
	if c := r.c.c; isTCP(c.remote) || c.cred.UID == ownCred().UID && c.cred.GID == ownCred().GID {
		err = c.end.RawControl(f)
	}
	runtime.KeepAlive(r.c)
	if err != nil {
		return &net.OpError{Op: "raw-control", Net: r.c.c.network(), Addr: r.c.c.local, Err: err}
	}
	return nil
}

func (r rawConn) Read(f func(fd uintptr) (done bool)) error {
	err := r.c.c.end.RawRead(f)
	runtime.KeepAlive(r.c)
	return r.c.c.wrap("raw-read", err)
}

func (r rawConn) Write(f func(fd uintptr) (done bool)) error {
	err := r.c.c.end.RawWrite(f)
	runtime.KeepAlive(r.c)
	return r.c.c.wrap("raw-write", err)
}

// wrap returns an error as it is in a *net.OpError, and nil for nil.
func (c *conn) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: c.network(), Source: c.local, Addr: c.remote, Err: err}
}
