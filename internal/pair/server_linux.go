package pair

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// A Door is the socket on which other applications attach to a listener.
type Door struct {
	l      Listener
	host   *Host
	socket *rendezvous.Socket

	retired atomic.Bool // dialers find another listener now, or none

	// Processes that may attach, and processes that are told that they may not.
	peers, strangers peers
}

// helloTimeout is how long a handshake may take, and so a silent client holds a place for
// visitors. A client sends its hello as soon as it is connected.
const helloTimeout = time.Second

// lastLook is how long a handshake looks for a hello once more when its time is up.
const lastLook = 10 * time.Millisecond

// Open makes the door of a listener, which is found under key. No application can attach
// until [Door.Serve] is called.
func (h *Host) Open(ctx context.Context, l Listener, key string) (*Door, error) {
	socket, err := rendezvous.Bind(ctx, key, l.Shared())
	if err != nil {
		return nil, err
	}
	return h.door(l, socket), nil
}

func (h *Host) door(l Listener, socket *rendezvous.Socket) *Door {
	d := &Door{l: l, host: h, socket: socket}
	d.peers.init(l.PeerLimits(), h.Account)
	d.strangers.init(PeerLimits{}, h.Account)
	h.mu.Lock()
	h.doors[d] = struct{}{}
	h.mu.Unlock()
	return d
}

// Serve lets applications attach, until [Door.Close].
func (d *Door) Serve() {
	for {
		ch, err := d.socket.Accept()
		if err != nil {
			return
		}
		d.admit(ch)
	}
}

// admit starts the handshake with a process that has connected. It does not wait for that.
func (d *Door) admit(ch rendezvous.Channel) {
	cred, err := ch.PeerCred()
	if err != nil {
		ch.Close()
		return
	}
	at, visit := &d.peers, d.attach
	if !d.l.Allows(cred) {
		at, visit = &d.strangers, d.turnAway
	}
	v, of := at.enter(ch, cred)
	if v == nil {
		of.refuse(ch)
		return
	}
	ch.SetReadDeadline(time.Now().Add(helloTimeout)) // sending never waits
	go func() {
		defer at.leave(v)
		visit(v)
	}()
}

// turnAway tells a process that it may not attach. It reads the hello first: closing a socket
// with unread bytes resets it, and the answer would be lost.
func (d *Door) turnAway(v *visitor) {
	h := d.host
	if h.begin(v.ch) != nil {
		v.peer.closing.Do(func() { v.ch.Close() })
		return
	}
	defer v.peer.closing.Do(func() { h.end(v.ch) })
	m, fds, err := v.ch.Receive()
	defer v.peer.closing.Do(fds.Close)
	if err != nil || !d.captured(v, &d.strangers, m) && !d.served(v, m) {
		v.ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, Errno: uint32(syscall.EACCES)})
	}
}

// served handles the messages that may come in place of a hello, from processes of this user
// and of root. It reports whether m was such a message.
func (d *Door) served(v *visitor, m rendezvous.Message) bool {
	switch {
	case !rendezvous.Ours(v.cred):
	case m.Kind == rendezvous.KindInspect:
		return d.host.answerInspect(v.ch, m) == nil
	case m.Kind == rendezvous.KindReset:
		return d.host.answerReset(v.ch, m) == nil
	case m.Kind == rendezvous.KindTakeover && d.l.Shared():
		return d.socket.HandOver(v.ch, d.retire) == nil
	}
	return false
}

// captured handles the message that asks for a capture, as served does the others. It returns when the
// capture has ended, and so it has left the visitors, of which there are only so many, and it is not called in
// a turn.
func (d *Door) captured(v *visitor, at *peers, m rendezvous.Message) bool {
	if m.Kind != rendezvous.KindCapture || !rendezvous.Ours(v.cred) {
		return false
	}
	at.leave(v)
	d.host.capture(v, m)
	return true
}

// retire tells the clients to attach anew for later Dials: another listener may have the
// address now.
func (d *Door) retire() {
	d.retired.Store(true)
	d.l.Retire()
	h := d.host
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.servers {
		if s.door == d {
			s.ch.Send(rendezvous.Message{Kind: rendezvous.KindRetire}) // if it fails, the next Dial is refused
		}
	}
}

// Close lets no more applications attach, and tells the attached ones to attach anew for later
// Dials.
func (d *Door) Close() {
	h := d.host
	h.mu.Lock()
	delete(h.doors, d)
	h.mu.Unlock()
	d.socket.Close()
	d.retire()
}

