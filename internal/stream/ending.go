package stream

import (
	"net"
	"syscall"
)

// The end of the stream. Nothing may be published after fin or reset: the peer would read
// bytes after io.EOF. So CloseWrite first sets writeClosed, and Close the gate's closed bit;
// then they end the stream if no writer is busy. A writer that locks the gate or resumes later
// finds the bit. A busy writer may be about to publish. It ends the stream itself when it
// unlocks or lends, and the bytes that it has published count.
//
// Close decides between fin and reset by whether bytes are unread. If a reader is busy, it may
// be about to read them, so Close leaves the decision to that reader. Bytes that CopyTo has
// lent to its writer count as read.
//
// Close and CloseWrite wake each busy holder that waits. So the peer always learns of the end
// soon, and neither call waits. Model: end.pml.

// unlock does the endings that are due, leaves the gate, and lets go of the memory if this
// was the last use.
func (e *End) unlock(kind int) { e.unlocked(e.gate.unlock(kind)) }

// unlocked does the rest of unlock, with the results of gate.unlock.
func (e *End) unlocked(due uint64, last bool) {
	if due != 0 {
		e.end(due)
		last = e.gate.leave()
	}
	if last {
		e.letGo()
	}
}

// letGo lets go of the memory. Nobody uses it any more.
func (e *End) letGo() {
	e.closeStandIn()
	e.captureOver()
	e.janitor.forget(e)
	e.totals.finish(e)
	e.peer.LetGo()
}

// Leave undoes [End.Enter]. It lets go of the memory if this was the last use.
func (e *End) Leave() {
	if e.gate.leave() {
		e.letGo()
	}
}

// lend says that the lock's holder is about to call code of others, which may take any time:
// until resume, endings do not wait for this holder.
func (e *End) lend(kind int) {
	if due := e.gate.lend(kind); due != 0 {
		e.end(due)
	}
}

// resumeWriting undoes lend. It returns an error if the stream may have been ended meanwhile:
// then the caller must not publish.
func (e *End) resumeWriting() error {
	closed := e.gate.resume(writing)
	switch state := e.state.Load(); {
	case closed:
		return net.ErrClosed
	case state&corrupted != 0:
		return errCorrupt
	case state&severed != 0:
		return syscall.ECONNRESET
	case state&writeClosed != 0:
		return syscall.EPIPE
	}
	return nil
}

// end does the endings that are due, see gate.unlock.
func (e *End) end(due uint64) {
	if due&gateFin != 0 {
		e.tellEnd()
	}
	if due&gateShut != 0 {
		e.shutdown()
	}
}

// endStream ends the stream to the peer, or leaves that to a busy writer.
func (e *End) endStream() {
	if !e.gate.postpone(writing, gateFin) {
		e.tellEnd()
	}
}

// tellEnd tells the peer that the stream has ended. No goroutine publishes any more.
func (e *End) tellEnd() {
	if e.state.Load()&(corrupted|severed) != 0 {
		e.sendReset()
	} else {
		e.sendFin()
	}
}

// sendFin ends the stream in order, and notifies the peer if it waits.
func (e *End) sendFin() {
	e.publishFin()
	e.noteLast(EventFinSent)
	e.notifyEnd()
}

// sendReset cuts the stream off, and notifies the peer if it waits.
func (e *End) sendReset() {
	e.publishReset()
	e.noteLast(EventResetSent)
	e.notifyEnd()
}

// notifyEnd notifies the peer of an end, if it waits.
func (e *End) notifyEnd() {
	if e.tx.ConsumerWaits() || e.rx.ProducerWaits() {
		e.peer.Notify()
	}
}

// Close closes the end: the peer can still read the bytes that were written, followed by
// io.EOF. But if this end has not read all bytes of the peer, the connection is reset, and the
// peer gets ECONNRESET in place of io.EOF. Calls that are blocked return net.ErrClosed. Close
// never waits.
func (e *End) Close() error {
	if !e.gate.close() {
		return net.ErrClosed
	}
	e.state.Or(isClosed)
	e.noteLast(EventClosed)
	e.shutdown()
	e.wakeAll()
	e.rd.Stop()
	e.wr.Stop()
	e.Leave()
	return nil
}

// Abort closes the end with a reset.
func (e *End) Abort() {
	e.state.Or(lingerZero)
	e.Close()
}

// Sever resets the connection from outside: calls at this end return ECONNRESET at once, and the peer
// gets it after the bytes that were written. The user still has to close the end. It returns false
// if the end is closed.
func (e *End) Sever() bool {
	if !e.gate.enter() {
		return false
	}
	e.state.Or(severed)
	e.note(EventSevered)
	e.rx.Close()
	e.endStream()
	e.wakeAll()
	e.Leave()
	return true
}

// Refuse closes an end without telling the peer: the slot's state word tells it that there is
// no connection. Refuse calls first before [Peer].LetGo, unless the end was closed before.
func (e *End) Refuse(first func()) {
	if !e.gate.close() {
		return
	}
	first()
	e.state.Or(isClosed)
	e.Leave()
}

// shutdown tells the peer that this end is closed, or leaves that to a busy holder of a lock.
// It stores the closed mark first and looks for unread bytes afterwards. Of a peer that
// publishes at the same time, either it sees the mark or this end sees its bytes, see peerEnd;
// either way it learns that they were not read.
func (e *End) shutdown() {
	if e.gate.postpone(writing, gateShut) {
		return
	}
	e.rx.Close()
	reset := e.state.Load()&(lingerZero|corrupted|severed) != 0
	if !reset && e.rx.Unread() {
		if e.gate.postpone(reading, gateShut) {
			return
		}
		reset = e.rx.Unread() // a reader that was busy before may have read them
	}
	if reset {
		e.sendReset()
	} else {
		e.sendFin()
	}
}

// endUnread resets a stream that has ended with fin. Close has sent fin because all unread
// bytes were lent to CopyTo's writer, but the writer has not accepted all of them.
func (e *End) endUnread() {
	e.state.Or(lingerZero)
	if !e.gate.postpone(writing, gateShut) {
		e.sendReset()
	}
}

// wakeAll wakes all goroutines that wait at this end.
func (e *End) wakeAll() {
	e.rd.Expired()
	e.wr.Expired()
}

// CloseRead ends reading at this end: Read returns the bytes that have arrived and then
// io.EOF, also a Read that is blocked now. As with TCP the peer does not notice until the fifo
// is full. Once Read has returned io.EOF it returns no more bytes, unlike with TCP on Linux.
func (e *End) CloseRead() error {
	return e.control(func() {
		e.state.Or(readClosed)
		e.note(EventReadClosed)
		e.rd.Wake()
	})
}

// CloseWrite ends writing at this end: the peer reads the bytes that were written and then
// io.EOF. A Write that is blocked and every later Write return EPIPE.
func (e *End) CloseWrite() error {
	return e.control(func() {
		e.state.Or(writeClosed)
		e.note(EventWriteClosed)
		e.endStream()
		e.wr.Wake()
	})
}
