package ctnet

import (
	"net"
	"time"
)

// A Listener accepts connections to its name. It implements net.Listener.
type Listener struct {
	app     *app
	addr    Addr
	sizes   sizes
	allow   func(Cred) bool
	bubble  int
	backlog backlog

	door *door // for other applications; nil if there is none
}

// Accept returns the next connection, waiting for it. It fails with
// net.ErrClosed after Close and with os.ErrDeadlineExceeded after the deadline.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn is Accept with the connection's own type.
func (l *Listener) AcceptConn() (*Conn, error) {
	c, err := l.backlog.accept()
	if err != nil {
		return nil, opError("accept", nil, &l.addr, err)
	}
	return c, nil
}

// SetDeadline sets the time after which Accept fails, also if it is blocked
// already. The zero time means never.
func (l *Listener) SetDeadline(t time.Time) error {
	if l.backlog.isClosed() {
		return opError("set", nil, &l.addr, net.ErrClosed)
	}
	l.backlog.set(t, &l.backlog)
	return nil
}

// Close stops listening, and returns at once. Dials that wait are refused,
// connections that nobody has accepted are reset, and those that were accepted
// live on.
func (l *Listener) Close() error {
	if !l.app.removeListener(l) {
		return opError("close", nil, &l.addr, net.ErrClosed)
	}
	if l.door != nil {
		l.door.close()
	}
	l.backlog.close()
	return nil
}

// Addr returns the name that the listener listens on.
func (l *Listener) Addr() net.Addr { return &l.addr }
