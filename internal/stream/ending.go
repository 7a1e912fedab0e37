package stream

import (
	"net"
	"syscall"
)

// The end of the stream. Nothing may be published after the peer was told that the
// stream has ended: it would read bytes after io.EOF. So CloseWrite and Close first
// say in a word of this end that nothing more is to be published, writeClosed or the
// gate's closed bit, and then end the stream if no writer is busy. A writer that locks
// the gate or resumes later finds the word. A busy one may be about to publish; it ends
// the stream itself when it unlocks or lends, and what it published counts.
//
// Close decides between FIN and reset by whether bytes are unread. A busy reader may be
// about to take them, so then the decision is left to that one. Bytes that WriteTo has
// handed to its writer count as read.
//
// No busy holder waits without being woken by Close and CloseWrite, so the end is never
// told late, and neither call waits. Model: end.pml.

// unlock leaves the gate, having done what is due, and lets go of the memory if that
// was the last use.
func (e *End) unlock(kind int) { e.unlocked(e.gate.unlock(kind)) }

// unlocked goes on when the gate has been unlocked.
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
	e.janitor.forget(e)
	e.peer.Release()
}

// Leave undoes Enter: it leaves the gate without a lock, as unlock does with one.
func (e *End) Leave() {
	if e.gate.leave() {
		e.letGo()
	}
}

// lend says, before code that is not ours is called with a lock held, that no ending
// should have to wait for that.
func (e *End) lend(kind int) {
	if due := e.gate.lend(kind); due != 0 {
		e.end(due)
	}
}

// resumeWriting ends what lend began. It returns an error if the stream may have been
// ended meanwhile: then the caller must not publish.
func (e *End) resumeWriting() error {
	closed := e.gate.resume(writing)
	switch state := e.state.Load(); {
	case closed:
		return net.ErrClosed
	case state&corrupted != 0:
		return errCorrupt
	case state&writeClosed != 0:
		return syscall.EPIPE
	}
	return nil
}

// end does what the gate says is due.
func (e *End) end(due uint64) {
	if due&gateFin != 0 {
		e.tellEnd()
	}
	if due&gateShut != 0 {
		e.shutdown()
	}
}

// endStream ends the stream to the peer, or leaves that to a writer.
func (e *End) endStream() {
	if !e.gate.postpone(writing, gateFin) {
		e.tellEnd()
	}
}

// tellEnd tells the peer that the stream has ended. Nobody publishes any more.
func (e *End) tellEnd() {
	if e.state.Load()&corrupted != 0 {
		e.tx.Reset()
	} else {
		e.tx.Fin()
	}
	e.notifyEnd()
}

// notifyEnd notifies the peer of an end, if it waits.
func (e *End) notifyEnd() {
	if e.tx.ConsumerWaits() || e.rx.ProducerWaits() {
		e.peer.NotifyApart()
	}
}

// Close closes the end: what was written can still be read by the peer, followed by io.EOF;
// but if bytes that the peer has written are unread, the connection is reset, and the peer
// gets ECONNRESET in place of io.EOF. Calls that are blocked return net.ErrClosed. Close
// never waits.
func (e *End) Close() error {
	if !e.gate.close() {
		return net.ErrClosed
	}
	e.state.Or(isClosed)
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

// Withdraw closes an end whose peer is told by other means that there is no connection. It
// calls first before Release can be called, unless the end was closed before.
func (e *End) Withdraw(first func()) {
	if !e.gate.close() {
		return
	}
	first()
	e.state.Or(isClosed)
	e.Leave()
}

// shutdown tells the peer that this end is closed, or leaves that to a holder of a
// lock. The order matters: first the mark that no more will be read, then the look for
// what is unread. A peer that writes in between sees the mark, or its bytes are seen
// here; either way it learns that they were not read.
func (e *End) shutdown() {
	if e.gate.postpone(writing, gateShut) {
		return
	}
	e.rx.Close()
	reset := e.state.Load()&(lingerZero|corrupted) != 0
	if !reset && e.rx.Unread() {
		if e.gate.postpone(reading, gateShut) {
			return
		}
		reset = e.rx.Unread() // a reader that was busy may have read them
	}
	if reset {
		e.tx.Reset()
	} else {
		e.tx.Fin()
	}
	e.notifyEnd()
}

// endUnread makes a reset of an end that was told as an orderly one, because all that had
// come was lent to WriteTo's writer, which has not taken all of it.
func (e *End) endUnread() {
	e.state.Or(lingerZero)
	if !e.gate.postpone(writing, gateShut) {
		e.tx.Reset()
		e.notifyEnd()
	}
}

// wakeAll wakes all goroutines that wait at this end.
func (e *End) wakeAll() {
	e.rd.Expired()
	e.wr.Expired()
}

// CloseRead ends reading at this end: Read returns what has arrived and then
// io.EOF, also if it is blocked now. As with TCP the peer does not notice, until
// the fifo is full. What arrives after Read has returned io.EOF is not read, unlike
// with TCP on Linux.
func (e *End) CloseRead() error {
	return e.control(func() {
		e.state.Or(readClosed)
		e.rd.Wake()
	})
}

// CloseWrite ends writing at this end: the peer reads what was written and then
// io.EOF. A Write that is blocked returns EPIPE, as every later one does.
func (e *End) CloseWrite() error {
	return e.control(func() {
		e.state.Or(writeClosed)
		e.endStream()
		e.wr.Wake()
	})
}
