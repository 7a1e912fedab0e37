package hostile

import (
	"net"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	attacks["bells"] = jamBells
	attacks["hold"] = func(a *attacker) { hold(a, false) }
	attacks["hold and flood"] = func(a *attacker) { hold(a, true) }
	attacks["spin"] = spin
	attacks["TCP connects"] = floodTCP
}

// jamBells makes one pair after the other whose doorbell blocks the one who rings it, if
// anything can, has it rung, and goes on to the next pair.
func jamBells(a *attacker) {
	a.ready()
	for a.count.Load() < int64(a.plan.N) {
		c, err := enter(goodName)
		if err != nil {
			pause()
			continue
		}
		if err := jam(c.bellFD); err != nil {
			panic(err)
		}
		for k := range uint32(3) {
			c.sleepForEver(k)
			if n, err := c.ask(segpool.ConnectNtf, nowhere); err == nil {
				n.awaitAnswer(time.Second)
			}
		}
		a.count.Add(1)
		// The bell stays open, and so do the words that say that it must be rung.
		c.ch.Close()
		unix.FcntlInt(uintptr(c.bellFD), unix.F_DUPFD_CLOEXEC, 0)
		c.leave()
	}
	select {}
}

// TestBells has many pairs whose doorbells block. A thread that rings one must not be lost:
// Go ends a program that has too many.
func TestBells(t *testing.T) {
	const threads, bells = 128, 200
	s := besiege(t, victimPlan{Threads: threads})
	a := s.attack(attackPlan{Attack: "bells", N: bells})
	s.await(a, bells)
	requireWell(t, s.honest, 5)
	s.endAll(a)
}

// TestConnects has attackers ask for connections without end. Others are served as well, and
// what is asked for doesn't pile up.
func TestConnects(t *testing.T) {
	s := besiege(t, victimPlan{})
	a := s.attack(attackPlan{Attack: "connects"})
	s.await(a, 2000)
	for end := time.Now().Add(max(while(), time.Second)); time.Now().Before(end); {
		s.requirePrompt(5)
	}
	now := ask[toll](s.victim, "toll")
	require.Less(t, now.Heap, s.before.Heap+64<<20, "before %v, now %v", s.before, now)
	s.endAll(a)
}

// hold has as many connections as planned, whose other ends are read from.
func hold(a *attacker, flood bool) {
	c := a.mustEnter(readName)
	var all []*conn
	for range a.plan.N {
		n, err := c.ask(segpool.ConnectNtf, nowhere)
		harness.Check(err)
		all = append(all, n)
	}
	for _, n := range all {
		harness.Check(n.awaitAnswer(limit))
	}
	a.ready()
	for flood {
		setAll(c.block, 0, segpool.MaxSlots)
		c.ring()
		a.count.Add(1)
	}
}

// soon is how long a Read may take to return once its peer is dead.
const soon = time.Second

// TestDeadAmidFlood has attackers die that have thousands of connections, some of them in the
// middle of what they do, while others go on. Each Read returns as soon as it would on a
// kernel's socket.
func TestDeadAmidFlood(t *testing.T) {
	const each = 1024
	s := besiege(t, victimPlan{})
	dying := []*process{
		s.attack(attackPlan{Attack: "hold", N: each}),
		s.attack(attackPlan{Attack: "hold and flood", N: each}),
		s.attack(attackPlan{Attack: "hold and flood", N: each}),
	}
	living := []*process{s.attack(attackPlan{Attack: "events", N: 32})} // whatever worker serves the others
	harness.Eventually(t, func() bool { return ask[readsEnded](s.victim, "reads").Waiting == len(dying)*each })
	killed := time.Now()
	for _, a := range dying {
		a.cmd.Process.Kill()
	}
	var r readsEnded
	for end := killed.Add(limit / 2); time.Now().Before(end) && r.Ended < len(dying)*each; time.Sleep(10 * time.Millisecond) {
		r = ask[readsEnded](s.victim, "reads")
	}
	require.Equal(t, len(dying)*each, r.Ended, "Reads whose peers are dead wait on")
	t.Logf("the last Read has returned after %v", r.Last.Sub(killed))
	require.Less(t, r.Last.Sub(killed), slowdown*soon)
	require.Equal(t, map[string]int{unix.ECONNRESET.Error(): r.Ended}, r.Errors)
	s.endAll(append(dying, living...)...)
}

// TestLingering has many pass descriptors that nobody can close without waiting. To close
// what was passed must hold up nobody.
func TestLingering(t *testing.T) {
	s := besiege(t, victimPlan{})
	a := s.attack(attackPlan{Attack: "lingering", N: 80})
	s.await(a, 80)
	s.requirePrompt(5)
	s.endAll(a)
}

func init() {
	attacks["lingering"] = func(a *attacker) {
		a.ready()
		for range a.plan.N {
			go func() {
				var linger descriptor
				for _, d := range descriptors() {
					if d.name == "TCP socket that lingers" {
						linger = d
					}
				}
				a.count.Add(1)
				for {
					helloWith(linger, 2)
				}
			}()
		}
	}
}

