package stream

import (
	"errors"
	"io"

	"cutthrough.example/internal/ring"
)

// copyPiece is the most that CopyFrom and CopyTo move in one call of the other
// side: large enough for a socket or file to be worth a system call, small enough
// for the peer to work at the same time.
const copyPiece = 4 * ring.PieceSize

// spareBytes is how much is read from a source at a time while there is no room.
const spareBytes = 4 << 10

var errInvalidCount = errors.New("reader or writer returned an invalid count")

// CopyFrom writes what it reads from r until io.EOF. r reads straight into the fifo. It
// fails only when there is something to be written. r's own error is returned apart.
//
// While r.Read waits, so do other writers of the connection.
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

// readFrom is CopyFrom, but stops before it asks r for bytes that could not be written
// at all as things are now: then it was refused.
func (e *End) readFrom(r io.Reader) (n int64, refused bool, theirs, err error) {
	if e.gate.lock(writing, &e.wr.Deadline) != nil {
		return 0, true, nil, nil
	}
	defer e.unlock(writing)
	var spare []byte
	for {
		if err := e.beforeWrite(); err != nil && !e.unnoticed(err) {
			return n, true, nil, nil
		}
		// Not less than a piece, unless the fifo is small: a reader should not
		// be asked for the few bytes that are left before the fifo's end.
		free, err := e.tx.Space(min(ring.PieceSize, e.tx.Ring()/4))
		if err != nil {
			return n, false, nil, e.corrupt()
		}
		room := e.tx.View()
		if free == 0 {
			// Not to wait for room that is not needed, if r has ended.
			if spare == nil {
				spare = make([]byte, spareBytes)
			}
			room = spare
		}
		e.lend(writing)
		m, theirs := r.Read(room[:min(len(room), copyPiece)])
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

// CopyTo reads until the end of the stream and writes it to w, straight from the fifo. w's
// own error is returned apart.
//
// While w.Write waits, so do other readers of the connection.
func (e *End) CopyTo(w io.Writer) (n int64, theirs, err error) {
	if err := e.lockRead(); err != nil {
		return 0, nil, err
	}
	defer e.unlock(reading)
	for {
		have, err := e.awaitReadable(1)
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, nil, err
		}
		// A look at what has come meanwhile: w is called less often.
		if have, err = e.rx.Buffered(max(have, ring.PieceSize)); err != nil {
			return n, nil, e.corrupt()
		}
		ring.RaceAcquire(e.raceKey)
		view := e.rx.View(min(have, copyPiece))
		e.rx.Lend(len(view)) // before lend: a Close that finds the lock lent finds this
		e.lend(reading)
		m, theirs := w.Write(view)
		e.gate.resume(reading)
		if m < 0 || m > len(view) {
			return n, errInvalidCount, nil
		}
		e.rx.Lend(m)
		if m < len(view) && e.state.Load()&isClosed != 0 {
			e.endUnread()
		}
		e.release(m)
		n += int64(m)
		if theirs != nil {
			return n, theirs, nil
		}
		if m < len(view) {
			return n, io.ErrShortWrite, nil
		}
	}
}
