package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	attacks["descriptors"] = sendDescriptors
	attacks["listener: descriptors"] = answerDescriptors
	attacks["fields"] = sendFields
	attacks["listener: fields"] = answerFields
	attacks["packets"] = sendPackets
	attacks["silent"] = func(a *attacker) { beSilent(a, func(rendezvous.Channel) {}) }
	attacks["silent after hello"] = func(a *attacker) { beSilent(a, sayOnly) }
	attacks["changing bell"] = changeBell
}

// TestHandshakes has attackers say other things than they should, and pass other things.
func TestHandshakes(t *testing.T) {
	for _, attack := range []string{"descriptors", "listener: descriptors", "fields", "listener: fields", "packets", "changing bell"} {
		t.Run(attack, func(t *testing.T) {
			plan := victimPlan{}
			dials := attack == "listener: descriptors" || attack == "listener: fields"
			if dials {
				plan.Dials = 6
			}
			s := besiege(t, plan)
			a := s.attack(attackPlan{Attack: attack})
			if dials {
				s.storm()
			}
			s.endure(a)
			rounds := s.attack(attackPlan{Attack: "rounds " + attack})
			s.await(a, ask[int64](rounds, "count"))
			rounds.kill()
			s.endAll(a)
		})
	}
}

// TestSilent has many connect to the listener and say nothing, and come again when they
// are sent away. A new client must get in at once.
func TestSilent(t *testing.T) {
	for _, attack := range []string{"silent", "silent after hello"} {
		for _, n := range []int{66, 500} {
			t.Run(fmt.Sprintf("%d %s", n, attack), func(t *testing.T) {
				s := besiege(t, victimPlan{})
				a := s.attack(attackPlan{Attack: attack, N: n})
				s.requirePrompt(5)
				s.endAll(a)
			})
		}
	}
}

// prompt is how long an honest Dial may take under an attack: what one of a busy TCP listener
// might, on a machine with as much else to do.
const prompt = time.Second

// requirePrompt is requireWell, and no Dial or round trip may take long.
func (s *siege) requirePrompt(often int) {
	s.t.Helper()
	ask[tally](s.honest, "tally")
	var n tally
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		now := ask[tally](s.honest, "tally")
		require.Empty(s.t, now.Errors, "an honest client is hurt")
		require.Less(s.t, max(now.Dials.Max, now.Attaches.Max, now.Trips.Max, now.Oldest), prompt,
			"an honest client is held up\nDials %v\nDials of new applications %v\nround trips %v\nunder way for %v", now.Dials, now.Attaches, now.Trips, now.Oldest)
		n.Dials.N, n.Attaches.N, n.Trips.N = n.Dials.N+now.Dials.N, n.Attaches.N+now.Attaches.N, n.Trips.N+now.Trips.N
		if min(n.Dials.N, n.Attaches.N, n.Trips.N) >= often {
			return
		}
		require.True(s.t, time.Now().Before(end), "an honest client has done only %+v", n)
		s.victim.requireAlive()
	}
}

// packet returns a message as it goes over the wire.
func packet(m rendezvous.Message) []byte {
	if m.Magic == 0 {
		m.Magic, m.Version = rendezvous.Magic, rendezvous.Version
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, &m)
	return b.Bytes()
}

// awaitEnd waits until the victim has answered and closed.
func awaitEnd(ch rendezvous.Channel) {
	ch.SetDeadline(time.Now().Add(2 * time.Second))
	for {
		_, fds, err := ch.Receive()
		fds.Close()
		if err != nil {
			return
		}
	}
}

// A round is one handshake of an attack that goes through many.
type round func() error

// rounds are those of an attack, to be done one after the other.
var rounds = map[string]func() []round{
	"descriptors":           clientDescriptors,
	"fields":                clientFields,
	"packets":               clientPackets,
	"listener: descriptors": func() []round { return make([]round, len(listenerDescriptors())) },
	"listener: fields":      func() []round { return make([]round, len(listenerFields())) },
	"changing bell":         func() []round { return make([]round, 3) },
}

func init() {
	for name, make := range rounds {
		attacks["rounds "+name] = func(a *attacker) {
			a.count.Store(int64(len(make())))
			a.ready()
		}
	}
}

