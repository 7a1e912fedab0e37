package ctnet

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
func (c *Conn) unlock(kind int) { c.unlocked(c.gate.unlock(kind)) }

// unlocked goes on when the gate has been unlocked.
func (c *Conn) unlocked(due uint64, last bool) {
	if due != 0 {
		c.end(due)
		last = c.gate.leave()
	}
	if last {
		c.peer.release()
	}
}

// leave leaves the gate without a lock, as unlock does with one.
func (c *Conn) leave() {
	if c.gate.leave() {
		c.peer.release()
	}
}

// lend says, before code that is not ours is called with a lock held, that no ending
// should have to wait for that.
func (c *Conn) lend(kind int) {
	if due := c.gate.lend(kind); due != 0 {
		c.end(due)
	}
}

// resumeWriting ends what lend began. It returns an error if the stream may have been
// ended meanwhile: then the caller must not publish.
func (c *Conn) resumeWriting() error {
	closed := c.gate.resume(writing)
	switch state := c.state.Load(); {
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
func (c *Conn) end(due uint64) {
	if due&gateFin != 0 {
		c.tellEnd()
	}
	if due&gateShut != 0 {
		c.shutdown()
	}
}

// endStream ends the stream to the peer, or leaves that to a writer.
func (c *Conn) endStream() {
	if !c.gate.postpone(writing, gateFin) {
		c.tellEnd()
	}
}

// tellEnd tells the peer that the stream has ended. Nobody publishes any more.
func (c *Conn) tellEnd() {
	if c.state.Load()&corrupted != 0 {
		c.tx.Reset()
	} else {
		c.tx.Fin()
	}
	c.notifyEnd()
}

// notifyEnd notifies the peer of an end, if it waits.
func (c *Conn) notifyEnd() {
	if c.tx.ConsumerWaits() || c.rx.ProducerWaits() {
		c.peer.notifyApart()
	}
}

// Close closes the connection, as TCP does: what was written can still be read
// by the peer, followed by io.EOF; but if bytes that the peer has written are
// unread, the connection is reset, and the peer gets ECONNRESET in place of
// io.EOF. Calls that are blocked return net.ErrClosed. Close never waits.
func (c *Conn) Close() error {
	if !c.gate.close() {
		return c.opError("close", net.ErrClosed)
	}
	c.state.Or(isClosed)
	c.shutdown()
	c.wakeAll()
	c.rd.Stop()
	c.wr.Stop()
	c.leave()
	return nil
}

// abort closes the connection with a reset.
func (c *Conn) abort() {
	c.state.Or(lingerZero)
	c.Close()
}

// shutdown tells the peer that this end is closed, or leaves that to a holder of a
// lock. The order matters: first the mark that no more will be read, then the look for
// what is unread. A peer that writes in between sees the mark, or its bytes are seen
// here; either way it learns that they were not read.
func (c *Conn) shutdown() {
	if c.gate.postpone(writing, gateShut) {
		return
	}
	c.rx.Close()
	reset := c.state.Load()&(lingerZero|corrupted) != 0
	if !reset && c.rx.Unread() {
		if c.gate.postpone(reading, gateShut) {
			return
		}
		reset = c.rx.Unread() // a reader that was busy may have read them
	}
	if reset {
		c.tx.Reset()
	} else {
		c.tx.Fin()
	}
	c.notifyEnd()
}

// endUnread makes a reset of an end that was told as an orderly one, because all that had
// come was lent to WriteTo's writer, which has not taken all of it.
func (c *Conn) endUnread() {
	c.state.Or(lingerZero)
	if !c.gate.postpone(writing, gateShut) {
		c.tx.Reset()
		c.notifyEnd()
	}
}

// wakeAll wakes whoever waits at this end.
func (c *Conn) wakeAll() {
	c.rd.Expired()
	c.wr.Expired()
}

// CloseRead ends reading at this end: Read returns what has arrived and then
// io.EOF, also if it is blocked now. As with TCP the peer does not notice, until
// the fifo is full. What arrives after Read has returned io.EOF is not read, unlike
// with TCP on Linux.
func (c *Conn) CloseRead() error {
	return c.control("close", func() {
		c.state.Or(readClosed)
		c.rd.Wake()
	})
}

// CloseWrite ends writing at this end: the peer reads what was written and then
// io.EOF. A Write that is blocked returns EPIPE, as every later one does.
func (c *Conn) CloseWrite() error {
	return c.control("close", func() {
		c.state.Or(writeClosed)
		c.endStream()
		c.wr.Wake()
	})
}
