package pair

import (
	"sync"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// An Accepted is the accepting end's link to its pair. It is a half-open until Answer.
type Accepted struct {
	owner Accepting
	s     *server
	slot  segpool.Slot

	once     sync.Once
	answered atomic.Bool
	taken    atomic.Bool // by Take
	refused  uint32      // the errno, if it was
}

// incoming is called by the worker for each Dial, with a reference to the pair
// that is the connection's.
func (s *server) incoming(slot segpool.Slot) {
	if s.conns.get(slot.ID) != nil {
		// Its client has asked for it again before this was called, which no honest one
		// does. A second connection in the table would hide the first one for ever.
		s.table.Refuse(slot, uint32(syscall.EPROTO), func() { s.tell(slot) })
		s.unref()
		return
	}
	number := slot.Number()
	owner, o, first, origin, errno := s.create(Dialer{App: s.peerApp, Number: number, Cred: &s.cred})
	if errno != 0 {
		s.table.Refuse(slot, uint32(errno), func() { s.tell(slot) })
		s.unref()
		return
	}
	slot.SetOrigin(origin)
	slot.ToServer.Header.ResetConsumer()
	slot.ToClient.Header.ResetProducer()
	a := owner.Link()
	a.owner, a.s, a.slot = owner, s, slot
	owner.End().Init(slot.ToServer, slot.ToClient, a, s.host.options(o, raceKey(s.peerApp, number), first))
	s.conns.set(slot.ID, a)
	s.place.Offer(owner)
	// If the dialer gave up, or died, before that, its notification found no connection.
	if s.dead.Load() {
		s.cutAccepted(a)
	} else {
		a.checkDialer()
	}
}

// create has the listener make a connection, and counts it. first is the size of the rings
// to begin with.
func (s *server) create(from Dialer) (a Accepting, o stream.Options, first int, origin uint64, errno syscall.Errno) {
	if a, o, origin, errno = s.place.Make(from); errno != 0 {
		return nil, o, 0, 0, errno
	}
	first, err := s.host.Account.AddConn(s.table.Geometry())
	if err != nil {
		s.place.Released(a)
		return nil, o, 0, 0, syscall.ENOBUFS
	}
	return a, o, first, origin, 0
}

// checkDialer removes the connection from the backlog if its dialer has given up. The
// dialer notifies after it has said so.
func (a *Accepted) checkDialer() {
	if !a.taken.Load() && a.givenUp() {
		a.s.door.l.Withdraw(a.owner)
	}
}

// givenUp reports whether the dialer has given up: nobody has the connection, even if
// it was answered.
func (a *Accepted) givenUp() bool {
	e := a.owner.End()
	if !e.Enter() {
		return false
	}
	defer e.Leave()
	st := a.slot.ClientState()
	return st.Use() != a.slot.Use || st.Code() == segpool.GivenUp
}

// Answer tells the dialer that it is connected. When it returns the dialer has been told;
// it may be called again.
func (a *Accepted) Answer() {
	a.once.Do(func() {
		e := a.owner.End()
		if !e.Enter() {
			return // closed with the application
		}
		a.slot.SayServer(segpool.Accepted)
		a.answered.Store(true)
		a.s.tell(a.slot)
		e.Leave()
	})
}

// Take answers, and reports whether there is a connection to be accepted: otherwise the
// dialer has given up, and it was dropped.
func (a *Accepted) Take() bool {
	a.Answer()
	a.taken.Store(true)
	if a.givenUp() {
		a.Drop()
		return false
	}
	return true
}

// Drop resets a connection that nobody accepts.
func (a *Accepted) Drop() {
	a.Answer() // a Dial that still waits would not hear of anything else
	a.owner.End().Abort()
}

// Refuse tells the dialer that it is not connected.
func (a *Accepted) Refuse(errno syscall.Errno) {
	a.owner.End().Withdraw(func() { a.refused = uint32(errno) })
}

// tell notifies the dialer if it waits for the answer: the dialer says ConnectNtf before its
// last look. Its callers serve other peers too (the worker,
// Accept) or never wait (Close), so the doorbell is rung apart.
func (s *server) tell(slot segpool.Slot) {
	if slot.ClientState().Code() == segpool.ConnectNtf {
		s.notifyApart(slot.ID)
	}
}

// Notify, NotifyApart, Poller, Trim and Release implement stream.Peer.
func (a *Accepted) Notify()              { a.s.remote.Notify(a.slot.ID) }
func (a *Accepted) NotifyApart()         { a.s.notifyApart(a.slot.ID) }
func (a *Accepted) Poller() sched.Poller { return a.s.worker }
func (a *Accepted) Trim(b []byte)        { a.slot.Trim(b) }

// Release lets go of the slot.
func (a *Accepted) Release() {
	s := a.s
	// Out of the table first: once the client may use the slot again, an event
	// there is a Dial.
	s.conns.set(a.slot.ID, nil)
	charged := a.owner.End().Charged()
	if a.refused != 0 {
		s.table.Refuse(a.slot, a.refused, func() { s.tell(a.slot) })
	} else {
		s.table.Free(a.slot)
	}
	s.host.Account.ForgetConn(charged)
	s.place.Released(a.owner)
	s.unref()
}
