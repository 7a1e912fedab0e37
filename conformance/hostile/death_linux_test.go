package hostile

import (
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
)

func init() {
	attacks["step by step"] = stepAsClient
	attacks["listener: step by step"] = stepAsListener
}

var (
	clientSteps = []string{"connected", "hello", "welcomed", "add", "added", "said", "asked", "accepted", "transfer", "closed", "fin", "done"}
	serverSteps = []string{"connected", "hello", "welcome", "add", "added", "request", "accepted", "transfer", "closed", "fin", "done"}
)

// TestDeath has attackers stop, and die, at each step of what a client or a listener does.
func TestDeath(t *testing.T) {
	for _, stops := range []bool{true, false} {
		name := map[bool]string{true: "stopped and killed", false: "killed"}[stops]
		t.Run("client "+name, func(t *testing.T) {
			s := besiege(t, victimPlan{})
			var all []*process
			for _, step := range clientSteps {
				a := s.attack(attackPlan{Attack: "step by step", Stop: step})
				if stops {
					a.stop()
				}
				all = append(all, a)
			}
			requireWell(t, s.honest, 5)
			s.endAll(all...)
		})
		t.Run("listener "+name, func(t *testing.T) {
			s := besiege(t, victimPlan{Dials: 6})
			s.storm()
			var last []*process
			for _, step := range serverSteps {
				a := s.attack(attackPlan{Attack: "listener: step by step", Stop: step})
				a.expect("ready") // it has come to the step
				if stops {
					a.stop()
				}
				// Dials that are under way return, and others begin.
				before := ask[deeds](s.victim, "deeds").Count["Dial"]
				harness.Eventually(t, func() bool { return ask[deeds](s.victim, "deeds").Count["Dial"] > before+4 })
				a.kill()
				last = []*process{a}
			}
			s.endAll(last...)
		})
	}
}

// stepAsClient does what a client does, up to one step.
func stepAsClient(a *attacker) {
	c, err := attach(badName, a.step)
	harness.Check(err)
	c.sleepForEver(0)
	harness.Check(c.add(a.step))
	n, err := c.ask(segpool.ConnectNtf, a.step)
	harness.Check(err)
	harness.Check(n.awaitAnswer(10 * time.Second))
	a.step("accepted")
	n.send(make([]byte, 3000))
	a.step("transfer")
	n.end(true, a.step)
	panic("there is no step " + a.plan.Stop)
}

// stepAsListener does what a listener does, for each client up to one step.
func stepAsListener(a *attacker) {
	a.serve(func(ch rendezvous.Channel) {
		s, err := greet(ch, a.step)
		if err != nil {
			return // it asks for a snapshot
		}
		go s.take(a.step)
		s.sleepForEver(0)
		for ; ; pause() {
			for _, c := range s.requests() {
				a.step("request")
				c.accept()
				a.step("accepted")
				c.send(make([]byte, 3000))
				a.step("transfer")
				c.end(false, a.step)
			}
		}
	})
}
