package ctnet

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// A door is the socket on which other applications attach to a listener.
type door struct {
	l  *Listener
	ln *net.UnixListener
	id fileID // of its socket file

	// Handshakes under way, with those who may connect and with those who
	// are being told that they may not.
	hands, refusals chan struct{}
}

// maxHandshakes bounds the handshakes of a kind at a time. Those who may connect
// wait for their turn; who says nothing is in their way no longer than helloTimeout.
// The others can't be in their way at all: one too many is cut off unanswered.
const maxHandshakes = 64

// helloTimeout is how long a listener waits for the first words of one who has
// connected. They are sent with the connection.
const helloTimeout = time.Second

// openDoor makes the door of a listener. It lets nobody in until accept is called.
func openDoor(ctx context.Context, l *Listener) (*door, error) {
	ln, id, err := listenSocket(ctx, l.key, l.kernel != nil)
	if err != nil {
		return nil, err
	}
	d := &door{
		l:        l,
		ln:       ln,
		id:       id,
		hands:    make(chan struct{}, maxHandshakes),
		refusals: make(chan struct{}, maxHandshakes),
	}
	return d, nil
}

// accept lets applications in, until the socket is closed.
func (d *door) accept() {
	var wait time.Duration
	for {
		c, err := d.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or of memory
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			time.Sleep(wait)
			continue
		}
		wait = 0
		d.admit(channel{c})
	}
}

