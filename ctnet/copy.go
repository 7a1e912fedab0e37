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

// spareBytes is how much is read from a source at a time while there is no room.
const spareBytes = 4 << 10

var errInvalidCount = errors.New("reader or writer returned an invalid count")

// ReadFrom writes what it reads from r until io.EOF. r reads straight into the
// fifo, which is what io.Copy to a Conn does. As with io.Copy to a socket it fails only
// when there is something to be written, and r's own error is returned as it is.
//
// While r.Read waits, so do other writers of the connection.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	for {
		m, refused, err := c.readFrom(r)
		n += m
		if !refused {
			return n, err
		}
		b := make([]byte, spareBytes)
		k, err := r.Read(b)
		if k > 0 {
			m, err := c.Write(b[:k])
			n += int64(m)
			if err != nil {
				return n, err
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

// readFrom is ReadFrom, but stops before it asks r for bytes that could not be written
// at all as things are now: then it was refused.
func (c *Conn) readFrom(r io.Reader) (n int64, refused bool, err error) {
	if c.gate.lock(writing, &c.wr.Deadline) != nil {
		return 0, true, nil
	}
	defer c.unlock(writing)
	var spare []byte
	for {
		if err := c.beforeWrite(); err != nil && !c.unnoticed(err) {
			return n, true, nil
		}
		// Not less than a piece, unless the fifo is small: a reader should not
		// be asked for the few bytes that are left before the fifo's end.
		free, err := c.tx.Space(min(ring.PieceSize, c.tx.Size()/4))
		if err != nil {
			return n, false, c.opError("write", c.corrupt())
		}
		room := c.tx.View()
		if free == 0 {
			// Not to wait for room that is not needed, if r has ended.
			if spare == nil {
				spare = make([]byte, spareBytes)
			}
			room = spare
		}
		c.lend(writing)
		m, err := r.Read(room[:min(len(room), copyPiece)])
		ended := c.resumeWriting()
		if m < 0 || m > len(room) {
			return n, false, errInvalidCount
		}
		if m > 0 {
			if err := c.beforeWrite(); err != nil {
				ended = err
			}
			switch {
			case c.unnoticed(ended):
				c.lose()
				n += int64(m)
			case ended != nil:
				return n, false, c.opError("write", ended)
			case free == 0:
				k, err := c.write(spare[:m])
				n += int64(k)
				if err != nil {
					return n, false, c.opError("write", err)
				}
			default:
				ring.RaceRelease(c.raceKey)
				c.publish(m)
				c.wrote(m)
				n += int64(m)
			}
			if lost := c.afterWrite(); lost != nil {
				return n, false, c.opError("write", lost)
			}
		}
		if err == io.EOF {
			return n, false, nil
		}
		if err != nil {
			return n, false, err
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
		if m < len(view) && c.state.Load()&isClosed != 0 {
			c.endUnread()
		}
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
