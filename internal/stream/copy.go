package stream

import (
	"errors"
	"io"

	"cutthrough.example/internal/ring"
)

// copyPiece is the most bytes that CopyFrom and CopyTo pass in one call of the reader or
// writer: enough to be worth a system call, and few enough that the peer works meanwhile.
const copyPiece = 4 * ring.PieceSize

// spareBytes is how many bytes are read from a source at a time while there is no room.
const spareBytes = 4 << 10

var errInvalidCount = errors.New("reader or writer returned an invalid count")

// CopyFrom reads from r until io.EOF and writes the bytes. r.Read reads straight into the
// fifo. err is only an error of writing, and CopyFrom fails only when there is something to
// write; theirs is the error of r.
//
// While r.Read waits, other writers of the connection wait too.
func (e *End) CopyFrom(r io.Reader) (n int64, theirs, err error) {
	for {
		m, refused, theirs, err := e.readFrom(r)
		n += m
		if !refused {
			return n, theirs, err
		}
		b := make([]byte, spareBytes)
		k, theirs := r.Read(b)
		if k > 0 {
			m, err := e.Write(b[:k])
			n += int64(m)
			if err != nil {
				return n, nil, err
			}
		}
		if theirs == io.EOF {
			return n, nil, nil
		}
		if theirs != nil {
			return n, theirs, nil
		}
	}
}

// readFrom is CopyFrom, but it stops, with refused true, before it reads bytes from r that
// could not be written now.
func (e *End) readFrom(r io.Reader) (n int64, refused bool, theirs, err error) {
	if e.gate.lock(writing, &e.wr.Deadline) != nil {
		return 0, true, nil, nil
	}
	defer e.unlock(writing)
	defer e.wr.resume() // if r.Read panics
	var spare []byte
	for {
		if err := e.beforeWrite(); err != nil && !e.unnoticed(err) {
			return n, true, nil, nil
		}
		// At least a piece, unless the fifo is small: a restart makes the room
		// contiguous, and r is not called for a few bytes before the ring's end.
		free, err := e.tx.Space(min(ring.PieceSize, e.tx.Ring()/4))
		if err != nil {
			return n, false, nil, e.corrupt()
		}
		room := e.tx.View()
		if free == 0 {
			// Without waiting for room, which is not needed if r has ended.
			if spare == nil {
				spare = make([]byte, spareBytes)
			}
			room = spare
		}
		e.lend(writing)
		e.wr.rest()
		m, theirs := r.Read(room[:min(len(room), copyPiece)])
		e.wr.resume()
		ended := e.resumeWriting()
		if m < 0 || m > len(room) {
			return n, false, errInvalidCount, nil
		}
		if m > 0 {
			if err := e.beforeWrite(); err != nil {
				ended = err
			}
			switch {
			case e.unnoticed(ended):
				e.lose()
				n += int64(m)
			case ended != nil:
				return n, false, nil, ended
			case free == 0:
				k, err := e.write(spare[:m])
				n += int64(k)
				if err != nil {
					return n, false, nil, err
				}
			default:
				ring.RaceRelease(e.raceKey)
				e.publish(m)
				e.maybeYield(m)
				n += int64(m)
			}
			if lost := e.afterWrite(); lost != nil {
				return n, false, nil, lost
			}
		}
		if theirs == io.EOF {
			return n, false, nil, nil
		}
		if theirs != nil {
			return n, false, theirs, nil
		}
	}
}

// CopyTo reads until the end of the stream and writes the bytes to w, straight from the fifo.
// err is an error of reading; theirs is the error of w.
//
// While w.Write waits, other readers of the connection wait too.
func (e *End) CopyTo(w io.Writer) (n int64, theirs, err error) {
	if err := e.lockRead(); err != nil {
		return 0, nil, err
	}
	defer e.unlock(reading)
	defer e.rd.resume() // if w.Write panics
	for {
		have, err := e.awaitReadable(1)
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, nil, err
		}
		// Bytes may have come meanwhile. With more bytes w is called less often.
		if have, err = e.rx.Buffered(max(have, ring.PieceSize)); err != nil {
			return n, nil, e.corrupt()
		}
		ring.RaceAcquire(e.raceKey)
		view := e.rx.View(min(have, copyPiece))
		if e.state.Load()&captured != 0 {
			e.captureSeen(len(view))
		}
		e.rx.Lend(len(view)) // before lend: a Close that finds the lock lent sees these bytes as read
		e.lend(reading)
		e.rd.rest()
		m, theirs := w.Write(view)
		e.rd.resume()
		e.gate.resume(reading)
		if m < 0 || m > len(view) {
			return n, errInvalidCount, nil
		}
		e.rx.Lend(m)
		if m < len(view) && e.state.Load()&isClosed != 0 {
			e.endUnread()
		}
		e.releaseSeen(m)
		n += int64(m)
		if theirs != nil {
			return n, theirs, nil
		}
		if m < len(view) {
			return n, io.ErrShortWrite, nil
		}
	}
}
