package stream

import (
	"bufio"
	"os"
	"syscall"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/syserr"
)

// Buffered returns the number of bytes that can be read without waiting. It does not wait for
// goroutines that read.
func (e *End) Buffered() int {
	if !e.gate.enter() {
		return 0
	}
	defer e.Leave()
	return e.rx.Queued()
}

// Peek returns the next n bytes without reading them, as bufio.Reader does: a slice of the
// fifo's own memory, or a copy if the bytes wrap around the fifo's end. It waits until there
// are n bytes. If it returns fewer, it also returns an error, which is bufio.ErrBufferFull if
// n exceeds the size of the fifo.
//
// The bytes are valid until the next call of Peek, Discard, Read, RawRead or CopyTo. One of these must
// follow, also after [End.Close]: the view keeps the end's memory, to which the peer can
// write.
func (e *End) Peek(n int) ([]byte, error) {
	if n < 0 {
		return nil, bufio.ErrNegativeCount
	}
	if err := e.lockRead(); err != nil {
		return nil, err
	}
	b, err := e.peek(n)
	if len(b) > 0 {
		e.unlocked(e.gate.unlockPeeked())
	} else {
		e.unlock(reading)
	}
	return b, err
}

func (e *End) peek(n int) ([]byte, error) {
	have, err := e.awaitReadable(n)
	have = min(have, n)
	if have > 0 {
		ring.RaceAcquire(e.raceKey)
		if e.state.Load()&captured != 0 {
			e.captureSeen(have)
		}
	}
	return e.first(have), err
}

// first returns the first n bytes of the fifo: its own memory, or a copy if the bytes wrap around
// its end. There are n bytes, by what the consumer knows.
func (e *End) first(n int) []byte {
	b := e.rx.View(n)
	if len(b) < n {
		b = make([]byte, n)
		e.rx.Copy(b)
	}
	return b
}

// Discard skips the next n bytes, as bufio.Reader does: it waits for bytes that
// have not arrived, and returns an error if it skipped fewer.
func (e *End) Discard(n int) (int, error) {
	if n < 0 {
		return 0, bufio.ErrNegativeCount
	}
	if err := e.lockRead(); err != nil {
		return 0, err
	}
	done, err := e.discard(n)
	e.unlock(reading)
	return done, err
}

func (e *End) discard(n int) (done int, err error) {
	for done < n {
		have, err := e.awaitReadable(1)
		if err != nil {
			return done, err
		}
		have = min(have, n-done)
		e.release(have)
		done += have
	}
	return done, nil
}

// release releases n bytes, and notifies the peer if it waits for the space.
func (e *End) release(n int) {
	if e.state.Load()&captured != 0 {
		e.captureSeen(n)
	}
	e.releaseSeen(n)
}

// releaseSeen is release of bytes that were lent to code of others. A capture that has begun meanwhile begins
// after them.
func (e *End) releaseSeen(n int) {
	e.rx.Discard(n)
	if n > 0 {
		e.did(&e.rd)
	}
	if e.rx.SpaceWanted() {
		e.notify(&e.rd)
	}
}

// Reserve returns room to write at least n bytes, or at least one if n is 0: a slice of the
// fifo's own memory, or a buffer of n bytes if the free bytes wrap around the fifo's end. It
// waits until there is room. If n exceeds the size of the fifo, the error is
// bufio.ErrBufferFull.
//
// [End.Commit] must follow, also after [End.Close] or to write nothing. Until then other
// writers wait, and the reservation keeps the end's memory.
//
// A Reserve without enough room waits until the peer reads. If the peer waits in [End.Peek]
// for more bytes than it has, both wait until a deadline or Close.
func (e *End) Reserve(n int) ([]byte, error) {
	if n < 0 {
		return nil, bufio.ErrNegativeCount
	}
	if err := e.gate.lock(writing, &e.wr.Deadline); err != nil {
		return nil, err
	}
	b, err := e.reserve(max(n, 1))
	if err != nil {
		e.unlock(writing)
		return nil, err
	}
	e.lend(writing)
	e.reserved.Store(true)
	return b, nil
}

func (e *End) reserve(n int) ([]byte, error) {
	if n > e.tx.Size() {
		return nil, bufio.ErrBufferFull
	}
	for {
		if err := e.beforeWrite(); err != nil && !e.unnoticed(err) {
			return nil, err
		}
		free, err := e.tx.Space(n)
		if err != nil {
			return nil, e.corrupt()
		}
		if free < n {
			e.awaitSpace(n, false)
			continue
		}
		if b := e.tx.View(); len(b) >= n {
			return b, nil
		}
		e.scratch = make([]byte, n)
		return e.scratch, nil
	}
}

// Commit writes the first n bytes of the room that the last [End.Reserve] returned. It must be
// called once for each Reserve that succeeded; without one it fails with EINVAL.
func (e *End) Commit(n int) error {
	if !e.reserved.CompareAndSwap(true, false) {
		return syserr.New(syscall.EINVAL, "Commit without Reserve")
	}
	err := e.resumeWriting()
	if err == nil {
		err = e.commit(n)
	}
	e.scratch = nil
	e.unlock(writing)
	return err
}

func (e *End) commit(n int) error {
	room := e.scratch
	if room == nil {
		room = e.tx.View()
	}
	if n < 0 || n > len(room) {
		return os.ErrInvalid
	}
	if err := e.lost(); err != nil {
		if e.unnoticed(err) {
			if n > 0 {
				e.lose()
			}
			return nil
		}
		return err
	}
	ring.RaceRelease(e.raceKey)
	if e.scratch == nil {
		e.publish(n)
		return e.afterWrite()
	}
	// There is room, so this doesn't wait. It writes all bytes or none, as without the
	// copy: it checks for no end in between, and endings wait for this busy holder.
	for b := e.scratch[:n]; len(b) > 0; {
		m, err := e.writeCaptured(b)
		if err != nil || m == 0 {
			return e.corrupt()
		}
		b = b[m:]
		if e.tx.DataWanted() {
			e.notify(&e.wr)
		}
	}
	if n > 0 {
		e.did(&e.wr)
	}
	return e.afterWrite()
}

// publish publishes the first n bytes of the producer's view, and notifies the peer if it
// waits for data.
func (e *End) publish(n int) {
	if e.state.Load()&captured != 0 {
		e.commitCaptured(n)
	} else {
		e.tx.Commit(n)
	}
	if n == 0 {
		return
	}
	e.did(&e.wr)
	if e.tx.DataWanted() {
		e.notify(&e.wr)
	}
}
