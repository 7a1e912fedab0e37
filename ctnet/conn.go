package ctnet

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"cutthrough.example/internal/stream"
)

// A Conn is one end of a connection. It implements net.Conn, and the methods
// that programs expect of a *net.TCPConn or *net.UnixConn.
//
// Any number of goroutines may use a Conn at the same time. Concurrent Writes don't mix
// their bytes. Errors are as in package net: io.EOF is returned as it is, and any other
// error in a *net.OpError around os.ErrDeadlineExceeded, net.ErrClosed, or a syscall.Errno.
//
// A Conn that the program forgets is closed by the garbage collector, as those of package net
// are, unless it was made in a testing/synctest bubble.
type Conn struct {
	_ noCopy
	c *conn
}

// A noCopy has go vet report copies: a copy is closed when the garbage collector finds the
// original.
type noCopy struct{}

func (noCopy) Lock()   {}
func (noCopy) Unlock() {}

// A conn is the connection behind a [Conn]. Tables, timers and the other end hold the conn, and
// only the program holds the Conn, so the runtime can tell when the program has forgotten it.
//
// A method of Conn keeps the Conn alive until it returns, so that the connection is not closed
// in the middle of the program's last call.
type conn struct {
	end stream.End

	local, remote net.Addr
	family        family // of the network that this end's program gave; a dialer has it when Dial returns
	cred          *Cred  // all connections of a pair share it

	own     Addr            // local or remote may point to it
	cleanup runtime.Cleanup // closes the end when the Conn is garbage
}

// handOut returns the Conn for the program. It is called once, when a Dial or Accept returns.
// The cleanup runs outside of all bubbles, where nobody may wake the goroutines of a bubble.
func (c *conn) handOut() *Conn {
	h := &Conn{c: c}
	if !c.end.InBubble() {
		c.cleanup = runtime.AddCleanup(h, (*conn).forgotten, c)
	}
	return h
}

// dialed counts a connection that a Dial returns, and hands it out.
func (a *app) dialed(c *conn) *Conn {
	a.counts.Dialed.Add(1)
	return c.handOut()
}

// forgotten is called when the Conn is garbage. It never blocks, as [Conn.Close] doesn't.
func (c *conn) forgotten() { c.end.Close() }

