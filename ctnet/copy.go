package ctnet

import (
	"errors"
	"io"

	"cutthrough.example/internal/ring"
)

// copyPiece is the most that ReadFrom and WriteTo move in one call of the other
// side: large enough for a socket or file to be worth a system call, small enough
// for the peer to work at the same time.
const copyPiece = 4 * ring.PieceSize

var errInvalidCount = errors.New("reader or writer returned an invalid count")

// ReadFrom writes what it reads from r until io.EOF. r reads straight into the
// fifo, which is what io.Copy to a Conn does.
//
// While r.Read waits, so do other writers of the connection.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	if err := c.gate.lock(writing, &c.wr.deadline); err != nil {
		return 0, c.opError("write", err)
	}
	defer c.unlock(writing)
	for {
		err := c.beforeWrite()
		unnoticed := c.unnoticed(err)
		if err != nil && !unnoticed {
			if c.tx.ConsumerClosed() && c.atEOF(r) {
				return n, nil // there was nothing more to be written
			}
			return n, c.opError("write", err)
		}
		// Not less than a piece, unless the fifo is small: a reader should not
		// be asked for the few bytes that are left before the fifo's end.
		least := min(ring.PieceSize, c.tx.Size()/4)
		free, err := c.tx.Space(least)
		if err != nil {
			return n, c.opError("write", c.corrupt())
		}
		if free == 0 {
			c.awaitSpace(least, true)
			continue
		}
		view := c.tx.View()
		c.lend(writing)
		m, err := r.Read(view[:min(len(view), copyPiece)])
		ended := c.resumeWriting()
		if m < 0 || m > len(view) {
			return n, errInvalidCount
		}
		if m > 0 && ended != nil {
			return n, c.opError("write", ended)
		}
		if m > 0 && unnoticed {
			c.lose()
			n += int64(m)
		} else if m > 0 {
			ring.RaceRelease(c.raceKey)
			c.publish(m)
			c.wrote(m)
			n += int64(m)
			if lost := c.afterWrite(); lost != nil {
				return n, c.opError("write", lost)
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// atEOF reports whether nothing more is to be read from r, which it finds out by
// reading. A peer that has read all it expects may close before the end is known.
func (c *Conn) atEOF(r io.Reader) bool {
	c.lend(writing)
	defer c.gate.resume(writing)
	var b [1]byte
	for {
		n, err := r.Read(b[:])
		if n > 0 || err != nil {
			return n == 0 && err == io.EOF
		}
	}
}

// WriteTo reads until the end of the stream and writes it to w, straight from
// the fifo, which is what io.Copy from a Conn does.
//
// While w.Write waits, so do other readers of the connection.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	if err := c.lockRead(); err != nil {
		return 0, c.opError("read", err)
	}
	defer c.unlock(reading)
	for {
		end, err := c.beforeRead()
		if err != nil {
			return n, c.opError("read", err)
		}
		have, err := c.rx.Buffered(ring.PieceSize)
		if err != nil {
			return n, c.opError("read", c.corrupt())
		}
		if have == 0 {
			if end != nil {
				c.rx.Stop()
			}
			if end == io.EOF {
				return n, nil
			}
			if end != nil {
				return n, c.opError("read", end)
			}
			c.awaitData(0, nil)
			continue
		}
		ring.RaceAcquire(c.raceKey)
		view := c.rx.View(min(have, copyPiece))
		c.rx.Lend(len(view)) // before the lock: whoever finds that lent finds this
		c.lend(reading)
		m, err := w.Write(view)
		c.gate.resume(reading)
		if m < 0 || m > len(view) {
			return n, errInvalidCount
		}
		c.rx.Lend(m)
		c.release(m)
		n += int64(m)
		if err != nil {
			return n, err
		}
		if m < len(view) {
			return n, io.ErrShortWrite
		}
	}
}
