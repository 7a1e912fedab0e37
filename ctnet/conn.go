package ctnet

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// A Conn is one end of a connection. It implements net.Conn, and the methods
// that programs expect of a *net.TCPConn or *net.UnixConn.
//
// Any number of goroutines may use a Conn at the same time. Writes don't mix
// with each other. What package net promises of a connection's errors holds:
// io.EOF is returned as it is, everything else in a *net.OpError around
// os.ErrDeadlineExceeded, net.ErrClosed, or a syscall.Errno.
type Conn struct {
	gate  gate
	state atomic.Uint32 // this end's, see below

	rx ring.Consumer // guarded by the lock for reading
	tx ring.Producer // guarded by the lock for writing
	rd half
	wr half

	// raceKey orders, for the race detector, what happened before a Write
	// and after the Read that returns its bytes.
	raceKey uint64

	peer peer

	local, remote net.Addr
	cred          Cred

	scratch  []byte      // what Reserve lent in place of the fifo; guarded as tx
	turn     int         // bytes written since others could run; guarded as tx
	reserved atomic.Bool // Commit must follow

	tcp bool // a Write after the peer's close does as TCP's; see unnoticed
}

// A half is what reading and writing have each for themselves.
type half struct {
	waiter
	deadline
	spin    sched.Spin
	waiters bell // for the gate's lock
}

// nearAhead is how many bytes a writer gets ahead of a reader in its own application
// before it leaves its P to that one: so many are still in the CPU's cache.
const nearAhead = 64 << 10

// turnBytes is how much a goroutine writes before it lets others run. If the other end
// keeps up it never has to wait, as it would with a kernel's small buffers, and the
// runtime takes its P away only after 10 ms: so long would all others wait. Who reads
// then waits too.
const turnBytes = 1 << 20

// expired is called when the deadline passes.
func (h *half) expired() {
	h.wake()
	h.waiters.ring()
}

// The bits of Conn.state. But for lingerZero they are set once and never
// cleared. Whoever sets one wakes the goroutines that wait afterwards.
const (
	isClosed    = 1 << iota // by Close
	readClosed              // by CloseRead
	writeClosed             // by CloseWrite
	peerGone                // the other process died, or detached
	corrupted               // the peer broke the rules
	bytesLost               // the peer closed without having read a Write's bytes
	lingerZero              // by SetLinger(0)
)

// A peer is a connection's way to its other end.
type peer interface {
	// notify tells the other end that something it waits for may have come.
	// notifyApart does so for calls that never wait.
	notify()
	notifyApart()
	// watch is what to keep while looking whether the other end has done
	// something, or nil if that is done in this application.
	watch() sched.Poller
	// halfOpen reports whether the dialer has not been answered.
	halfOpen() bool
	// release lets go of the fifos. It is called once, when the connection
	// is closed and nobody is inside any more.
	release()
}

func (c *Conn) init(rx, tx segpool.Fifo, raceKey uint64) {
	c.gate.init()
	c.rd.init()
	c.wr.init()
	c.rd.waiters, c.wr.waiters = c.gate.waiters[reading], c.gate.waiters[writing]
	c.rx.Init(rx.Header, rx.Data)
	c.tx.Init(tx.Header, tx.Data)
	c.raceKey = raceKey
}

// look looks at ready for a moment, which may spare a wake-up.
func (c *Conn) look(h *half, ready func() bool) bool {
	watch := c.peer.watch()
	if watch == nil {
		return sched.Yield(ready)
	}
	return h.spin.Until(watch, ready)
}

// near returns the way to the other end if that is this application's too, or nil.
func (c *Conn) near() *localPeer {
	p, _ := c.peer.(*localPeer)
	return p
}

// event is called when the other end may have done what this one waits for.
// It never blocks.
func (c *Conn) event() {
	c.rd.wake()
	c.wr.wake()
}

// detach is called when there is no other end any more.
func (c *Conn) detach() {
	c.state.Or(peerGone)
	c.event()
}

// corrupt ends a connection whose peer broke the rules. The caller has a lock.
func (c *Conn) corrupt() error {
	c.state.Or(corrupted)
	c.rx.Close()
	c.endStream()
	c.event()
	return errCorrupt
}

var errCorrupt = &problem{syscall.ECONNRESET, ring.ErrCorrupt.Error()}

// Read reads up to len(b) bytes. It waits until there is at least one, the
// deadline passes, or the stream ends: with io.EOF if the peer closed its end or
// its writing side, with ECONNRESET if the peer reset the connection or died. What
// the peer wrote before it did either is read first.
func (c *Conn) Read(b []byte) (int, error) {
	if err := c.lockRead(); err != nil {
		return 0, c.opError("read", err)
	}
	n, err := c.read(b)
	c.unlock(reading)
	if err != nil {
		err = c.opError("read", err)
	}
	return n, err
}

// lockRead takes the lock for reading, which ends the last Peek.
func (c *Conn) lockRead() error {
	err := c.gate.lock(reading, &c.rd.deadline)
	if err != os.ErrDeadlineExceeded && c.gate.endPeek() {
		c.peer.release()
	}
	return err
}

