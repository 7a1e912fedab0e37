package ctnet

import (
	"context"
	"net"
	"syscall"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/stream"
)

// Connections with other applications: the types through which package pair calls this one.

// A dialedConn is the dialing end of a connection with another application.
type dialedConn struct {
	conn
	link pair.Dialed
}

// dialRemote connects to a listener of another application.
func (a *app) dialRemote(ctx context.Context, key string, t *target, ask sizes, allow func(rendezvous.Cred) bool) (*conn, error) {
	to := pair.Target{Key: key, Name: t.name, Ask: pair.Sizes(ask), Remote: t.addr, Allow: allow, Owns: hostnet.Owns}
	for range 3 {
		d := &dialedConn{conn: conn{remote: t.addr}}
		err := a.remote.Dial(ctx, to, d)
		if err == nil {
			a.show(false)
			return &d.conn, nil
		}
		if err != pair.ErrRetired {
			return nil, err
		}
		// The pair was made earlier; another listener may have the key now.
	}
	return nil, syscall.ECONNREFUSED // not rendezvous.ErrNobody: there is a listener, and it is closing
}

func (d *dialedConn) End() *stream.End        { return &d.end }
func (d *dialedConn) Link() *pair.Dialed      { return &d.link }
func (d *dialedConn) Options() stream.Options { return stream.Options{TCP: isTCP(d.remote)} }

// Begin sets the credentials and the address of the other end.
func (d *dialedConn) Begin(peer *rendezvous.Cred, remote net.Addr) {
	d.cred, d.remote = (*Cred)(peer), remote
}

// Connected sets the address of this end. On network tcp it comes from the listener, and
// nothing but LocalAddr depends on it.
func (d *dialedConn) Connected(app, number, o uint64) {
	switch a := d.remote.(type) {
	case *net.TCPAddr:
		d.local = origin(o).addr(a.AddrPort().Addr())
	case *net.UnixAddr:
		d.local = unnamed
	default:
		d.own = Addr{app: app, number: number}
		d.local = &d.own
	}
}

// An acceptedConn is the accepting end of a connection with another application.
type acceptedConn struct {
	conn
	link   pair.Accepted
	origin origin // the listener's
}

func (a *acceptedConn) End() *stream.End     { return &a.end }
func (a *acceptedConn) Link() *pair.Accepted { return &a.link }

func (a *acceptedConn) answer()                    { a.link.Answer() }
func (a *acceptedConn) drop()                      { a.link.Drop() }
func (a *acceptedConn) refuse(errno syscall.Errno) { a.link.Refuse(errno) }

func (a *acceptedConn) accept() *conn {
	if !a.link.Accept() {
		return nil
	}
	return &a.conn
}

// A served is a listener as package pair sees it.
type served struct{ l *Listener }

func (s served) Allows(c rendezvous.Cred) bool {
	switch {
	case !rendezvous.Known(c):
		return false
	case s.l.allow != nil:
		return s.l.allow(Cred(c))
	}
	return s.l.isOpen() || rendezvous.Trusted(c)
}

func (s served) PeerLimits() pair.PeerLimits { return pair.PeerLimits(s.l.peerLimits) }

func (s served) Shared() bool { return s.l.kernel != nil }

func (s served) Retire() { s.l.retired.Store(true) }

func (s served) Withdraw(a pair.Accepting) { s.l.backlog.withdraw(a.(*acceptedConn)) }

func (s served) Place(name string) pair.Place {
	addr := s.l.answers(name)
	if addr == nil || s.l.retired.Load() {
		return nil
	}
	return servedAs{s.l, addr, new(turns)}
}

// A servedAs is a listener as one pair has dialed it.
type servedAs struct {
	l    *Listener
	addr net.Addr // of the accepting ends
	turn *turns
}

func (s servedAs) Sizes(ask pair.Sizes) (pair.Sizes, error) {
	sz, err := checkSizes(sizes(ask))
	if err != nil {
		return ask, err
	}
	sz.ToServer, sz.ToClient = s.l.sizes.decide(sz)
	return pair.Sizes(sz), nil
}

func (s servedAs) Make(from pair.Dialer) (_ pair.Accepting, o stream.Options, _ uint64, errno syscall.Errno) {
	if s.l.retired.Load() {
		return nil, o, 0, syscall.ECONNREFUSED
	}
	if s.l.elsewhere() {
		return nil, o, 0, errHandedOn.Errno
	}
	a := &acceptedConn{conn: conn{local: s.addr, family: s.l.family, cred: (*Cred)(from.Cred), own: Addr{app: from.App, number: from.Number}}}
	var err error
	if a.remote, a.origin, err = s.l.ends(s.addr, &a.own); err != nil {
		return nil, o, 0, syscall.ENOBUFS
	}
	return a, stream.Options{TCP: isTCP(s.addr)}, uint64(a.origin), 0
}

func (s servedAs) Offer(a pair.Accepting) { s.l.backlog.offer(a.(*acceptedConn), s.turn) }

func (s servedAs) Forget(a pair.Accepting) {
	if o := a.(*acceptedConn).origin; o != 0 {
		s.l.origins.free(o)
	}
}
