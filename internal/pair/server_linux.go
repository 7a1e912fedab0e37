package pair

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

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

	// Handshakes under way: with processes that may attach, and with processes that
	// are being told that they may not.
	hands, refusals chan struct{}
}

// maxHandshakes is the most handshakes of each kind at a time. Further processes that may
// attach wait; a silent client holds one of the places for at most helloTimeout. Processes
// that may not attach have places of their own; beyond these their channels are closed
// without an answer.
const maxHandshakes = 64

// helloTimeout is how long a listener waits for a client's hello, which the client sends as
// soon as it is connected.
const helloTimeout = time.Second

// Open makes the door of a listener, which is found under key. No application can attach
// until [Door.Serve] is called.
func (h *Host) Open(ctx context.Context, l Listener, key string) (*Door, error) {
	socket, err := rendezvous.Bind(ctx, key, l.Shared())
	if err != nil {
		return nil, err
	}
	return &Door{
		l:        l,
		host:     h,
		socket:   socket,
		hands:    make(chan struct{}, maxHandshakes),
		refusals: make(chan struct{}, maxHandshakes),
	}, nil
}

// Serve lets applications attach, until [Door.Close].
func (d *Door) Serve() {
	var wait time.Duration
	for {
		ch, err := d.socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or of memory
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			time.Sleep(wait)
			continue
		}
		wait = 0
		d.admit(ch)
	}
}

// admit starts the handshake with a process that has connected, when there is a place.
func (d *Door) admit(ch rendezvous.Channel) {
	cred, err := ch.PeerCred()
	if err != nil {
		ch.Close()
		return
	}
	if d.l.Allows(cred) {
		d.hands <- struct{}{}
		go d.attach(ch, cred)
		return
	}
	select {
	case d.refusals <- struct{}{}:
		go d.turnAway(ch, cred)
	default:
		ch.Close()
	}
}

// turnAway tells a process that it may not attach. It reads the hello first: closing a socket
// with unread bytes resets it, and the answer would be lost.
func (d *Door) turnAway(ch rendezvous.Channel, cred rendezvous.Cred) {
	ch.SetDeadline(time.Now().Add(helloTimeout))
	m, fds, err := ch.Receive()
	rendezvous.CloseAll(fds)
	if err != nil || !d.served(ch, cred, m) {
		ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, Errno: uint32(syscall.EACCES)})
	}
	ch.Close()
	<-d.refusals
}

// served handles the messages that may come in place of a hello, from processes of this user
// and of root. It reports whether m was such a message.
func (d *Door) served(ch rendezvous.Channel, cred rendezvous.Cred, m rendezvous.Message) bool {
	switch {
	case !rendezvous.Trusted(cred):
	case m.Kind == rendezvous.KindInspect:
		return d.host.answerInspect(ch) == nil
	case m.Kind == rendezvous.KindTakeover && d.l.Shared():
		d.retire()
		return ch.Send(rendezvous.Message{Kind: rendezvous.KindTaken}) == nil
	}
	return false
}

// retire tells the clients to attach anew for later Dials: another listener may have the
// address now.
func (d *Door) retire() {
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
	d.socket.Close()
	d.retire()
}

// A server is this application's pair with another one that has dialed its listener.
type server struct {
	pair
	door  *Door
	place Place
	table *segpool.Table
	conns slotTable[Accepted]
}

// attach does the handshake with an application, and then reads its messages.
func (d *Door) attach(ch rendezvous.Channel, cred rendezvous.Cred) {
	h := d.host
	if h.begin(ch) != nil {
		ch.Close()
		<-d.hands
		return
	}
	defer h.end(ch)
	ch.SetDeadline(time.Now().Add(helloTimeout))
	s, err := d.handshake(ch, cred)
	ch.SetDeadline(time.Time{})
	<-d.hands
	if err != nil {
		var errno syscall.Errno
		if errors.Is(err, os.ErrDeadlineExceeded) {
			errno = syscall.ETIMEDOUT
		} else if !errors.As(err, &errno) {
			errno = syscall.EPROTO
		}
		ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, Errno: uint32(errno)}) // fails if the client has gone
		return
	}
	if s != nil {
		s.read()
	}
}