func (c *Conn) read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		end, err := c.beforeRead()
		if err != nil {
			return 0, err
		}
		n := 0
		for n < len(b) {
			m, err := c.rx.Read(b[n:])
			if err != nil {
				return n, c.corrupt()
			}
			if m == 0 {
				break
			}
			n += m
			if c.rx.SpaceWanted() {
				c.peer.notify()
			}
		}
		if n > 0 {
			ring.RaceAcquire(c.raceKey)
			return n, nil
		}
		if end != nil {
			c.rx.Stop()
			return 0, end
		}
		if n := c.awaitInto(b); n > 0 {
			ring.RaceAcquire(c.raceKey)
			return n, nil
		}
	}
}

// beforeRead returns an error if nothing may be read, and otherwise how the
// stream ends once it is found to be empty, if it does. Call it before looking
// for bytes: all those that came before the end are visible then. Whoever tells the user
// of the end stops the consumer. An honest peer publishes nothing after it has told of
// its end, but the end may also be known from elsewhere: the control channel, CloseRead.
func (c *Conn) beforeRead() (end, err error) {
	// The state first: a peer that is gone has done all that it did.
	state := c.state.Load()
	if state&isClosed != 0 {
		return nil, net.ErrClosed
	}
	if c.rd.passed.Load() {
		return nil, os.ErrDeadlineExceeded
	}
	if state&corrupted != 0 {
		return nil, errCorrupt
	}
	fin, reset := c.rx.Ended()
	switch {
	case reset || state&bytesLost != 0:
		return syscall.ECONNRESET, nil
	case fin || state&readClosed != 0:
		return io.EOF, nil
	case state&peerGone != 0 || c.rx.Stopped():
		return syscall.ECONNRESET, nil
	}
	return nil, nil
}

// awaitData waits until there are more than have bytes to read, or there is any
// other reason to look again, such as that in was used.
func (c *Conn) awaitData(have int, in *handoff) {
	ready := func() bool {
		if c.rx.HasData(have) || c.rd.passed.Load() || c.state.Load()&^(writeClosed|lingerZero) != 0 {
			return true
		}
		fin, reset := c.rx.Ended()
		return fin || reset || in != nil && in.used()
	}
	if c.look(&c.rd, ready) {
		return
	}
	c.rd.prepare()
	c.rx.RequestData()
	// A producer that waits for more space than there is would never fill the
	// fifo to where this waits. It looks at the request after making its own.
	if have > 0 && c.rx.AnySpaceWanted() {
		c.peer.notify()
	}
	if ready() {
		c.rd.cancel()
	} else {
		c.rd.wait()
	}
	c.rx.DropRequest()
}

// Write writes all of b, unless the deadline passes, the connection is closed,
// or the peer has: then it returns how much it wrote and the reason, EPIPE if the
// peer had read everything and closed in order, ECONNRESET otherwise. It waits
// while the fifo is full.
//
// If Write returns nil then the bytes have been read, or can be, or this end
// will get ECONNRESET.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.gate.lock(writing, &c.wr.deadline); err != nil {
		return 0, c.opError("write", err)
	}
	n, err := c.write(b)
	c.unlock(writing)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

func (c *Conn) write(b []byte) (n int, err error) {
	if err := c.beforeWrite(); err != nil || len(b) == 0 {
		if c.unnoticed(err) {
			if len(b) > 0 {
				c.lose()
			}
			return len(b), nil
		}
		return 0, err
	}
	ring.RaceRelease(c.raceKey)
	for {
		m := c.give(b[n:])
		if n += m; m == 0 {
			if m, err = c.tx.Write(b[n:]); err != nil {
				return n, c.corrupt()
			}
			if n += m; m == 0 {
				c.awaitSpace(min(len(b)-n, c.tx.Size()/4), true)
			} else if c.tx.DataWanted() {
				c.peer.notify()
			}
			c.wrote(m)
			if c.near() != nil && c.tx.Queued() >= nearAhead {
				runtime.Gosched()
			}
		}
		if n == len(b) {
			return n, c.afterWrite()
		}
		if err := c.beforeWrite(); err != nil {
			return n, err
		}
	}
}

// wrote lets others run when many bytes were written.
func (c *Conn) wrote(n int) {
	if c.turn += n; c.turn >= turnBytes {
		c.turn = 0
		runtime.Gosched()
	}
}

// beforeWrite returns an error if nothing may be written.
func (c *Conn) beforeWrite() error {
	if c.wr.passed.Load() && c.state.Load()&isClosed == 0 {
		return os.ErrDeadlineExceeded
	}
	return c.lost()
}

// afterWrite returns an error if what was just published must not count. It does
// count if this end is closed meanwhile, as the stream ends after it: see end.go. It
// counts as well if the peer has closed, as with TCP: either the bytes were read, or
// Read is going to say that the connection was reset. Programs rely on that: net/http
// repeats a request that it wrote to a connection which the server was just closing,
// if reading fails, and not if writing did.
func (c *Conn) afterWrite() error {
	if c.state.Load()&corrupted != 0 {
		return errCorrupt
	}
	if c.peerEnd() != nil && !c.tx.Taken() {
		c.lose()
	}
	return nil
}

