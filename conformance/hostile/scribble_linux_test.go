package hostile

import (
	crand "crypto/rand"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
)

func init() {
	attacks["aimed client"] = aimAsClient
	attacks["aimed listener"] = aimAsListener
	attacks["wild client"] = scribbleAsClient
	attacks["wild listener"] = scribbleAsListener
}

// TestScribblers has attackers write what they like to all shared words, while the victim does
// everything that can be done with a connection.
func TestScribblers(t *testing.T) {
	for _, attack := range []string{"aimed client", "wild client", "aimed listener", "wild listener"} {
		t.Run(attack, func(t *testing.T) {
			plan := victimPlan{}
			if attack == "aimed listener" || attack == "wild listener" {
				plan.Dials = 8
			}
			s := besiege(t, plan)
			a := s.attack(attackPlan{Attack: attack})
			if plan.Dials > 0 {
				s.storm()
			}
			s.endure(a)
			if attack == "aimed client" || attack == "aimed listener" {
				s.await(a, int64(len(shots)))
			}
			s.awaitOps()
			s.endAll(a)
		})
	}
}

// await waits until an attacker has counted so far.
func (s *siege) await(a *process, count int64) {
	s.t.Helper()
	var now int64
	for end := time.Now().Add(2 * limit); now < count; time.Sleep(10 * time.Millisecond) {
		require.True(s.t, time.Now().Before(end), "the attacker has counted to %d, not %d", now, count)
		s.victim.requireAlive()
		now = ask[int64](a, "count")
	}
}

// awaitOps waits until the victim has done everything under the attack.
func (s *siege) awaitOps() {
	s.t.Helper()
	var missing []string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		d := ask[deeds](s.victim, "deeds")
		missing = slices.DeleteFunc(allOps(), func(name string) bool { return d.Count[name] > 0 })
		if len(missing) == 0 {
			return
		}
	}
	s.t.Fatalf("the victim has never done %v", missing)
}

// A shot is what is stored in a word.
type shot struct {
	word  word
	value func(old, other uint64) uint64 // other is the next slot's
}

// shots are all that is aimed at the words of a slot. In the words of the sides' states it is
// each code of several uses.
var shots = func() (all []shot) {
	constant := func(v uint64) func(uint64, uint64) uint64 { return func(uint64, uint64) uint64 { return v } }
	plus := func(d uint64) func(uint64, uint64) uint64 { return func(old, _ uint64) uint64 { return old + d } }
	const size = 4096
	for _, w := range slotWords {
		if w == clientState || w == serverState {
			for _, code := range []uint32{0, 1, 2, 3, 4, 5, 6, 7, 255, 5 | 104<<8, 5 | 0xffffff<<8} {
				for _, use := range []func(own uint32) uint32{
					func(uint32) uint32 { return 0 },
					func(uint32) uint32 { return 1 },
					func(own uint32) uint32 { return own },
					func(own uint32) uint32 { return own + 1 },
					func(own uint32) uint32 { return own - 1 },
					func(uint32) uint32 { return math.MaxUint32 },
				} {
					all = append(all, shot{w, func(old, _ uint64) uint64 {
						return uint64(segpool.MakeState(use(segpool.State(old).Use()), code))
					}})
				}
			}
			continue
		}
		for _, v := range []uint64{0, 1, 2, 3, math.MaxUint64, math.MaxUint32, 1 << 31, 1 << 63, 12 << 32, 63 << 32, 64 << 32, 255 << 32} {
			all = append(all, shot{w, constant(v)})
		}
		for _, d := range []uint64{0, 1, ^uint64(0), size, size + 1, ^uint64(size), ^uint64(size) + 1, 1 << 32, ^uint64(1<<32) + 1} {
			all = append(all, shot{w, plus(d)})
		}
		all = append(all, shot{w, func(_, other uint64) uint64 { return other }})
	}
	return all
}()

// TestShots makes sure that the words are found of which the specification speaks.
func TestShots(t *testing.T) {
	names := make(map[string]bool)
	for _, s := range shots {
		names[s.word.name] = true
	}
	require.Len(t, names, 4+2*9)
	require.EqualValues(t, 640, slotHeader.Size())
	require.Zero(t, clientState.at)
	require.EqualValues(t, 64, serverState.at)
	require.EqualValues(t, 72, slotWord("server.origin").at)
	require.EqualValues(t, 128+196, slotWord("toServer.wantData").at)
	require.EqualValues(t, 384+128, slotWord("toClient.ended").at)
}

