package hostile

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rendezvous"
	"github.com/stretchr/testify/require"
)

// A siege is a victim with an honest client beside it.
//
// While attackers are at it, each Dial of the honest client must succeed, and each byte must
// be right; no call of the victim's may take long. When the attackers are dead the victim
// must have no more of anything than before. All the time it must neither panic nor hang.
type siege struct {
	t              testing.TB
	victim, honest *process
	before         toll
	dials          bool
}

const (
	// slowest is the longest that a call of the victim's may take that has a deadline of
	// some milliseconds, or none to wait for, on a machine with as much else to do.
	slowest = 3 * time.Second

	// Threads that were needed once stay, and so does some of the memory.
	moreThreads = 64
	moreHeap    = 16 << 20
)

func besiege(t testing.TB, plan victimPlan) *siege {
	t.Helper()
	leakcheck.Check(t)
	useDir(t)
	s := &siege{t: t, dials: plan.Dials > 0}
	s.victim = start(t, "victim", plan)
	s.victim.expect("ready")
	s.before = ask[toll](s.victim, "toll")
	s.honest = start(t, "honest", honestPlan{"ct", goodName})
	s.honest.expect("ready")
	requireWell(t, s.honest, 1)
	return s
}

// storm has the victim dial the hostile listener from now on.
func (s *siege) storm() {
	s.victim.say("storm")
	s.victim.expect("storm")
}

// attack starts an attack, which goes on until the attacker is killed.
func (s *siege) attack(plan attackPlan) *process {
	s.t.Helper()
	a := start(s.t, "attacker", plan)
	a.expect("ready")
	return a
}

// endure has the attack go on for a while, and until the attacker and the honest client have
// each done something since it has begun.
func (s *siege) endure(attackers ...*process) {
	s.t.Helper()
	end := time.Now().Add(while())
	for {
		requireWell(s.t, s.honest, 5)
		s.victim.requireAlive()
		if time.Now().After(end) {
			break
		}
	}
	for _, a := range attackers {
		before := ask[int64](a, "count")
		harness.Eventually(s.t, func() bool { return ask[int64](a, "count") > before })
	}
}

// endAll kills the attackers, and makes sure that all is as it was before.
func (s *siege) endAll(attackers ...*process) {
	s.t.Helper()
	for _, a := range attackers {
		a.kill()
	}
	requireWell(s.t, s.honest, 3)
	s.honest.kill()
	if s.dials {
		s.victim.say("calm")
		s.victim.expect("calm")
	}
	s.requireBack()
	d := ask[deeds](s.victim, "end")
	require.Empty(s.t, d.Wrong)
	for what, took := range d.Longest {
		require.Less(s.t, took, slowest, what)
	}
	s.victim.kill()
}

// requireBack waits until the victim has no more of anything than before.
func (s *siege) requireBack() {
	s.t.Helper()
	var now toll
	for end := time.Now().Add(leakcheck.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if now = ask[toll](s.victim, "toll"); now.within(s.before) {
			return
		}
	}
	s.victim.cmd.Process.Signal(sigquit)
	<-s.victim.ended
	s.t.Fatalf("the attackers are dead, and the victim has more than before\nbefore: %v\nnow:    %v\n%s", s.before, now, s.victim.wrote())
}

func (u toll) within(before toll) bool {
	return u.FDs <= before.FDs && u.Goroutines <= before.Goroutines && u.Mappings <= before.Mappings &&
		u.Conns == 0 && u.Segments == 0 && u.Bytes == 0 && u.Waiting == 0 &&
		u.Threads <= before.Threads+moreThreads && u.Heap <= before.Heap+moreHeap
}

// An attackPlan says what an attacker does.
type attackPlan struct {
	Attack string
	N      int    // of whatever there are many of
	Stop   string // the step at which it does no more
}

// An attacker is the process that attacks.
type attacker struct {
	plan  attackPlan
	count atomic.Int64 // of what the attack does
	seed  uint64
}

// attacks are what an attacker does until it is killed. Each says that it is ready, and
// counts.
var attacks = map[string]func(a *attacker){}

func playAttacker() {
	a := &attacker{plan: args[attackPlan](), seed: rand.Uint64()}
	f := attacks[a.plan.Attack]
	if f == nil {
		panic("no attack " + a.plan.Attack)
	}
	go f(a)
	commands(func(word, _ string) { answer(word, a.count.Load()) })
}

func (a *attacker) ready() { fmt.Println("ready") }

// step is called at each step of something, and does not return from the last one that is
// planned.
func (a *attacker) step(name string) {
	if name == a.plan.Stop {
		fmt.Println("ready")
		select {}
	}
}

// each calls f for ever, in n goroutines. An error only means that the victim defends itself.
func (a *attacker) each(n int, f func() error) {
	for range max(n, 1) {
		go func() {
			for {
				if f() != nil {
					pause()
				}
			}
		}()
	}
}

// serve listens where the victim dials, and calls f for each channel in a goroutine of its
// own.
func (a *attacker) serve(f func(ch rendezvous.Channel)) {
	socket, err := rendezvous.Bind(background, key(evilName), false)
	harness.Check(err)
	a.ready()
	for {
		ch, err := socket.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		go func() {
			defer ch.Close()
			f(ch)
		}()
	}
}
