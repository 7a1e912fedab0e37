package ctnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"cutthrough.example/internal/stream"
)

// A Conn is one end of a connection. It implements net.Conn, and the methods
// that programs expect of a *net.TCPConn or *net.UnixConn.
//
// Any number of goroutines may use a Conn at the same time. Writes don't mix
// with each other. What package net promises of a connection's errors holds:
// io.EOF is returned as it is, everything else in a *net.OpError around
// os.ErrDeadlineExceeded, net.ErrClosed, or a syscall.Errno.
type Conn struct {
	end stream.End

	local, remote net.Addr
	cred          *Cred // shared
}

// Read reads up to len(b) bytes. It waits until there is at least one, the
// deadline passes, or the stream ends: with io.EOF if the peer closed its end or
// its writing side, with ECONNRESET if the peer reset the connection or died. What
// the peer wrote before it did either is read first.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.end.Read(b)
	if err != nil {
		err = c.opError("read", err)
	}
	return n, err
}

// Write writes all of b, unless the deadline passes, the connection is closed,
// or the peer has: then it returns how much it wrote and the reason, EPIPE if the
// peer had read everything and closed in order, ECONNRESET otherwise. It waits
// while the fifo is full.
//
// If Write returns nil then the bytes have been read, or can be, or this end
// will get ECONNRESET.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.end.Write(b)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// ReadFrom writes what it reads from r until io.EOF. r reads straight into the
// fifo, which is what io.Copy to a Conn does unless its source has WriteTo. As with io.Copy to a socket it fails only
// when there is something to be written, and r's own error is returned as it is.
//
// While r.Read waits, so do other writers of the connection.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, theirs, err := c.end.CopyFrom(r)
	if err != nil {
		return n, c.opError("write", err)
	}
	return n, theirs
}

// WriteTo reads until the end of the stream and writes it to w, straight from
// the fifo, which is what io.Copy from a Conn does.
//
// While w.Write waits, so do other readers of the connection.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, theirs, err := c.end.CopyTo(w)
	if err != nil {
		return n, c.opError("read", err)
	}
	return n, theirs
}

// Buffered returns the number of bytes that can be read without waiting. It does not
// wait itself, whatever other goroutines do.
func (c *Conn) Buffered() int { return c.end.Buffered() }

// Peek returns the next n bytes without reading them, as bufio.Reader does: the
// fifo's own memory, but for n bytes that wrap around its end, which are copied.
// It waits until there are n, and if it returns fewer it also says why. An n that
// exceeds the size of the fifo is bufio.ErrBufferFull.
//
// The bytes are valid until the next call of Peek, Discard, Read or WriteTo, and
// one of these must follow, also after Close: until then the connection's memory
// is not let go. They lie in memory that the peer can write to; a program that
// does not trust its peer copies what it checks before it checks it.
func (c *Conn) Peek(n int) ([]byte, error) {
	b, err := c.end.Peek(n)
	return b, c.opError("read", err)
}

// Discard skips the next n bytes, as bufio.Reader does: it waits for bytes that
// have not arrived, and returns an error if it skipped fewer.
func (c *Conn) Discard(n int) (int, error) {
	done, err := c.end.Discard(n)
	return done, c.opError("read", err)
}

// Reserve returns room for at least n bytes to be written, and for at least one if n
// is 0: the fifo's own memory, or a buffer of n bytes if the free bytes wrap around the
// fifo's end. It waits until there is room. An n that exceeds the size of the fifo is
// bufio.ErrBufferFull.
//
// Commit must follow, also after Close or to write nothing. Until then other
// writers wait, and the connection's memory is not let go.
//
// A Reserve for which there is no room waits for the peer to read. If the peer waits,
// in Peek, for more bytes than it has, then both wait until a deadline or Close.
func (c *Conn) Reserve(n int) ([]byte, error) {
	b, err := c.end.Reserve(n)
	return b, c.opError("write", err)
}

// Commit writes the first n bytes of what the last Reserve returned. It must be
// called once for each Reserve that succeeded; without one it fails with EINVAL.
func (c *Conn) Commit(n int) error {
	return c.opError("write", c.end.Commit(n))
}

// Close closes the connection, as TCP does: what was written can still be read
// by the peer, followed by io.EOF; but if bytes that the peer has written are
// unread, the connection is reset, and the peer gets ECONNRESET in place of
// io.EOF. Calls that are blocked return net.ErrClosed. Close never waits.
func (c *Conn) Close() error { return c.opError("close", c.end.Close()) }

// CloseRead ends reading at this end: Read returns what has arrived and then
// io.EOF, also if it is blocked now. As with TCP the peer does not notice, until
// the fifo is full. What arrives after Read has returned io.EOF is not read, unlike
// with TCP on Linux.
func (c *Conn) CloseRead() error { return c.opError("close", c.end.CloseRead()) }

// CloseWrite ends writing at this end: the peer reads what was written and then
// io.EOF. A Write that is blocked returns EPIPE, as every later one does.
func (c *Conn) CloseWrite() error { return c.opError("close", c.end.CloseWrite()) }

// SetLinger with 0 makes Close reset the connection, so that the peer gets
// ECONNRESET after what was written. Other values have no effect: what was
// written is in the peer's reach already, and Close has nothing to wait for.
func (c *Conn) SetLinger(sec int) error { return c.opError("set", c.end.SetLinger(sec == 0)) }

// SetReadBuffer does nothing: a fifo's size is chosen when the connection is
// made, see ListenConfig and Dialer.
func (c *Conn) SetReadBuffer(bytes int) error {
	if c.end.Closed() {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

// SetWriteBuffer does nothing, as SetReadBuffer.
func (c *Conn) SetWriteBuffer(bytes int) error { return c.SetReadBuffer(bytes) }

// SetDeadline sets the time after which Read and Write fail with
// os.ErrDeadlineExceeded, also calls that are blocked. The zero time means never.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline is SetDeadline for Read alone.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setError(c.end.SetReadDeadline(t)) }

// SetWriteDeadline is SetDeadline for Write alone. A Write that fails may have
// written a part, and says how much.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setError(c.end.SetWriteDeadline(t)) }

// setError returns err as package net does for deadlines, without the peer.
func (c *Conn) setError(err error) error { return opError("set", nil, c.local, err) }

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// A Cred identifies the process at the other end, as the kernel did when it attached to this
// one. PID is 0 if the process is in a PID namespace that can't
// be seen from here.
type Cred struct {
	PID, UID, GID int
}

// PeerCred returns the credentials of the process at the other end.
func (c *Conn) PeerCred() Cred { return *c.cred }

// opError returns err as package net does, and nil for nil.
func (c *Conn) opError(op string, err error) error {
	return opError(op, c.local, c.remote, err)
}

// ownCred returns this process's credentials.
var ownCred = sync.OnceValue(func() *Cred {
	return &Cred{os.Getpid(), os.Geteuid(), os.Getegid()}
})