// fire fires a shot at a connection, and has the victim look at what it has hit.
func (c *conn) fire(s shot) {
	w := c.word(s.word)
	other := s.word.in((c.at + 1) % c.s.geo.Slots).load(c.mem)
	v := s.value(w.load(c.mem), other)
	for range 4 {
		w.store(c.mem, v)
		c.notify()
		pause()
	}
}

// aimElsewhere stores all kinds of values in the words that are not a slot's.
func (s *side) aimElsewhere(n uint64) {
	for _, v := range []uint64{0, 1, n, math.MaxUint64, math.MaxUint64 - 1, 1 << 63, 0xffff, 1 << 16} {
		for _, w := range blockWords {
			w.store(s.block.Bytes, v)
		}
		for i := range sleepSize / 64 {
			sleepWord(s.sleep, i).Store(uint32(v))
		}
		s.ring()
		pause()
	}
	s.sleepForEver(uint32(n))
}

// aimAsClient fires each shot at a connection of its own, again and again.
func aimAsClient(a *attacker) {
	a.ready()
	var n atomic.Uint64
	a.each(4, func() error {
		c, err := enter(badName)
		if err != nil {
			return err
		}
		defer c.leave()
		c.sleepForEver(0)
		for range 50 {
			k := n.Add(1)
			conn, err := c.connect()
			if err != nil {
				return err
			}
			conn.send(make([]byte, 1+k%5000))
			conn.rx.Read(make([]byte, 1+k%3000))
			conn.fire(shots[k%uint64(len(shots))])
			a.count.Add(1)
			conn.end(true, nowhere)
			if k%16 == 0 {
				c.aimElsewhere(k)
			}
		}
		return nil
	})
}

// aimAsListener is aimAsClient for the other side.
func aimAsListener(a *attacker) {
	var n atomic.Uint64
	a.serve(func(ch rendezvous.Channel) {
		s, err := greeted(ch)
		if err != nil {
			return
		}
		// For a while, so that the victim attaches again and again too.
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); pause() {
			for _, c := range s.requests() {
				k := n.Add(1)
				if k%3 == 0 {
					c.fire(shots[k%uint64(len(shots))]) // before the answer
				}
				c.accept()
				c.send(make([]byte, 1+k%5000))
				c.rx.Read(make([]byte, 1+k%3000))
				c.fire(shots[k%uint64(len(shots))])
				a.count.Add(1)
				c.end(false, nowhere)
				if k%16 == 0 {
					s.aimElsewhere(k)
				}
			}
		}
	})
}

// spoil overwrites memory in one of several ways.
func spoil(mem []byte) {
	part := mem
	if rand.IntN(2) == 0 {
		from := rand.IntN(len(mem))
		part = mem[from : from+rand.IntN(len(mem)-from)]
	}
	switch rand.IntN(5) {
	case 0:
		crand.Read(part)
	case 1:
		clear(part)
	case 2:
		for i := range part {
			part[i] = 0xff
		}
	case 3:
		copy(part, mem[rand.IntN(len(mem)):])
	case 4:
		for range 1000 { // single words
			w := slotWords[rand.IntN(len(slotWords))].in(rand.IntN(16))
			if int(w.at)+8 <= len(mem) {
				w.store(mem, rand.Uint64()>>rand.IntN(64))
			}
		}
	}
}

// headers is the part of a segment with all slots' words.
func (s *side) headers(mem []byte) []byte { return mem[:s.geo.Slots*int(slotHeader.Size())] }

// scribbleAsClient makes connections and then overwrites everything.
func scribbleAsClient(a *attacker) {
	a.ready()
	a.each(2, func() error {
		c, err := enter(badName)
		if err != nil {
			return err
		}
		defer c.leave()
		c.sleepForEver(0)
		for range 8 {
			if _, err := c.connect(); err != nil {
				return err
			}
		}
		for range 20 {
			spoil(c.headers(c.segs[0].Bytes))
			spoil(c.block.Bytes)
			spoil(c.segs[0].Bytes[:1<<20])
			setAll(c.block, 0, c.geo.Slots)
			c.ring()
			a.count.Add(1)
			pause()
		}
		return nil
	})
}

// scribbleAsListener is scribbleAsClient for the other side.
func scribbleAsListener(a *attacker) {
	a.serve(func(ch rendezvous.Channel) {
		s, err := greeted(ch)
		if err != nil {
			return
		}
		for n := 0; n < 40; pause() {
			for _, c := range s.requests() {
				c.accept()
				n++
			}
			if n == 0 {
				continue
			}
			n++
			s.mu.Lock()
			for _, m := range s.segs {
				spoil(s.headers(m.Bytes))
				spoil(s.block.Bytes)
			}
			setAll(s.block, 1, s.geo.Slots)
			s.mu.Unlock()
			s.ring()
			a.count.Add(1)
		}
	})
}