// doRounds does the rounds of an attack for ever.
func (a *attacker) doRounds(all []round) {
	var n atomic.Int64
	a.ready()
	a.each(4, func() error {
		err := all[(n.Add(1)-1)%int64(len(all))]()
		a.count.Add(1)
		return err
	})
}

func sendDescriptors(a *attacker) { a.doRounds(clientDescriptors()) }
func sendFields(a *attacker)      { a.doRounds(clientFields()) }
func sendPackets(a *attacker)     { a.doRounds(clientPackets()) }

// clientDescriptors pass each kind of descriptor in each place where one is expected, in more
// places, and where none is.
func clientDescriptors() (all []round) {
	for _, d := range descriptors() {
		for place := range 4 {
			all = append(all, func() error { return helloWith(d, place) })
		}
		for count := range 4 {
			all = append(all, func() error { return addWith(d, count) })
		}
		all = append(all, func() error { return leaveWith(d) })
	}
	return all
}

// helloWith says hello with another descriptor in one place.
func helloWith(d descriptor, place int) error {
	c, fds, err := approach(goodName)
	if err != nil {
		return err
	}
	defer c.leave()
	fd, err := d.make()
	if err != nil {
		return err
	}
	if place < len(fds) {
		fds[place] = fd
	} else {
		fds = append(fds, fd)
	}
	err = c.ch.Send(hello(goodName), fds...)
	unix.Close(fd)
	if err != nil {
		return err
	}
	return c.goOn()
}

// goOn receives the answer to hello, and if the victim has let this client in, has it use all
// that was passed.
func (c *client) goOn() error {
	c.ch.SetDeadline(time.Now().Add(2 * time.Second))
	if err := c.welcomed(); err != nil {
		return err
	}
	if err := c.add(nowhere); err != nil {
		return err
	}
	for k := range uint32(2) {
		c.sleepForEver(k)
		n, err := c.ask(segpool.ConnectNtf, nowhere)
		if err != nil {
			return err
		}
		if err := n.awaitAnswer(10 * time.Millisecond); err != nil { // a bitmap may not be shared
			return err
		}
		n.send(make([]byte, 100))
		pause()
		n.rx.Read(make([]byte, 100))
		n.notify()
		n.end(true, nowhere)
	}
	return nil
}

// addWith adds a segment which is something else, or more than one thing.
func addWith(d descriptor, count int) error {
	c, err := attach(goodName, nowhere)
	if err != nil {
		return err
	}
	defer c.leave()
	var fds []int
	for range count {
		fd, err := d.make()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	if err := c.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdd}, fds...); err != nil {
		return err
	}
	if count == 1 {
		c.ch.SetDeadline(time.Now().Add(2 * time.Second))
		_, _, err = c.ch.Receive()
	}
	return err
}

// leaveWith goes when it has sent a descriptor, so that the victim may not even read it.
func leaveWith(d descriptor) error {
	ch, err := dial(goodName)
	if err != nil {
		return err
	}
	defer ch.Close()
	fd, err := d.make()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for range 3 {
		rawpacket.SendOn(ch, nil, fd, fd)
		rawpacket.SendOn(ch, packet(rendezvous.Message{Kind: 99}), fd, fd, fd, fd, fd)
	}
	return nil
}

// listenerDescriptors are what a listener passes in either place.
func listenerDescriptors() (all [][2]int) {
	for i := range descriptors() {
		for place := range 3 {
			all = append(all, [2]int{i, place})
		}
	}
	return all
}

// answerDescriptors answers a dialer with other descriptors.
func answerDescriptors(a *attacker) {
	all := listenerDescriptors()
	var n atomic.Int64
	a.serve(func(ch rendezvous.Channel) {
		what := all[(n.Add(1)-1)%int64(len(all))]
		a.answerWith(ch, func(fds []int) error {
			fd, err := descriptors()[what[0]].make()
			if err != nil {
				return err
			}
			if what[1] < len(fds) {
				fds[what[1]] = fd
			} else {
				fds = append(fds, fd)
			}
			err = ch.Send(welcome(), fds...)
			unix.Close(fd)
			return err
		})
	})
}

