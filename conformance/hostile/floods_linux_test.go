package hostile

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
)

func init() {
	attacks["connects"] = floodConnects
	attacks["rings"] = floodRings
	attacks["events"] = floodEvents
	attacks["hellos"] = floodHellos
	attacks["hellos kept"] = floodHellosKept
	attacks["inspects"] = floodInspects
	attacks["inspects unread"] = floodInspectsUnread
	attacks["segments"] = floodSegments
	attacks["segments kept"] = floodSegmentsKept
	attacks["messages"] = floodMessages

	attacks["listener: events"] = floodDialerEvents
	attacks["listener: refusals"] = floodRefusals
	attacks["listener: retires"] = floodRetires
	attacks["listener: messages"] = floodDialerMessages
}

// clientFloods are what a client does to a listener without end, and listenerFloods what a
// listener does to a dialer.
var (
	clientFloods   = []string{"connects", "rings", "events", "hellos", "hellos kept", "inspects", "inspects unread", "segments", "segments kept", "messages"}
	listenerFloods = []string{"listener: events", "listener: refusals", "listener: retires", "listener: messages"}
)

// clientFloodSizes are how many of something some of them have.
var clientFloodSizes = map[string]int{"events": 4, "hellos kept": 500}

// TestFloods has attackers do without end what costs them little.
func TestFloods(t *testing.T) {
	for _, attack := range clientFloods {
		t.Run(attack, func(t *testing.T) {
			s := besiege(t, victimPlan{})
			a := s.attack(attackPlan{Attack: attack, N: clientFloodSizes[attack]})
			s.endure(a)
			s.endAll(a)
		})
	}
	for _, attack := range listenerFloods {
		t.Run(attack, func(t *testing.T) {
			s := besiege(t, victimPlan{Dials: 4})
			a := s.attack(attackPlan{Attack: attack})
			s.storm()
			s.endure(a)
			s.endAll(a)
		})
	}
}

// floodConnects asks for connections in all slots of a segment, with ever new uses. It has as
// many pairs as the victim can have workers on a small machine, and some.
func floodConnects(a *attacker) {
	var clients []*client
	for range 4 {
		clients = append(clients, a.mustEnter(goodName))
	}
	a.ready()
	a.pour(clients)
}

// pour has clients ask for connections for ever.
func (a *attacker) pour(clients []*client) {
	for use := uint32(1); ; use++ {
		for _, c := range clients {
			c.sleepForEver(use)
			for i := range c.geo.Slots {
				clientState.in(i).store(c.segs[0].Bytes, uint64(segpool.MakeState(use, segpool.ConnectNtf)))
			}
			setAll(c.block, 0, c.geo.Slots)
			c.ring()
		}
		a.count.Add(1)
	}
}

// mustEnter enters before the attack begins.
func (a *attacker) mustEnter(name string) *client {
	c, err := enter(name)
	if err != nil {
		panic(err)
	}
	return c
}

// floodRings rings the victim's doorbell.
func floodRings(a *attacker) {
	c := a.mustEnter(goodName)
	a.ready()
	a.each(2, func() error {
		c.ring()
		a.count.Add(1)
		return nil
	})
}

// floodEvents sets all bits there are, for slots that there are and others, of as many pairs
// as planned.
func floodEvents(a *attacker) {
	var clients []*client
	for range max(a.plan.N, 1) {
		c := a.mustEnter(goodName)
		for range 16 {
			if _, err := c.connect(); err != nil {
				panic(err)
			}
		}
		clients = append(clients, c)
	}
	a.ready()
	for {
		for _, c := range clients {
			setAll(c.block, 0, segpool.MaxSlots)
			c.ring()
		}
		a.count.Add(1)
	}
}

// sayHello connects and says hello, and does not wait for the answer.
func sayHello(name string) (*client, error) {
	c, fds, err := approach(name)
	if err != nil {
		return nil, err
	}
	if err := c.ch.Send(hello(name), fds...); err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// floodHellos connects, says hello and goes.
func floodHellos(a *attacker) {
	a.ready()
	a.each(4, func() error {
		c, err := sayHello(goodName)
		if err != nil {
			return err
		}
		a.count.Add(1)
		c.leave()
		return nil
	})
}

// floodHellosKept has some hundred pairs, and replaces the oldest by new ones.
func floodHellosKept(a *attacker) {
	a.ready()
	kept := make(chan *client, a.plan.N)
	a.each(2, func() error {
		c, err := sayHello(goodName)
		if err != nil {
			return err
		}
		a.count.Add(1)
		for {
			select {
			case kept <- c:
				return nil
			case oldest := <-kept:
				oldest.leave()
			}
		}
	})
}

// floodInspects asks for snapshots.
func floodInspects(a *attacker) {
	a.ready()
	a.each(4, func() error {
		ch, err := dial(goodName)
		if err != nil {
			return err
		}
		defer ch.Close()
		if err := ch.Send(rendezvous.Message{Kind: rendezvous.KindInspect}); err != nil {
			return err
		}
		_, fds, err := ch.Expect(rendezvous.KindSnapshot, 1)
		if err == nil {
			fds.Close()
			a.count.Add(1)
		}
		return err
	})
}

// floodInspectsUnread asks for snapshots and does not look at them.
func floodInspectsUnread(a *attacker) {
	a.ready()
	kept := make(chan rendezvous.Channel, 200)
	a.each(2, func() error {
		ch, err := dial(goodName)
		if err != nil {
			return err
		}
		a.count.Add(1)
		for range 10 {
			ch.Send(rendezvous.Message{Kind: rendezvous.KindInspect})
		}
		for {
			select {
			case kept <- ch:
				return nil
			case oldest := <-kept:
				oldest.Close()
			}
		}
	})
}

// floodSegments adds and drops a segment.
func floodSegments(a *attacker) {
	c, err := attach(goodName, nowhere)
	if err != nil {
		panic(err)
	}
	_, fd, err := c.newSegment()
	if err != nil {
		panic(err)
	}
	a.ready()
	a.each(1, func() error {
		c.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdd}, fd)
		c.ch.Send(rendezvous.Message{Kind: rendezvous.KindDrop})
		_, _, err := c.ch.Expect(rendezvous.KindAdded, 0)
		a.count.Add(1)
		return err
	})
}