// Read reads up to len(b) bytes. It waits until there is at least one, the deadline passes,
// or the stream ends: with io.EOF if the peer has called [Conn.Close] or [Conn.CloseWrite],
// with ECONNRESET if the peer reset the connection or died. The bytes that the peer wrote
// before are read first.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.c.end.Read(b)
	if err != nil {
		err = c.c.opError("read", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Write writes all of b, and waits while the fifo is full. If the deadline passes or either
// end is closed, it returns the number of bytes that it wrote and an error. If the peer has
// closed, the error is EPIPE if the peer had read everything, and ECONNRESET otherwise.
//
// If Write returns nil, the peer has read the bytes or can read them, or this end will get
// ECONNRESET.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.c.end.Write(b)
	if err != nil {
		err = c.c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// ReadFrom reads from r until io.EOF and writes the bytes. r.Read reads straight into the
// fifo. io.Copy to a Conn calls ReadFrom, unless the source has WriteTo. As with a socket,
// ReadFrom fails only when there is something to write. An error of r is returned as it is, and on
// network tcp in a *net.OpError with Op "readfrom", as all errors of ReadFrom are there.
//
// While r.Read waits, other writers of the connection wait too.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, theirs, err := c.c.end.CopyFrom(r)
	runtime.KeepAlive(c)
	if err = c.c.opError("write", err); err == nil {
		err = theirs
	}
	return n, c.c.copyError("readfrom", err)
}

// WriteTo reads until the end of the stream and writes the bytes to w, straight from the
// fifo. io.Copy from a Conn calls WriteTo. An error of w is returned as it is, and on network tcp
// in a *net.OpError with Op "writeto", as all errors of WriteTo are there.
//
// While w.Write waits, other readers of the connection wait too.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, theirs, err := c.c.end.CopyTo(w)
	runtime.KeepAlive(c)
	if err = c.c.opError("read", err); err == nil {
		err = theirs
	}
	return n, c.c.copyError("writeto", err)
}

// Buffered returns the number of bytes that can be read without waiting. It does not
// wait itself, whatever other goroutines do.
func (c *Conn) Buffered() int {
	defer runtime.KeepAlive(c)
	return c.c.end.Buffered()
}

// Peek returns the next n bytes without reading them, as bufio.Reader does: a slice of the
// fifo's own memory, or a copy if the bytes wrap around the fifo's end. It waits until there
// are n bytes. If it returns fewer, it also returns an error, which is bufio.ErrBufferFull if
// n exceeds the size of the fifo.
//
// The bytes are valid until the next call of Peek, Discard, Read, WriteTo or a raw read. One of
// these must follow, also after [Conn.Close]: the view keeps the connection's memory. The peer can write
// to this memory. A program that does not trust its peer copies the bytes before it checks
// them.
func (c *Conn) Peek(n int) ([]byte, error) {
	b, err := c.c.end.Peek(n)
	runtime.KeepAlive(c)
	return b, c.c.opError("read", err)
}

// Discard skips the next n bytes, as bufio.Reader does: it waits for bytes that
// have not arrived, and returns an error if it skipped fewer.
func (c *Conn) Discard(n int) (int, error) {
	done, err := c.c.end.Discard(n)
	runtime.KeepAlive(c)
	return done, c.c.opError("read", err)
}

// Reserve returns room to write at least n bytes, or at least one if n is 0: a slice of the
// fifo's own memory, or a buffer of n bytes if the free bytes wrap around the fifo's end. It
// waits until there is room. If n exceeds the size of the fifo, the error is
// bufio.ErrBufferFull.
//
// [Conn.Commit] must follow, also after [Conn.Close] or to write nothing. Until then other
// writers wait, and the reservation keeps the connection's memory.
//
// A Reserve without enough room waits until the peer reads. For more than half of the fifo it
// may wait until the peer has read what was written before. If the peer waits in [Conn.Peek]
// for more bytes than it has, both wait until a deadline or Close.
func (c *Conn) Reserve(n int) ([]byte, error) {
	b, err := c.c.end.Reserve(n)
	runtime.KeepAlive(c)
	return b, c.c.opError("write", err)
}

// Commit writes the first n bytes of the room that the last [Conn.Reserve] returned. It must
// be called once for each Reserve that succeeded; without one it fails with EINVAL.
func (c *Conn) Commit(n int) error {
	defer runtime.KeepAlive(c)
	return c.c.opError("write", c.c.end.Commit(n))
}

// Close closes the connection, as with TCP: the peer can still read the bytes that were
// written, followed by io.EOF. But if this end has not read all bytes of the peer, the
// connection is reset, and the peer gets ECONNRESET in place of io.EOF. Calls that are blocked
// return net.ErrClosed. Close never waits.
func (c *Conn) Close() error {
	err := c.c.end.Close()
	if err == nil {
		c.c.cleanup.Stop() // it would keep the connection for another cycle of the collector
	}
	runtime.KeepAlive(c)
	return c.c.opError("close", err)
}

// CloseRead ends reading at this end: Read returns the bytes that have arrived and then
// io.EOF, also a Read that is blocked now. As with TCP the peer does not notice until the fifo
// is full. Once Read has returned io.EOF it returns no more bytes, unlike with TCP on Linux.
func (c *Conn) CloseRead() error {
	defer runtime.KeepAlive(c)
	return c.c.opError("close", c.c.end.CloseRead())
}

// CloseWrite ends writing at this end: the peer reads the bytes that were written and then
// io.EOF. A Write that is blocked and every later Write return EPIPE.
func (c *Conn) CloseWrite() error {
	defer runtime.KeepAlive(c)
	return c.c.opError("close", c.c.end.CloseWrite())
}

// SetLinger with 0 makes [Conn.Close] reset the connection, so that the peer gets ECONNRESET
// after the bytes that were written. Any other value undoes that; Close never waits, as the
// bytes are in memory that the peer maps.
func (c *Conn) SetLinger(sec int) error {
	defer runtime.KeepAlive(c)
	return c.c.opError("set", c.c.end.SetLinger(sec == 0))
}

// SetDeadline sets the time after which Read and Write fail with
// os.ErrDeadlineExceeded, also calls that are blocked. The zero time means never.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline is SetDeadline for Read alone.
func (c *Conn) SetReadDeadline(t time.Time) error {
	defer runtime.KeepAlive(c)
	return c.c.setError(c.c.end.SetReadDeadline(t))
}

// SetWriteDeadline is SetDeadline for Write alone. A Write that fails may have written some
// bytes, and returns their number.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	defer runtime.KeepAlive(c)
	return c.c.setError(c.c.end.SetWriteDeadline(t))
}

// setError returns err as package net returns errors of deadlines: without the peer's address.
func (c *conn) setError(err error) error { return opError("set", c.network(), nil, c.local, err) }

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.c.remote }

// A Cred identifies the process at the other end. It comes from the kernel, at the moment when
// the two processes attached. PID is 0 if the process is in a PID namespace that can't be seen
// from here.
type Cred struct {
	PID, UID, GID int
}

// PeerCred returns the credentials of the process at the other end.
func (c *Conn) PeerCred() Cred { return *c.c.cred }

// opError returns err in the form of package net's errors, and nil for nil.
func (c *conn) opError(op string, err error) error {
	return opError(op, c.network(), c.local, c.remote, err)
}

// copyError returns an error of ReadFrom or WriteTo as package net does. A *net.TCPConn has these
// methods, and wraps all errors, once more if they are its own. For a *net.UnixConn io.Copy calls
// Read and Write.
func (c *conn) copyError(op string, err error) error {
	if err == nil || err == io.EOF || !isTCP(c.remote) {
		return err
	}
	return c.wrap(op, err)
}

// network returns the name of the network for errors.
func (c *conn) network() string { return c.family.network(c.local) }

// ownCred returns this process's credentials.
var ownCred = sync.OnceValue(func() *Cred {
	return &Cred{os.Getpid(), os.Geteuid(), os.Getegid()}
})