// answerWith receives hello and has send answer it, with what could be passed.
func (a *attacker) answerWith(ch rendezvous.Channel, send func(fds []int) error) {
	ch.SetDeadline(time.Now().Add(2 * time.Second))
	_, fds, err := ch.Receive()
	fds.Close()
	if err != nil || len(fds) == 0 { // it asks for a snapshot
		return
	}
	s := &server{side: side{ch: ch}}
	defer s.leave()
	sleepFD, err := s.own()
	if err != nil {
		return
	}
	if err := send([]int{sleepFD, s.bellFD}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	a.count.Add(1)
	s.indulge()
}

// indulge lets the client go on, if it does, whatever it was told: it has its segment and its
// first connections, which it then uses.
func (s *server) indulge() {
	s.sleepForEver(0)
	s.ch.SetDeadline(time.Now().Add(20 * time.Millisecond))
	for {
		_, fds, err := s.ch.Receive()
		if err != nil {
			return
		}
		if len(fds) != 1 {
			fds.Close()
			continue
		}
		var st unix.Stat_t
		unix.Fstat(fds[0], &st)
		m, err := segpool.OpenShared(fds[0], int(st.Size), segpool.ByBoth)
		fds.Close()
		if err != nil {
			continue
		}
		s.held = append(s.held, m.Free)
		s.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdded})
		for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); pause() {
			asked := segpool.State(clientState.load(m.Bytes))
			serverState.store(m.Bytes, uint64(segpool.MakeState(asked.Use(), segpool.Accepted)))
			slotWord("toClient.tail").store(m.Bytes, 100)
		}
	}
}

// values are what is put in a field of a message.
func values() []uint64 {
	return []uint64{0, 1, 2, 63, 64, 65, 207, 208, 209, 4095, 4096, 4097, 64 << 20, 64<<20 + 1, 1<<31 - 1, 1 << 31,
		math.MaxUint32, 1 << 32, 1 << 63, math.MaxUint64, 104, 4095 << 20}
}

// mutants are copies of a message with each value in each field.
func mutants(m rendezvous.Message) (all []rendezvous.Message) {
	m.Magic, m.Version = rendezvous.Magic, rendezvous.Version
	for i := range reflect.TypeOf(m).NumField() {
		for _, v := range values() {
			n := m
			f := reflect.ValueOf(&n).Elem().Field(i)
			switch f.Kind() {
			case reflect.Array:
				for k := range f.Len() {
					f.Index(k).SetUint(uint64(byte(int(v) * (k + 1))))
				}
			default:
				f.SetUint(v & (1<<f.Type().Bits() - 1))
			}
			all = append(all, n)
		}
	}
	return all
}

// clientFields put each value in each field of what a client says.
func clientFields() (all []round) {
	for _, m := range mutants(hello(goodName)) {
		all = append(all, func() error {
			c, fds, err := approach(goodName)
			if err != nil {
				return err
			}
			defer c.leave()
			if err := rawpacket.SendOn(c.ch, packet(m), fds...); err != nil {
				return err
			}
			return c.goOn()
		})
	}
	later := append(mutants(rendezvous.Message{Kind: rendezvous.KindAdd}), mutants(rendezvous.Message{Kind: rendezvous.KindDrop})...)
	for len(later) > 0 {
		some := later[:min(11, len(later))]
		later = later[len(some):]
		all = append(all, func() error {
			c, err := enter(goodName)
			if err != nil {
				return err
			}
			defer c.leave()
			_, fd, err := c.newSegment()
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			go awaitEnd(c.ch)
			for _, m := range some {
				if m.Kind == rendezvous.KindAdd {
					rawpacket.SendOn(c.ch, packet(m), fd)
				} else {
					rawpacket.SendOn(c.ch, packet(m))
				}
				if n, err := c.ask(segpool.ConnectNtf, nowhere); err == nil {
					n.awaitAnswer(10 * time.Millisecond) // the segment may be gone
				}
			}
			return nil
		})
	}
	return all
}

// listenerFields are what a listener says: welcomes, and the answers to add.
func listenerFields() []rendezvous.Message {
	return append(mutants(welcome()), mutants(rendezvous.Message{Kind: rendezvous.KindAdded})...)
}

