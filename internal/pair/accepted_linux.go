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
	accepted atomic.Bool // by Accept
	settled  atomic.Bool // it is not counted as a half-open connection any more
	refused  uint32      // the errno, if it was

	cancelled atomic.Bool // the dialer has given up
}

// admit makes the connection for a Dial, if there is one at the slot. The worker calls it, and
// so the pair has a reference.
func (s *server) admit(id uint32) {
	if a := s.conns.get(id); a != nil {
		// The event came while the slot was not in use, but it may be that of a dialer
		// that has given up since. And an honest client does not ask again before it was
		// answered: a second connection in the table would hide the first one for ever.
		a.notified()
		return
	}
	slot, ok := s.table.Request(id)
	if !ok {
		return
	}
	number := slot.Number()
	owner, o, origin, errno := s.create(Dialer{App: s.peerApp, Number: number, Cred: &s.cred})
	if errno != 0 {
		s.host.Counts.Refused.Add(1)
		s.table.Refuse(slot, uint32(errno), func() { s.tell(slot) })
		return
	}
	s.ref()
	s.halfOpens.Add(1)
	slot.SetOrigin(origin)
	slot.ToServer.Header.ResetConsumer()
	slot.ToClient.Header.ResetProducer()
	a := owner.Link()
	a.owner, a.s, a.slot = owner, s, slot
	owner.End().Init(slot.ToServer, slot.ToClient, a, s.host.options(o, raceKey(s.peerApp, number), &s.peer.janitor))
	s.conns.set(slot.ID, a)
	s.place.Offer(owner)
	// The dialer may have given up or died before the connection was in the table. Its
	// notification found nothing then.
	if s.dead.Load() {
		s.cutAccepted(a)
	} else {
		a.checkDialer()
	}
}

// create asks the listener to make a connection, and counts it.
func (s *server) create(from Dialer) (a Accepting, o stream.Options, origin uint64, errno syscall.Errno) {
	if s.peer.account.AddConn() != nil {
		return nil, o, 0, syscall.ENOBUFS
	}
	if a, o, origin, errno = s.place.Make(from); errno != 0 {
		s.peer.account.RemoveConn()
		return nil, o, 0, errno
	}
	return a, o, origin, 0
}

// notified is called for an event of the connection.
func (a *Accepted) notified() {
	a.owner.End().Wake()
	a.checkDialer()
}

// settle says that the connection is no half-open one any more.
func (a *Accepted) settle() {
	if !a.settled.Swap(true) {
		a.s.settled()
	}
}

// checkDialer removes the connection from the backlog if its dialer has given up. The dialer
// stores GivenUp before it notifies ([Dialed.LetGo]).
func (a *Accepted) checkDialer() {
	if !a.accepted.Load() && a.givenUp() {
		a.s.door.l.Withdraw(a.owner)
	}
}

// givenUp reports whether the dialer has given up. Then no user has the dialing end, even if
// the Dial was answered.
func (a *Accepted) givenUp() bool {
	e := a.owner.End()
	if !e.Enter() {
		return false
	}
	defer e.Leave()
	st := a.slot.ClientState()
	if st.Use() == a.slot.Use && st.Code() != segpool.GivenUp {
		return false
	}
	a.cancelled.Store(true)
	return true
}

// Answer tells the dialer that it is connected. The answer is stored when Answer returns,
// also if another goroutine has called it. It may be called again.
func (a *Accepted) Answer() {
	a.once.Do(func() {
		e := a.owner.End()
		if !e.Enter() {
			return // by Host.Close
		}
		a.slot.SayServer(segpool.Accepted)
		a.answered.Store(true)
		a.s.tell(a.slot)
		e.Leave()
	})
}

// Accept answers the dialer and reports whether the connection can be accepted. If the dialer
// has given up, Accept drops the connection and returns false.
func (a *Accepted) Accept() bool {
	a.Answer()
	a.accepted.Store(true)
	a.settle()
	if a.givenUp() {
		a.Drop()
		return false
	}
	return true
}

// Drop resets a connection that will not be accepted.
func (a *Accepted) Drop() {
	a.Answer() // a Dial that still waits looks only for the answer
	a.owner.End().Abort()
}

// Refuse tells the dialer that it is not connected.
func (a *Accepted) Refuse(errno syscall.Errno) {
	a.owner.End().Refuse(func() { a.refused = uint32(errno) })
}

// tell notifies the dialer if it waits for the answer. The load of ConnectNtf pairs with the
// store in [Dialed.awaitAnswer].
func (s *server) tell(slot segpool.Slot) {
	if slot.ClientState().Code() == segpool.ConnectNtf {
		s.remote.Notify(slot.ID)
	}
}

// Notify, CutOff, Poller, Trim and LetGo implement stream.Peer.
func (a *Accepted) Notify()              { a.s.remote.Notify(a.slot.ID) }
func (a *Accepted) CutOff()              { a.s.cutOff(corruptFifo) }
func (a *Accepted) Poller() sched.Poller { return a.s.worker }
func (a *Accepted) Trim(b []byte)        { a.slot.Trim(b) }

// LetGo lets go of the slot.
func (a *Accepted) LetGo() {
	s := a.s
	// Out of the table first: after Free or Refuse the client may use the slot again, and
	// then an event there is a new Dial.
	s.conns.set(a.slot.ID, nil)
	e := a.owner.End()
	charged := e.Charged()
	switch {
	case a.refused != 0:
	case a.cancelled.Load():
		s.host.Counts.Cancelled.Add(1)
	case e.WasReset():
		s.host.Counts.Reset.Add(1)
	}
	if a.refused != 0 {
		s.host.Counts.Refused.Add(1)
		s.table.Refuse(a.slot, a.refused, func() { s.tell(a.slot) })
	} else {
		s.table.Free(a.slot)
	}
	s.peer.account.ForgetConn(charged)
	a.settle()
	s.place.Forget(a.owner)
	s.unref()
}
