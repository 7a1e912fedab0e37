package stream

import (
	"net"
	"os"
	"syscall"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/standin"
)

// Raw calls: a function of the program's gets a descriptor, and reads from it or looks at it. The
// descriptor is a [standin.Socket], which the first raw call makes. letGo closes it.
//
// The lock for reading guards what is in the Socket. RawRead holds it while the program's function
// runs, and so the fifo's bytes that it has put into the Socket are read by nobody else. It
// releases those that the function has read, and takes the others back out of the Socket: they
// are still in the fifo. An end is shown only when the fifo is empty, because nothing can be
// put into a Socket after its end.

// standIn returns the Socket, and makes it if there is none. The caller is inside the gate.
func (e *End) standIn() (*standin.Socket, error) {
	r := e.makeRare()
	if s := r.socket.Load(); s != nil {
		return s, nil
	}
	s, err := standin.New()
	if err != nil {
		return nil, err
	}
	// Another raw call, with another lock, may have made one meanwhile.
	if !r.socket.CompareAndSwap(nil, s) {
		s.Close()
	}
	return r.socket.Load(), nil
}

// closeStandIn closes the Socket, if there is one. No goroutine is inside the gate any more.
func (e *End) closeStandIn() {
	if r := e.rare.Load(); r != nil && r.socket.Load() != nil {
		r.socket.Load().Close()
	}
}

// RawControl calls f with the descriptor. If all bytes were read and the stream has ended, the
// descriptor is at its end too. It has bytes only while a RawRead runs. RawControl does not wait for goroutines that
// read: while one does, it does not look for the end.
func (e *End) RawControl(f func(fd uintptr)) error {
	if !e.gate.enter() {
		return net.ErrClosed
	}
	defer e.Leave()
	s, err := e.standIn()
	if err != nil {
		return err
	}
	if e.gate.tryLock(reading) {
		e.showEnd(s)
		e.unlock(reading)
	}
	f(s.FD())
	return nil
}

// showEnd ends the Socket if there is nothing more to read. It is the end that the user sees, so
// it stops the consumer, as any other call that returns the end does.
func (e *End) showEnd(s *standin.Socket) {
	state := e.state.Load() // before the fifo, see readEnd
	if state&(corrupted|severed) != 0 {
		s.End(true)
		return
	}
	end := e.streamEnd(state)
	if end == nil {
		return
	}
	switch have, err := e.rx.Buffered(1); {
	case err != nil:
		e.corrupt()
		s.End(true)
	case have == 0:
		e.stopReading()
		s.End(isReset(end))
	}
}

// isReset reports whether reading ends with ECONNRESET, and not with io.EOF.
func isReset(end error) bool { return end == syscall.ECONNRESET }

// RawRead calls f with the descriptor, from which f reads the stream's bytes: up to [standin.Most]
// of them, and after the last the end of the stream. What f doesn't read stays in the
// stream. If f returns false, RawRead waits until there are more bytes than f has left, or
// the stream has ended, and calls f again. It fails if the deadline passes or the end is closed.
//
// While f runs, other readers of the connection wait, and Close tells the peer nothing.
func (e *End) RawRead(f func(fd uintptr) (done bool)) error {
	if err := e.lockRead(); err != nil {
		return err
	}
	defer e.unlock(reading)
	s, err := e.standIn()
	if err != nil {
		return err
	}
	for want := 1; ; {
		end := e.readEnd()
		if end.once {
			return end.err
		}
		have, err := e.rx.Buffered(max(want, standin.Most))
		if err != nil {
			return e.corrupt()
		}
		if have == 0 && end.err != nil {
			e.stopReading()
			s.End(isReset(end.err))
		}
		shown := s.Ended()
		put, taken, done, err := e.show(s, have, f)
		left := have - taken
		switch {
		case err != nil:
			return err
		case done:
			return nil
		case taken > 0 && taken == put && left > 0: // there is more to put
			want = 1
		case left == 0 && end.err != nil && !shown:
			want = 1
		default:
			e.awaitMore(left, end.err != nil)
			want = left + 1 // to load the producer's tail again
		}
	}
}

// show puts the first bytes of have into the Socket while f runs, and releases those that f has
// taken. It does so too if f panics. If it returns an error it has not called f.
func (e *End) show(s *standin.Socket, have int, f func(uintptr) bool) (put, taken int, done bool, err error) {
	if have = min(have, standin.Most); have > 0 {
		ring.RaceAcquire(e.raceKey)
		if put, err = s.Put(e.first(have)); err != nil {
			return
		}
		if e.state.Load()&captured != 0 {
			e.captureSeen(put)
		}
	}
	defer func() {
		if put > 0 {
			taken = put - s.TakeBack()
			e.release(taken)
		}
	}()
	done = f(s.FD())
	return
}

// awaitMore waits until there are more than have bytes, or the stream ends, if it has not ended
// yet. It also returns if the deadline passes or this end is closed.
func (e *End) awaitMore(have int, ended bool) {
	ready := func() bool {
		state := e.state.Load()
		return e.rd.Passed() || state&(isClosed|corrupted) != 0 || !ended && e.streamEnd(state) != nil ||
			!e.rx.Stopped() && e.rx.HasData(have)
	}
	for !ready() {
		e.sleepForData(have, ready)
	}
}

// RawWrite calls f with the descriptor, to which nothing can be written. If f returns false,
// RawWrite waits until there is room in the fifo, if there was none, or until the stream is
// not read any more, and calls f again. It fails if the deadline passes or the end is closed.
//
// While f runs, other writers of the connection wait.
func (e *End) RawWrite(f func(fd uintptr) (done bool)) error {
	if err := e.gate.lock(writing, &e.wr.Deadline); err != nil {
		return err
	}
	defer e.unlock(writing)
	s, err := e.standIn()
	if err != nil {
		return err
	}
	for {
		if e.wr.Passed() && !e.Closed() {
			return os.ErrDeadlineExceeded
		}
		free, err := e.tx.Space(1)
		if err != nil {
			return e.corrupt()
		}
		over := e.unread() // before f, so that no later change is missed
		e.lend(writing)    // nothing is published
		if f(s.FD()) {
			return nil
		}
		e.awaitRoom(free > 0, over)
		if e.gate.resume(writing) {
			return net.ErrClosed
		}
		switch state := e.state.Load(); {
		case state&corrupted != 0:
			return errCorrupt
		case state&severed != 0:
			return syscall.ECONNRESET
		}
	}
}

// unread reports whether nobody would read what is written.
func (e *End) unread() bool {
	return e.tx.ConsumerClosed() || e.state.Load()&(writeClosed|peerGone|bytesLost) != 0
}

// awaitRoom waits until there is room in the fifo, if there was none, or until the stream is
// not read any more, if it was. It also returns if the deadline passes or this end is closed.
func (e *End) awaitRoom(room, over bool) {
	ready := func() bool {
		return e.wr.Passed() || e.state.Load()&(isClosed|corrupted|severed) != 0 || !over && e.unread() ||
			!room && (e.tx.HasSpace(1) || e.tx.Starves())
	}
	for !ready() {
		e.sleepForSpace(ready)
	}
}
