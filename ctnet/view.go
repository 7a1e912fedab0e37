package ctnet

import (
	"bufio"
	"os"
	"syscall"

	"cutthrough.example/internal/ring"
)

// Buffered returns the number of bytes that can be read without waiting. It does not
// wait itself, whatever other goroutines do.
func (c *Conn) Buffered() int {
	if !c.gate.enter() {
		return 0
	}
	defer c.leave()
	return c.rx.Queued()
}

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
	if n < 0 {
		return nil, c.opError("read", bufio.ErrNegativeCount)
	}
	if err := c.lockRead(); err != nil {
		return nil, c.opError("read", err)
	}
	b, err := c.peek(n)
	if len(b) > 0 {
		c.unlocked(c.gate.unlockPeeked())
	} else {
		c.unlock(reading)
	}
	if err != nil {
		err = c.opError("read", err)
	}
	return b, err
}

func (c *Conn) peek(n int) ([]byte, error) {
	for {
		end, err := c.beforeRead()
		if err != nil {
			return nil, err
		}
		have, err := c.rx.Buffered(n)
		if err != nil {
			return nil, c.corrupt()
		}
		if have < n && end == nil && n <= c.rx.Size() {
			c.awaitData(have, nil)
			continue
		}
		switch {
		case have >= n:
			have, end = n, nil
		case end != nil:
			c.rx.Stop()
		default:
			end = bufio.ErrBufferFull
		}
		if have > 0 {
			ring.RaceAcquire(c.raceKey)
		}
		b := c.rx.View(have)
		if len(b) < have {
			b = make([]byte, have)
			c.rx.Copy(b)
		}
		return b, end
	}
}

// Discard skips the next n bytes, as bufio.Reader does: it waits for those that
// have not arrived, and returns an error if it skipped fewer.
func (c *Conn) Discard(n int) (int, error) {
	if n < 0 {
		return 0, c.opError("read", bufio.ErrNegativeCount)
	}
	if err := c.lockRead(); err != nil {
		return 0, c.opError("read", err)
	}
	done, err := c.discard(n)
	c.unlock(reading)
	if err != nil {
		err = c.opError("read", err)
	}
	return done, err
}

func (c *Conn) discard(n int) (done int, err error) {
	for done < n {
		end, err := c.beforeRead()
		if err != nil {
			return done, err
		}
		have, err := c.rx.Buffered(1)
		if err != nil {
			return done, c.corrupt()
		}
		if have == 0 {
			if end != nil {
				c.rx.Stop()
				return done, end
			}
			c.awaitData(0, nil)
			continue
		}
		have = min(have, n-done)
		c.release(have)
		done += have
	}
	return done, nil
}

// release gives n bytes back to the peer and tells it if it waits for them.
func (c *Conn) release(n int) {
	c.rx.Discard(n)
	if c.rx.SpaceWanted() {
		c.peer.notify()
	}
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
	if n < 0 {
		return nil, c.opError("write", bufio.ErrNegativeCount)
	}
	if err := c.gate.lock(writing, &c.wr.deadline); err != nil {
		return nil, c.opError("write", err)
	}
	b, err := c.reserve(max(n, 1))
	if err != nil {
		c.unlock(writing)
		return nil, c.opError("write", err)
	}
	c.lend(writing)
	c.reserved.Store(true)
	return b, nil
}

func (c *Conn) reserve(n int) ([]byte, error) {
	if n > c.tx.Size() {
		return nil, bufio.ErrBufferFull
	}
	for {
		if err := c.beforeWrite(); err != nil && !c.unnoticed(err) {
			return nil, err
		}
		free, err := c.tx.Space(n)
		if err != nil {
			return nil, c.corrupt()
		}
		if free < n {
			c.awaitSpace(n, false)
			continue
		}
		if b := c.tx.View(); len(b) >= n {
			return b, nil
		}
		c.scratch = make([]byte, n)
		return c.scratch, nil
	}
}

// Commit writes the first n bytes of what the last Reserve returned. It must be
// called once for each Reserve that succeeded; without one it fails with EINVAL.
func (c *Conn) Commit(n int) error {
	if !c.reserved.CompareAndSwap(true, false) {
		return c.opError("write", &problem{syscall.EINVAL, "Commit without Reserve"})
	}
	err := c.resumeWriting()
	if err == nil {
		err = c.commit(n)
	}
	c.scratch = nil
	c.unlock(writing)
	if err != nil {
		return c.opError("write", err)
	}
	return nil
}

func (c *Conn) commit(n int) error {
	room := c.scratch
	if room == nil {
		room = c.tx.View()
	}
	if n < 0 || n > len(room) {
		return os.ErrInvalid
	}
	if err := c.lost(); err != nil {
		if c.unnoticed(err) {
			if n > 0 {
				c.lose()
			}
			return nil
		}
		return err
	}
	ring.RaceRelease(c.raceKey)
	if c.scratch == nil {
		c.publish(n)
		return c.afterWrite()
	}
	// There is room, so this doesn't wait. It is all or nothing, as without the copy:
	// nothing more is looked at, and the end of the stream waits for it.
	for b := c.scratch[:n]; len(b) > 0; {
		m, err := c.tx.Write(b)
		if err != nil || m == 0 {
			return c.corrupt()
		}
		b = b[m:]
		if c.tx.DataWanted() {
			c.peer.notify()
		}
	}
	return c.afterWrite()
}

// publish writes the first n bytes of the producer's view and tells the peer if
// it waits for them.
func (c *Conn) publish(n int) {
	c.tx.Commit(n)
	if n > 0 && c.tx.DataWanted() {
		c.peer.notify()
	}
}