// handshake returns the pair. It returns nil and no error if it has handled another message
// than a hello.
func (d *Door) handshake(ch rendezvous.Channel, cred rendezvous.Cred) (*server, error) {
	var held holdings
	defer held.undo()
	hello, fds, err := ch.Receive()
	if err != nil {
		return nil, err
	}
	if d.served(ch, cred, hello) {
		rendezvous.CloseAll(fds)
		return nil, nil
	}
	if err := hello.Check(rendezvous.KindHello, 3, fds); err != nil {
		return nil, err
	}
	blockFD, sleepFD, bellFD := fds[0], fds[1], fds[2]
	block, err := segpool.OpenShared(blockFD, blockSize, segpool.ByBoth)
	if err != nil {
		rendezvous.CloseAll([]int{sleepFD, bellFD})
		return nil, rendezvous.Broken(err)
	}
	held.add(block.Free)
	s := &server{pair: pair{host: d.host, ch: ch, cred: cred, block: block}, door: d}
	s.self = s
	if err := s.adopt(hello, sleepFD, bellFD); err != nil {
		return nil, err
	}
	held.add(s.disown)
	s.place = d.l.Place(string(hello.Name[:min(hello.NameLen, rendezvous.MaxTarget)]))
	if s.place == nil {
		return nil, syscall.ECONNREFUSED
	}
	sz, err := s.place.Sizes(Sizes{int(hello.ToServer), int(hello.ToClient)})
	if err != nil {
		return nil, err
	}
	g, err := segpool.NewGeometry(sz.ToServer, sz.ToClient)
	if err != nil {
		return nil, err
	}
	h := s.host
	if h.full() {
		return nil, syscall.ENOBUFS
	}
	s.table = segpool.NewTable(g, h.Account)
	worker, number, ownSleepFD, err := h.worker()
	if err != nil {
		return nil, err
	}
	bell, err := sched.NewDoorbell()
	if err != nil {
		return nil, err
	}
	held.add(bell.Close)
	toServer, toClient := bitmaps(block)
	s.remote.Events = toClient
	s.source = sched.Source{Events: toServer, Handle: s.handle, Bell: bell}
	s.worker = worker
	s.refs.Store(1)
	if err := worker.Add(&s.source); err != nil {
		return nil, err
	}
	held.keep() // the worker may be using the memory from here on
	err = ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, App: h.ID, Worker: uint32(number),
		ToServer: uint32(g.ToServer), ToClient: uint32(g.ToClient)}, ownSleepFD, bell.FD())
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

// read reads the control channel, and ends the pair when that ends.
func (s *server) read() {
	for {
		m, fds, err := s.ch.Receive()
		if err != nil {
			break
		}
		if m.Kind == rendezvous.KindAdd && len(fds) == 1 {
			var errno syscall.Errno
			if err := s.add(int(m.Segment), fds[0]); err != nil && !errors.As(err, &errno) {
				errno = syscall.EPROTO
			}
			if s.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdded, Errno: uint32(errno)}) != nil {
				break
			}
			continue
		}
		rendezvous.CloseAll(fds)
		if m.Kind == rendezvous.KindDrop {
			s.table.Drop(int(m.Segment))
		}
	}
	h := s.host
	h.unregister(func() { delete(h.servers, s) })
	s.die(s.cutNext())
	s.table.Close()
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

func (s *server) each(f func(e *stream.End, owner any, halfOpen bool)) {
	s.conns.all(func(a *Accepted) {
		halfOpen := !a.answered.Load()
		f(a.owner.End(), a.owner, halfOpen)
	})
}

// handle is called by the worker for each event. An event at a slot without a connection is
// a Dial.
func (s *server) handle(id uint32) {
	if a := s.conns.get(id); a != nil {
		a.owner.End().Wake()
		a.checkDialer()
		return
	}
	if slot, ok := s.table.Request(id); ok {
		// The worker may call incoming after the pair has died, so the call needs a
		// reference. ref succeeds: the worker serves the pair, which has one until
		// die's Cleanup.
		s.ref()
		s.worker.Connect(func() { s.incoming(slot) })
	}
}