// answerFields answers a dialer, and its segment, with each value in each field.
func answerFields(a *attacker) {
	all := listenerFields()
	var n atomic.Int64
	a.serve(func(ch rendezvous.Channel) {
		m := all[(n.Add(1)-1)%int64(len(all))]
		a.answerWith(ch, func(fds []int) error {
			if m.Kind != rendezvous.KindAdded {
				return rawpacket.SendOn(ch, packet(m), fds...)
			}
			if err := ch.Send(welcome(), fds...); err != nil {
				return err
			}
			_, add, err := ch.Receive()
			add.Close()
			if err != nil {
				return err
			}
			return rawpacket.SendOn(ch, packet(m))
		})
	})
}

// clientPackets are parts of messages, more than messages, and messages at the wrong time.
func clientPackets() (all []round) {
	good := packet(hello(goodName))
	for n := 0; n <= len(good)+2; n += 9 {
		all = append(all, func() error { return sayPackets(false, append(good, good...)[:n]) })
	}
	all = append(all,
		func() error { return sayPackets(true, make([]byte, 150_000)) },
		func() error { return sayPackets(true, append(good, make([]byte, 100_000)...)) },
		func() error { return sayPackets(true, good, good) }, // hello twice
		func() error { return sayPackets(true, good, good, good, good) },
		func() error { return sayPackets(true) },
	)
	for kind := range uint16(12) {
		m := rendezvous.Message{Kind: kind}
		all = append(all,
			func() error { return sayPackets(true, packet(m)) },
			func() error { return sayPackets(true, packet(m), good) },
			func() error { return sayPackets(true, good, packet(m)) },
			func() error { return sayPackets(false, packet(m), packet(m)) },
		)
	}
	return all
}

// sayPackets sends packets, each with what a hello needs, or without.
func sayPackets(withFDs bool, packets ...[]byte) error {
	c, fds, err := approach(goodName)
	if err != nil {
		return err
	}
	defer c.leave()
	if !withFDs {
		fds = nil
	}
	for _, b := range packets {
		if err := rawpacket.SendOn(c.ch, b, fds...); err != nil {
			return err
		}
	}
	c.ch.CloseWrite()
	awaitEnd(c.ch)
	return nil
}

// beSilent keeps as many connections as planned that say no more than first, and opens new ones
// in place of those that the victim closes.
func beSilent(a *attacker, first func(ch rendezvous.Channel)) {
	var open atomic.Int64
	for range a.plan.N {
		go func() {
			for opened := false; ; {
				ch, err := dial(goodName)
				if err != nil {
					pause()
					continue
				}
				first(ch)
				a.count.Add(1)
				if !opened {
					opened = true
					open.Add(1)
				}
				b := make([]byte, 1)
				for err == nil {
					_, err = ch.Read(b) // until it is closed
				}
				ch.Close()
			}
		}()
	}
	for end := time.Now().Add(3 * time.Second); open.Load() < int64(a.plan.N) && time.Now().Before(end); {
		pause()
	}
	a.ready()
}

// sayOnly says hello and never anything else.
func sayOnly(ch rendezvous.Channel) {
	c, fds, err := prepare(ch)
	if err != nil {
		return
	}
	keep(c)
	ch.Send(hello(goodName), fds...)
}

// changeBell fills its doorbell and makes it one that blocks, again and again while the victim
// rings it.
func changeBell(a *attacker) {
	var clients []*client
	var conns []*conn
	for range 3 {
		c := a.mustEnter(badName)
		clients = append(clients, c)
		for range 8 {
			n, err := c.connect()
			if err != nil {
				panic(err)
			}
			conns = append(conns, n)
		}
	}
	a.ready()
	a.each(1, func() error {
		for _, c := range clients {
			if err := jam(c.bellFD); err != nil {
				panic(err)
			}
			c.sleepForEver(uint32(a.count.Load()))
		}
		for _, n := range conns {
			n.slot.SayClient(segpool.ConnectNtf)
			n.send(make([]byte, 100))
			n.rx.Read(make([]byte, 5000))
			n.notify()
		}
		a.count.Add(1)
		return nil
	})
}