// A server is this application's pair with another one that has dialed its listener.
type server struct {
	pair
	door  *Door
	peer  *peer
	name  string // that was dialed
	place Place
	table *segpool.Table
	conns slotTable[Accepted]

	// requests has a bit for each slot at which the client may ask for a connection. The
	// worker takes them, in turns with those of other pairs, while there are fewer half-open
	// connections than there may be.
	requests  sched.Bitmap
	from      uint32       // where the next Take begins; the worker's own
	halfOpens atomic.Int32 // that were not accepted
}

// attach does the handshake with an application, and then reads its messages. It has left the
// visitors when it reads.
func (d *Door) attach(v *visitor) {
	h := d.host
	if h.begin(v.ch) != nil {
		v.peer.closing.Do(func() { v.ch.Close() })
		return
	}
	defer v.peer.closing.Do(func() { h.end(v.ch) })
	s, err := d.handshake(v)
	if err != nil {
		var errno syscall.Errno
		if errors.Is(err, os.ErrDeadlineExceeded) {
			errno = syscall.ETIMEDOUT
		} else if errors.Is(err, net.ErrClosed) {
			errno = syscall.ECONNREFUSED // by Host.Close
		} else if !errors.As(err, &errno) {
			errno = syscall.EPROTO
		}
		v.ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, Errno: uint32(errno)}) // fails if the client has gone
		return
	}
	if s != nil {
		v.ch.SetReadDeadline(time.Time{})
		d.peers.leave(v)
		s.read()
	}
}

// handshake returns the pair. It returns nil and no error if it has handled another message
// than a hello.
func (d *Door) handshake(v *visitor) (s *server, err error) {
	hello, fds, err := v.ch.Receive()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// This process may have been stopped, and the hello may be there.
		v.ch.SetReadDeadline(time.Now().Add(lastLook))
		hello, fds, err = v.ch.Receive()
	}
	defer v.peer.closing.Do(fds.Close)
	if err != nil {
		return nil, err
	}
	if d.captured(v, &d.peers, hello) {
		return nil, nil
	}
	v.peer.mapping.Do(func() { s, err = d.answer(v, hello, fds) })
	return s, err
}

// answer is the part of a handshake that follows the first message.
func (d *Door) answer(v *visitor, hello rendezvous.Message, fds foreign.FDs) (*server, error) {
	var held holdings
	defer held.undo()
	if d.served(v, hello) {
		return nil, nil
	}
	switch hello.Kind {
	case rendezvous.KindInspect, rendezvous.KindReset, rendezvous.KindCapture:
		if !rendezvous.Ours(v.cred) {
			return nil, syscall.EACCES
		}
	}
	if err := hello.Check(rendezvous.KindHello, 3, fds); err != nil {
		return nil, err
	}
	block, err := segpool.OpenShared(fds[0], blockSize, segpool.ByBoth)
	if err != nil {
		return nil, rendezvous.Broken(err)
	}
	held.add(block.Free)
	h := d.host
	s := &server{pair: pair{host: h, ch: v.ch, cred: v.cred, block: block, closing: v.peer.closing}, door: d, peer: v.peer}
	s.self = s
	if err := s.adopt(hello, fds, 1); err != nil {
		return nil, err
	}
	held.add(s.disown)
	s.name = hello.Target()
	s.place = d.l.Place(s.name)
	if s.place == nil {
		if d.retired.Load() {
			return nil, syscall.ESTALE // the client asks whoever has the name now
		}
		return nil, syscall.ECONNREFUSED
	}
	sz, err := s.place.Sizes(Sizes{int(hello.ToServer), int(hello.ToClient)})
	if err != nil {
		return nil, err
	}
	g, err := segpool.SharedGeometry(sz.ToServer, sz.ToClient)
	if err != nil {
		return nil, err
	}
	if h.full() || !d.peers.addPair(v.peer) {
		return nil, syscall.ENOBUFS
	}
	held.add(s.gone)
	s.table = segpool.NewTable(g, v.peer.account)
	s.requests = sched.NewBitmap(make([]byte, sched.BitmapSize))
	worker, number, ownSleepFD, err := h.worker()
	if err != nil {
		return nil, err
	}
	s.worker, s.workerNumber, s.number = worker, number, h.pairs.Add(1)
	bell, ringerFD, err := sched.NewDoorbell()
	if err != nil {
		return nil, err
	}
	defer unix.Close(ringerFD)
	held.add(bell.Close)
	toServer, toClient := bitmaps(block)
	s.remote.Events = toClient
	if err := s.listen(toServer, bell, s.handle, s.admitSome); err != nil {
		return nil, err
	}
	held.keep()
	err = v.ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, App: h.ID, Worker: uint32(number),
		ToServer: uint32(g.ToServer), ToClient: uint32(g.ToClient)}, ownSleepFD, ringerFD)
	if err == nil {
		err = h.register(s, func() { h.servers[s] = struct{}{} })
	}
	if err != nil {
		s.die(s.cutNext())
		s.table.Close()
		return nil, err
	}
	return s, nil
}