// floodSegmentsKept adds segments, the same file again and again, and does not read whether
// the victim has them.
func floodSegmentsKept(a *attacker) {
	a.ready()
	a.each(1, func() error {
		c, err := attach(goodName, nowhere)
		if err != nil {
			return err
		}
		defer c.leave()
		m, fd, err := c.newSegment()
		if err != nil {
			return err
		}
		defer m.Free()
		defer unix.Close(fd)
		for k := range uint32(40) {
			if c.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdd, Segment: k}, fd) == nil {
				a.count.Add(1)
			}
		}
		return nil
	})
}

// floodMessages sends messages of all kinds after the handshake, with descriptors, as many as
// the channel takes.
func floodMessages(a *attacker) {
	a.ready()
	a.each(2, func() error {
		c, err := attach(goodName, nowhere)
		if err != nil {
			return err
		}
		defer c.leave()
		go a.discard(c.ch)
		return a.babble(c.ch, c.bellFD)
	})
}

// babble sends messages of all kinds.
func (a *attacker) babble(ch rendezvous.Channel, fd int) error {
	for n := range 2000 {
		m := rendezvous.Message{Kind: uint16(n % 13), Segment: uint32(n), Errno: uint32(n / 13 % 2), Size: 1 << 31}
		fds := []int{fd, fd, fd}[:n%4]
		if err := ch.Send(m, fds...); err != nil {
			time.Sleep(100 * time.Microsecond) // it is full
			continue
		}
		a.count.Add(1)
	}
	return nil
}

// discard takes what the victim says, so that it can say more.
func (a *attacker) discard(ch rendezvous.Channel) {
	for {
		_, fds, err := ch.Receive()
		fds.Close()
		if err != nil {
			return
		}
	}
}

// floodDialerEvents lets connections in, and sets all bits there are.
func floodDialerEvents(a *attacker) {
	a.receive(func(s *server, requests []*conn) {
		for _, c := range requests {
			c.accept()
			c.send(make([]byte, 100))
		}
		setAll(s.block, 1, segpool.MaxSlots)
		s.ring()
		a.count.Add(1)
	})
}

// floodRefusals refuses each connection, or accepts and closes it.
func floodRefusals(a *attacker) {
	a.receive(func(s *server, requests []*conn) {
		for _, c := range requests {
			switch a.count.Add(1) % 4 {
			case 0:
				c.slot.SayServer(segpool.Refused | uint32(unix.ECONNREFUSED)<<8)
			case 1:
				c.slot.SayServer(segpool.Refused | uint32(unix.ENOBUFS)<<8)
			case 2:
				c.slot.SayServer(segpool.Done)
			case 3:
				c.accept()
				c.end(false, nowhere)
			}
			c.notify()
		}
		pause()
	})
}

// floodRetires makes the victim attach anew for each Dial.
func floodRetires(a *attacker) {
	a.receive(func(s *server, requests []*conn) {
		for _, c := range requests {
			c.accept()
		}
		s.ch.Send(rendezvous.Message{Kind: rendezvous.KindRetire})
		a.count.Add(1)
		pause()
	})
}

// floodDialerMessages lets connections in, and says things that nobody has asked for.
func floodDialerMessages(a *attacker) {
	a.receive(func(s *server, requests []*conn) {
		for _, c := range requests {
			c.accept()
		}
		a.babble(s.ch, s.bellFD)
	})
}

// receive listens, and calls f again and again with each client's pair and new requests.
func (a *attacker) receive(f func(s *server, requests []*conn)) {
	a.serve(func(ch rendezvous.Channel) {
		s, err := greet(ch, nowhere)
		if err != nil {
			return
		}
		ended := make(chan struct{})
		go func() {
			s.take(nowhere)
			close(ended)
		}()
		s.sleepForEver(0)
		for {
			select {
			case <-ended:
				s.leave()
				return
			default:
				f(s, s.requests())
			}
		}
	})
}