// admit has a handshake done with whoever has connected, in its turn.
func (d *door) admit(ch channel) {
	cred, err := ch.peerCred()
	if err != nil {
		ch.Close()
		return
	}
	allow := d.l.allow
	if allow == nil {
		allow = trusted
	}
	if allow(cred) {
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

// turnAway tells one who may not connect so. It reads what that one says first:
// to close a socket with unread bytes is a reset, which would hide the answer.
func (d *door) turnAway(ch channel, cred Cred) {
	ch.SetDeadline(time.Now().Add(helloTimeout))
	m, fds, err := ch.receive()
	closeAll(fds)
	if err != nil || !d.served(ch, cred, m) {
		ch.send(message{Kind: kindWelcome, Errno: uint32(syscall.EACCES)})
	}
	ch.Close()
	<-d.refusals
}

// served does what m asks for if it is not to connect and comes from this user or
// root.
func (d *door) served(ch channel, cred Cred, m message) bool {
	switch {
	case !trusted(cred):
	case m.Kind == kindInspect:
		return d.l.app.answerInspect(ch) == nil
	case m.Kind == kindTakeover && d.l.kernel != nil:
		d.retire()
		return ch.send(message{Kind: kindTaken}) == nil
	}
	return false
}

// retire makes new connections go to whoever listens there now.
func (d *door) retire() {
	d.l.retired.Store(true)
	r := &d.l.app.remote
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.servers {
		if s.l == d.l {
			s.ch.send(message{Kind: kindRetire}) // if not, the next Dial finds out
		}
	}
}

// close stops letting applications in, and tells those inside.
func (d *door) close() {
	closeSocket(d.ln, d.id)
	d.retire()
}

// A server is this application's pair with one that has dialed its listener.
type server struct {
	pair
	l     *Listener
	addr  net.Addr // of this end of the connections
	table *segpool.Table
}

// attach does the handshake with an application, and then reads its messages.
func (d *door) attach(ch channel, cred Cred) {
	r := &d.l.app.remote
	if r.begin(ch) != nil {
		ch.Close()
		<-d.hands
		return
	}
	defer r.end(ch)
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
		ch.send(message{Kind: kindWelcome, Errno: uint32(errno)}) // if it still listens
		return
	}
	if s != nil {
		s.read()
	}
}

// handshake returns the pair, or nil without an error if that was not what was
// asked for.
func (d *door) handshake(ch channel, cred Cred) (_ *server, err error) {
	var undo cleanup
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	hello, fds, err := ch.receive()
	if err != nil {
		return nil, err
	}
	if d.served(ch, cred, hello) {
		closeAll(fds)
		return nil, nil
	}
	if err := hello.check(kindHello, 3, fds); err != nil {
		return nil, err
	}
	blockFD, sleepFD, bellFD := fds[0], fds[1], fds[2]
	block, err := segpool.OpenShared(blockFD, blockSize, true)
	if err != nil {
		closeAll([]int{sleepFD, bellFD})
		return nil, broken(err)
	}
	undo.add(block.Free)
	s := &server{pair: pair{app: d.l.app, ch: ch, cred: cred, block: block}, l: d.l}
	if err := s.meet(hello, sleepFD, bellFD); err != nil {
		return nil, err
	}
	undo.add(s.part)
	s.addr = d.l.answers(string(hello.Name[:min(hello.NameLen, maxTarget)]))
	if s.addr == nil || d.l.retired.Load() {
		return nil, syscall.ECONNREFUSED
	}
	ask, err := checkSizes(sizes{int(hello.ToServer), int(hello.ToClient)})
	if err != nil {
		return nil, err
	}
	g, err := segpool.NewGeometry(d.l.sizes.decide(ask))
	if err != nil {
		return nil, err
	}
	s.table = segpool.NewTable(g, s.app.account)
	r := &s.app.remote
	worker, number, ownSleepFD, err := r.worker()
	if err != nil {
		return nil, err
	}
	bell, err := sched.NewDoorbell()
	if err != nil {
		return nil, err
	}
	undo.add(bell.Close)
	toServer, toClient := bitmaps(block)
	s.remote.Events = toClient
	s.source = sched.Source{Events: toServer, Handle: s.handle, Bell: bell}
	s.worker = worker
	s.refs.Store(1)
	if err := worker.Add(&s.source); err != nil {
		return nil, err
	}
	// From here on the worker may be using the memory.
	undo = cleanup{func() {
		s.die(s.detach)
		s.table.Close()
	}}
	err = ch.send(message{Kind: kindWelcome, App: s.app.id, Worker: uint32(number),
		ToServer: uint32(g.ToServer), ToClient: uint32(g.ToClient)}, ownSleepFD, bell.FD())
	if err != nil {
		return nil, err
	}
	return s, r.register(&s.pair, func() { r.servers[s] = struct{}{} })
}

// read reads the control channel, and ends the pair when that ends.
func (s *server) read() {
	for {
		m, fds, err := s.ch.receive()
		if err != nil {
			break
		}
		if m.Kind == kindAdd && len(fds) == 1 {
			var errno syscall.Errno
			if err := s.add(int(m.Segment), fds[0]); err != nil && !errors.As(err, &errno) {
				errno = syscall.EPROTO
			}
			if s.ch.send(message{Kind: kindAdded, Errno: uint32(errno)}) != nil {
				break
			}
			continue
		}
		closeAll(fds)
		if m.Kind == kindDrop {
			s.table.Drop(int(m.Segment))
		}
	}
	r := &s.app.remote
	r.unregister(func() { delete(r.servers, s) })
	s.die(s.detach)
	s.table.Close()
}

// add maps a segment that the client has made.
func (s *server) add(k, fd int) error {
	m, err := segpool.OpenShared(fd, s.table.Geometry().Size(), true)
	if err != nil {
		return err
	}
	return s.table.Add(k, m)
}

// detach tells a connection that its peer is gone.
func (s *server) detach(c *Conn) {
	s.cut(c)
	if a := c.peer.(*accepted); !a.answered.Load() {
		s.l.backlog.withdraw(a)
	}
}

// handle is called by the worker for each event. One at a slot that is not in
// use is a Dial.
func (s *server) handle(id uint32) {
	if c := s.conns.get(id); c != nil {
		c.event()
		c.peer.(*accepted).checkDialer()
		return
	}
	if slot, ok := s.table.Request(id); ok {
		// The call may come after the pair has died, hence the reference. The
		// worker serves the pair now, so there is one to be had.
		s.ref()
		s.worker.Connect(func() { s.incoming(slot) })
	}
}

// An accepted is the accepting end of a connection.
type accepted struct {
	Conn
	s    *server
	slot segpool.Slot

	origin origin // the listener's

	// The half-open.
	once     sync.Once
	answered atomic.Bool
	taken    atomic.Bool   // by Accept
	refused  syscall.Errno // why, if it was
}

// incoming is called by the worker for each Dial, with a reference to the pair
// that is the connection's.
func (s *server) incoming(slot segpool.Slot) {
	a := &accepted{s: s, slot: slot}
	number := slot.Number.Load()
	if errno := a.count(&Addr{app: s.peerApp, number: number}); errno != 0 {
		s.table.Refuse(slot, uint32(errno), a.tell)
		s.unref()
		return
	}
	slot.ToServer.Header.ResetConsumer()
	slot.ToClient.Header.ResetProducer()
	a.init(slot.ToServer, slot.ToClient, raceKey(s.peerApp, number))
	a.local = s.addr
	a.tcp = isTCP(s.addr)
	a.cred = s.cred
	a.peer = a
	s.conns.set(slot.ID, &a.Conn)
	s.l.backlog.offer(a)
	// Whoever gave up, or died, before the connection was to be found in the
	// table has told nobody.
	if s.dead.Load() {
		s.detach(&a.Conn)
	} else {
		a.checkDialer()
	}
}

// count takes what the connection needs of what there is a limit of, and gives it
// the address of its dialer, which is own on network "ct".
func (a *accepted) count(own *Addr) (errno syscall.Errno) {
	s := a.s
	if s.l.retired.Load() {
		return syscall.ECONNREFUSED
	}
	if s.l.elsewhere() {
		return errHandedOn.errno
	}
	if s.app.account.AddConn() != nil {
		return syscall.ENOBUFS
	}
	var err error
	if a.remote, a.origin, err = s.l.ends(s.addr, own); err != nil {
		s.app.account.RemoveConn()
		return syscall.ENOBUFS
	}
	a.slot.Origin.Store(uint64(a.origin))
	return 0
}

// uncount undoes count.
func (a *accepted) uncount() {
	a.s.app.account.RemoveConn()
	if a.origin != 0 {
		a.s.l.origins.give(a.origin)
	}
}

// checkDialer removes the connection from the backlog if its dialer has given up. The
// dialer notifies after it has said so.
func (a *accepted) checkDialer() {
	if !a.taken.Load() && a.givenUp() {
		a.s.l.backlog.withdraw(a)
	}
}

// givenUp reports whether the dialer has given up: nobody has the connection, even if
// it was answered.
func (a *accepted) givenUp() bool {
	if !a.gate.enter() {
		return false
	}
	defer a.leave()
	st := segpool.State(a.slot.ClientState.Load())
	return st.Use() != a.slot.Use || st.Code() == segpool.GivenUp
}

func (a *accepted) answer() {
	a.once.Do(func() {
		if !a.gate.enter() {
			return // closed with the application
		}
		a.slot.SayServer(segpool.Accepted)
		a.answered.Store(true)
		a.tell()
		a.leave()
	})
}

func (a *accepted) accept() *Conn {
	a.answer()
	a.taken.Store(true)
	if a.givenUp() {
		a.drop()
		return nil
	}
	return &a.Conn
}

func (a *accepted) drop() {
	a.answer() // a Dial that still waits would not hear of anything else
	a.abort()
}

func (a *accepted) refuse(errno syscall.Errno) {
	if !a.gate.close() {
		return // with the application
	}
	a.refused = errno // for release, which comes after everybody has left
	a.state.Or(isClosed)
	a.leave()
}

// tell notifies the dialer if it waits for the answer. It says so before it
// looks at the answer for the last time. It is called by those who serve more than
// this connection: the worker, Accept, and Close.
func (a *accepted) tell() {
	if segpool.State(a.slot.ClientState.Load()).Code() == segpool.ConnectNtf {
		a.notifyApart()
	}
}

func (a *accepted) notify()      { a.s.remote.Notify(a.slot.ID) }
func (a *accepted) notifyApart() { a.s.notifyApart(a.slot.ID) }

func (a *accepted) watch() sched.Poller { return a.s.worker }

func (a *accepted) halfOpen() bool { return !a.answered.Load() }

func (a *accepted) release() {
	s := a.s
	// Out of the table first: once the client may use the slot again, an event
	// there is a Dial.
	s.conns.set(a.slot.ID, nil)
	if a.refused != 0 {
		s.table.Refuse(a.slot, uint32(a.refused), a.tell)
	} else {
		s.table.Free(a.slot)
	}
	a.uncount()
	s.unref()
}