// gone implements member.
func (s *server) gone() { s.door.peers.removePair(s.peer) }

// read reads the control channel, and ends the pair when that ends.
func (s *server) read() {
	for !s.dead.Load() {
		m, fds, err := s.ch.ReceivePatiently()
		if err == nil || err == rendezvous.ErrNoRoom {
			s.heard(m.Kind)
			err = s.obey(m, fds, err)
		}
		if len(fds) > 0 {
			s.closing.Do(fds.Close)
		}
		if err == rendezvous.ErrProtocol {
			s.cutOff(badMessage)
		}
		if err != nil {
			break
		}
	}
	h := s.host
	h.unregister(func() { delete(h.servers, s) })
	s.die(s.cutNext())
	s.peer.mapping.Do(s.table.Close)
}

// obey does what a message says. lost is not nil if descriptors were lost.
func (s *server) obey(m rendezvous.Message, fds foreign.FDs, lost error) error {
	switch {
	case m.Kind == rendezvous.KindAdd && (len(fds) == 1 || lost != nil):
		var errno syscall.Errno
		err := lost
		if err == nil {
			err = s.add(int(m.Segment), fds[0])
		}
		if err != nil && !errors.As(err, &errno) {
			errno = syscall.EPROTO
		}
		return s.ch.SendPatiently(rendezvous.Message{Kind: rendezvous.KindAdded, Errno: uint32(errno)})
	case m.Kind == rendezvous.KindDrop && len(fds) == 0:
		s.table.Drop(int(m.Segment))
		return nil
	case m.Kind == rendezvous.KindFull && len(fds) == 0:
		return nil
	}
	return rendezvous.ErrProtocol
}

// add maps a segment that the client has made.
func (s *server) add(k, fd int) error {
	m, err := segpool.OpenShared(fd, s.table.Geometry().Size(), segpool.ByBoth)
	if err != nil {
		return err
	}
	return s.table.Add(k, m)
}

// cutAccepted ends a connection whose pair has ended, and removes it from the backlog if it was
// not answered.
func (s *server) cutAccepted(a *Accepted) {
	s.cut(a.owner.End())
	if !a.answered.Load() {
		s.door.l.Withdraw(a.owner)
	}
}

// cutNext returns a function that cuts the next connection, see [pair.die].
func (s *server) cutNext() func() bool { return s.conns.inTurn(s.cutAccepted) }

func (s *server) info(until time.Time) Info {
	conns := 0
	s.conns.all(func(*Accepted) { conns++ })
	return s.describe(s.name, conns, s.table.Geometry(), s.table.Usage(conns, until))
}

func (s *server) each(f func(e *stream.End, owner any, at Spot, halfOpen bool)) {
	s.conns.all(func(a *Accepted) {
		halfOpen := !a.answered.Load()
		f(a.owner.End(), a.owner, s.spot(a.slot), halfOpen)
	})
}

// handle is called for each event. One at a slot that is not in use is a Dial, which the worker
// admits later.
func (s *server) handle(id uint32) {
	if a := s.conns.get(id); a != nil {
		a.notified()
		return
	}
	s.requests.Set(id)
	s.worker.Schedule(&s.source)
}

// admitsPerTurn is about how many Dials are admitted in one turn of the worker, as in VPP's
// session layer.
const admitsPerTurn = 32

// admitSome is [sched.Source.Work]: it admits Dials, as far as there is room for half-open
// connections.
func (s *server) admitSome() (more bool) {
	room := s.door.peers.limits.HalfOpens - int(s.halfOpens.Load())
	if room <= 0 {
		return false // see settled
	}
	_, s.from = s.requests.Take(s.from, min(room, admitsPerTurn), s.admit)
	// After the bits were put back that Take has not followed: it pairs with the store in
	// settled.
	return s.requests.Pending() && int(s.halfOpens.Load()) < s.door.peers.limits.HalfOpens
}

// settled is called when a half-open connection is one no more. If there may be Dials that wait
// for its place, the worker looks for them: either this finds their bits, or admitSome, which is
// taking bits, finds the place. Model: halfopen.pml.
func (s *server) settled() {
	s.halfOpens.Add(-1)
	if s.requests.Pending() {
		s.worker.Schedule(&s.source)
	}
}