// lose has Read say that bytes that were written got lost.
func (c *Conn) lose() {
	c.state.Or(bytesLost)
	c.rd.wake()
}

// lost returns an error if what is published would never be read.
func (c *Conn) lost() error {
	switch state := c.state.Load(); {
	case state&isClosed != 0:
		return net.ErrClosed
	case state&corrupted != 0:
		return errCorrupt
	case state&writeClosed != 0:
		return syscall.EPIPE
	}
	return c.peerEnd()
}

// peerEnd returns an error if the peer doesn't read any more. A closing reader sets
// its mark before it looks for unread bytes. So if the mark is not to be seen after a
// publish, then the reader finds these bytes, or has read them.
func (c *Conn) peerEnd() error {
	state := c.state.Load()
	if c.tx.ConsumerClosed() {
		// The mark comes before the end. But a reader that closes with bytes
		// unread is going to reset. A fin says nothing: it may be an earlier one, of
		// CloseWrite, or come before what was just published.
		if _, reset := c.rx.Ended(); reset || !c.tx.Taken() || state&bytesLost != 0 && !c.tcp {
			return syscall.ECONNRESET
		}
		return syscall.EPIPE
	}
	if state&peerGone != 0 {
		return syscall.ECONNRESET
	}
	return nil
}

// unnoticed reports whether err says that the peer has closed, having read all, and
// a TCP socket would not know it yet: the first write succeeds there, and makes the
// peer's kernel answer with a reset. TLS says goodbye in such a write. The bytes are
// lost, which the caller must say with lose.
func (c *Conn) unnoticed(err error) bool {
	return err == syscall.EPIPE && c.tcp && c.state.Load()&(writeClosed|bytesLost) == 0
}

// awaitSpace waits until n bytes are free, or there is any other reason to look
// again. One is, if fewer will do, that any are free and the peer waits for more than
// it has. A caller for which fewer will not do must not go on for that: both would
// find each other waiting again and again.
func (c *Conn) awaitSpace(n int, fewer bool) {
	ready := func() bool {
		return c.tx.HasSpace(n) || c.wr.passed.Load() || c.tx.ConsumerClosed() ||
			c.state.Load()&^(readClosed|lingerZero) != 0 ||
			fewer && c.tx.ConsumerWaits() && c.tx.HasSpace(1)
	}
	if c.look(&c.wr, ready) {
		return
	}
	c.wr.prepare()
	c.tx.RequestSpace()
	if ready() {
		c.wr.cancel()
	} else {
		c.wr.wait()
	}
	c.tx.DropRequest()
}

// SetLinger with 0 makes Close reset the connection, so that the peer gets
// ECONNRESET after what was written. Other values have no effect: what was
// written is in the peer's reach already, and Close has nothing to wait for.
func (c *Conn) SetLinger(sec int) error {
	return c.control("set", func() {
		if sec == 0 {
			c.state.Or(lingerZero)
		} else {
			c.state.And(^uint32(lingerZero))
		}
	})
}

// SetReadBuffer does nothing: a fifo's size is chosen when the connection is
// made, see ListenConfig and Dialer.
func (c *Conn) SetReadBuffer(bytes int) error { return c.control("set", func() {}) }

// SetWriteBuffer does nothing, as SetReadBuffer.
func (c *Conn) SetWriteBuffer(bytes int) error { return c.control("set", func() {}) }

// SetDeadline sets the time after which Read and Write fail with
// os.ErrDeadlineExceeded, those that are blocked too. The zero time means never.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(func() {
		c.rd.set(t, &c.rd)
		c.wr.set(t, &c.wr)
	})
}

// SetReadDeadline is SetDeadline for Read alone.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(func() { c.rd.set(t, &c.rd) })
}

// SetWriteDeadline is SetDeadline for Write alone. A Write that fails may have
// written a part, and says how much.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(func() { c.wr.set(t, &c.wr) })
}

// setDeadline is control, with the error that package net has there.
func (c *Conn) setDeadline(f func()) error {
	if c.control("set", f) != nil {
		return opError("set", nil, c.local, net.ErrClosed)
	}
	return nil
}

// control calls f unless the connection is closed.
func (c *Conn) control(op string, f func()) error {
	if !c.gate.enter() {
		return c.opError(op, net.ErrClosed)
	}
	f()
	c.leave()
	return nil
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// A Cred says who is at the other end: what the kernel said when its process
// attached to this one. PID is 0 if the process is in a PID namespace that can't
// be seen from here.
type Cred struct {
	PID, UID, GID int
}

// PeerCred returns the credentials of the process at the other end.
func (c *Conn) PeerCred() Cred { return c.cred }

func (c *Conn) opError(op string, err error) error {
	return opError(op, c.local, c.remote, err)
}

// ownCred returns this process's credentials.
var ownCred = sync.OnceValue(func() Cred {
	return Cred{os.Getpid(), os.Getuid(), os.Getgid()}
})

// raceKey returns a key for the connection with this number of the dialing
// application: the same at both ends.
func raceKey(app, number uint64) uint64 { return app ^ number }
