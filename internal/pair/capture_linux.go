package pair

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
	"cutthrough.example/internal/tap"
)

// A capture lasts as long as its channel: the asker sends one message, gets an answer, and from then on only
// receives, until it closes the channel. On the captured side it has the goroutine of the channel's
// handshake, which sends, and two that wait for the end.

const (
	// maxCaptures is how many captures of an application there can be at a time, and captureBuffer how
	// many bytes each of them holds for an asker that is slow, and once more as many that are being sent.
	maxCaptures   = 8
	captureBuffer = 4 << 20

	// drainTime is how long the asker has to take what is left when the capture has ended. It is less
	// than closePatience.
	drainTime = time.Second

	// leaveTime is how long a new capture waits at most for the end of one whose asker has gone.
	leaveTime = 2 * time.Second
)

// A capture is one of this application's connections by another process.
type capture struct {
	id   string // of the connection
	ch   rendezvous.Channel
	tap  *tap.Tap
	done chan struct{} // closed when the connection can be captured again
}

// capture serves a process that asks for a capture. The visitor has left the handshakes, and the host has
// its channel.
func (h *Host) capture(v *visitor, m rendezvous.Message) {
	c := &capture{id: m.Target(), ch: v.ch, tap: tap.New(captureBuffer), done: make(chan struct{})}
	about, release, err := h.beginCapture(c)
	if err != nil {
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = syscall.ESRCH
		}
		c.ch.Send(rendezvous.Message{Kind: rendezvous.KindDone, Errno: uint32(errno)})
		return
	}
	log := h.Log().With("id", c.id, "pid", v.cred.PID, "uid", v.cred.UID)
	log.Info("ctnet: another process captures a connection") // before it gets a byte
	c.serve(about, v)
	release()
	h.endCapture(c)
	n := c.tap.Counts()
	log.Info("ctnet: the capture of a connection has ended", "sent", n.Sent, "received", n.Received, "dropped", n.Dropped)
}

// beginCapture has the connection captured, unless another capture is in the way: that of the same connection,
// or as many as there may be. One whose asker has gone is about to end, and is waited for.
func (h *Host) beginCapture(c *capture) (about []byte, release func(), err error) {
	patience := time.NewTimer(leaveTime)
	defer patience.Stop()
	for {
		other, err := h.enterCapture(c)
		if err == nil {
			break
		}
		if other == nil {
			return nil, nil, err
		}
		select {
		case <-other.done:
		case <-patience.C:
			return nil, nil, err
		}
	}
	if about, release, err = h.Config.Capture(c.id, c.tap); err != nil {
		h.endCapture(c)
	}
	return about, release, err
}

// enterCapture adds a capture to the host's. If it can't it may return one that is about to end, after which it
// should be tried again.
func (h *Host) enterCapture(c *capture) (leaving *capture, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, net.ErrClosed
	}
	if same := h.captures[c.id]; same != nil {
		if same.ch.PeerClosed() {
			leaving = same
		}
		return leaving, syscall.EBUSY
	}
	if len(h.captures) >= maxCaptures {
		for _, other := range h.captures {
			if other.ch.PeerClosed() {
				leaving = other
			}
		}
		return leaving, syscall.ENOBUFS
	}
	h.captures[c.id] = c
	// Host.Close does not hang up, but ends the Tap: what is left in it is sent.
	delete(h.channels, c.ch)
	return nil, nil
}

// endCapture undoes enterCapture.
func (h *Host) endCapture(c *capture) {
	h.mu.Lock()
	delete(h.captures, c.id)
	h.mu.Unlock()
	close(c.done)
}

// serve sends what the Tap has seen, until that is closed or the asker has gone.
func (c *capture) serve(about []byte, v *visitor) {
	c.ch.SetReadDeadline(time.Time{}) // it was the handshake's
	var waiting sync.WaitGroup
	waiting.Go(func() {
		// The asker has nothing more to say, so whatever comes is the end.
		_, fds, _ := c.ch.Receive()
		c.tap.Close()
		v.peer.closing.Do(fds.Close)
	})
	waiting.Go(func() {
		<-c.tap.Closed()
		c.ch.SetWriteDeadline(time.Now().Add(drainTime))
	})
	err := c.ch.Send(rendezvous.Message{Kind: rendezvous.KindDone})
	start := tap.Record{Kind: tap.Start, Time: time.Now().UnixNano(), Data: about}
	for block, ok := start.Append(nil), true; ok && err == nil; block, ok = c.tap.Next() {
		err = c.ch.SendBlock(block)
	}
	c.tap.Close()
	c.ch.CloseRead() // ends Receive
	waiting.Wait()
}

// Errors of captures, as the asker words them.
var (
	errNoCapture = syserr.New(syscall.EPROTO, "its version of ctnet does not let a connection be captured")
	captureErrs  = map[error]error{
		syscall.EBUSY:      syserr.New(syscall.EBUSY, "another process captures the connection"),
		syscall.ENOBUFS:    syserr.New(syscall.ENOBUFS, "the application has as many captures as it may"),
		syscall.EOPNOTSUPP: syserr.New(syscall.EOPNOTSUPP, "the connection is in a testing/synctest bubble"),
		syscall.ENOTCONN:   syserr.New(syscall.ENOTCONN, "the Dial has not been answered"),
		syscall.EACCES:     syserr.New(syscall.EACCES, "only the application's user and root capture its connections"),
	}
)

// Capture asks for a capture of the connection with an ID, within patience, and calls each with every block of
// records, which may be anything, until that returns done or an error, or ctx ends. The block is valid during
// the call. The error is ESRCH if there is no such connection, and EBUSY if there is another capture of it.
func (i *Inspection) Capture(ctx context.Context, id string, patience time.Duration, each func(block []byte) (done bool, err error)) error {
	if err := i.askForCapture(ctx, id, patience); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { i.ch.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	block := make([]byte, tap.MaxBlock)
	for {
		n, fds, err := i.ch.ReceiveBlock(block)
		if len(fds) > 0 {
			go fds.Close() // the other process can make that block
		}
		if err != nil {
			return err
		}
		if done, err := each(block[:n]); done || err != nil {
			return err
		}
	}
}

func (i *Inspection) askForCapture(ctx context.Context, id string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, fds, err := i.ask(ctx, rendezvous.KindCapture, id)
	defer func() { go fds.Close() }()
	switch {
	case err != nil:
		return err
	case m.Kind == rendezvous.KindWelcome && m.Errno != uint32(syscall.EACCES):
		return errNoCapture
	case m.Kind == rendezvous.KindWelcome:
		return captureErrs[syscall.EACCES]
	}
	err = m.Check(rendezvous.KindDone, 0, fds)
	if worded := captureErrs[err]; worded != nil {
		return worded
	}
	return err
}