// spin only takes CPU time.
func spin(a *attacker) {
	a.ready()
	for range 4 {
		go func() {
			for {
				a.count.Add(1)
			}
		}()
	}
}

// floodTCP connects to a listener of the kernel's and goes.
func floodTCP(a *attacker) {
	a.ready()
	a.each(8, func() error {
		c, err := net.Dial("tcp", a.plan.Stop)
		if err != nil {
			return err
		}
		a.count.Add(1)
		c.(*net.TCPConn).SetLinger(0)
		return c.Close()
	})
}

// TestAttacks prints what attacks cost the victim and others, beside a process that only takes
// CPU time, and beside what is like it on the kernel's network. It is left out without
// -hostile.time.
func TestAttacks(t *testing.T) {
	if *goOn == 0 {
		t.Skip("it only measures; run it with -v -timeout 0 -hostile.time=10s")
	}
	for _, m := range []struct {
		name  string
		plans []attackPlan
		kill  int // so many of the attackers die in the middle of it
	}{
		{"a process that only takes CPU time", []attackPlan{{Attack: "spin"}}, 0},
		{"doorbells that block, 12,000 pairs", []attackPlan{{Attack: "bells", N: 12_000}}, 0},
		{"connects without end", []attackPlan{{Attack: "connects"}}, 0},
		{"3,072 connections of which attackers die, others go on", []attackPlan{
			{Attack: "hold", N: 1024}, {Attack: "hold and flood", N: 1024}, {Attack: "hold and flood", N: 1024},
			{Attack: "events", N: 32}}, 3},
		{"66 silent sockets", []attackPlan{{Attack: "silent", N: 66}}, 0},
		{"500 silent sockets", []attackPlan{{Attack: "silent", N: 500}}, 0},
		{"80 descriptors that linger", []attackPlan{{Attack: "lingering", N: 80}}, 0},
	} {
		t.Run(m.name, func(t *testing.T) {
			useDir(t)
			v := start(t, "victim", victimPlan{})
			v.expect("ready")
			h := start(t, "honest", honestPlan{"ct", goodName})
			h.expect("ready")
			measure(t, v, h, m.plans, m.kill)
		})
	}
	t.Run("TCP: a process that only takes CPU time", func(t *testing.T) { measureTCP(t, "spin") })
	t.Run("TCP: connects without end", func(t *testing.T) { measureTCP(t, "TCP connects") })
}

func measureTCP(t *testing.T, attack string) {
	useDir(t)
	v := start(t, "victim", victimPlan{TCP: "127.0.0.1:0"})
	address := v.expect("ready")
	address = address[1 : len(address)-1] // it is quoted
	h := start(t, "honest", honestPlan{"tcp", address})
	h.expect("ready")
	measure(t, v, h, []attackPlan{{Attack: attack, Stop: address}}, 0)
}

// measure prints what honest clients find, and what the victim has, before, during and after
// an attack.
func measure(t *testing.T, v, h *process, plans []attackPlan, kill int) {
	requireWell(t, h, 1)
	last, lastAt := ask[toll](v, "toll"), time.Now()
	look := func(when string) (ok bool) {
		n := ask[tally](h, "tally")
		t.Logf("%s\n\tDials                     %v\n\tDials of new applications %v\n\t64 bytes and back         %v\n\tunder way for %v, %d errors %.3q",
			when, n.Dials, n.Attaches, n.Trips, n.Oldest.Round(time.Millisecond), len(n.Errors), n.Errors[:min(3, len(n.Errors))])
		select {
		case <-v.ended:
			t.Logf("THE VICTIM HAS ENDED: %v\n%.300s", v.cmd.ProcessState, v.wrote())
			return false
		default:
		}
		now := ask[toll](v, "toll")
		t.Logf("the victim: %v; CPUs in use: %.2f", now, (now.CPU-last.CPU).Seconds()/time.Since(lastAt).Seconds())
		last, lastAt = now, time.Now()
		return true
	}
	stay := func() {
		select {
		case <-time.After(*goOn):
		case <-v.ended:
		}
	}
	stay()
	look("BEFORE")
	var all []*process
	for _, p := range plans {
		a := start(t, "attacker", p)
		a.expect("ready")
		all = append(all, a)
	}
	if kill > 0 {
		time.Sleep(*goOn / 2)
		killed := time.Now()
		for _, a := range all[:kill] {
			a.cmd.Process.Kill()
		}
		stay()
		r := ask[readsEnded](v, "reads")
		t.Logf("Reads whose peers are dead, after %v: %d have returned, %d wait; the last one returned after %v", time.Since(killed).Round(time.Millisecond), r.Ended, r.Waiting, r.Last.Sub(killed))
	}
	stay()
	for i, a := range all[kill:] {
		t.Logf("attacker %d: %d rounds", i, ask[int64](a, "count"))
	}
	ok := look("DURING")
	for _, a := range all {
		a.kill()
	}
	if ok {
		stay()
		look("AFTER")
	}
}
