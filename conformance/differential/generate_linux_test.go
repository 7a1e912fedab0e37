package differential

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// weights says how often a verb is chosen; 1 where nothing is said.
var weights = map[string]int{"read": 4, "write": 6, "readfull": 3, "copyin": 2, "copyout": 2, "feed": 2, "close": 3, "closewrite": 2, "dial": 4, "accept": 4}

// An alphabet is the steps that there are for one kind, each as often as it is to be
// chosen.
type alphabet []step

var alphabets = func() map[byte]alphabet {
	all := make(map[byte]alphabet)
	for kind, table := range verbs {
		for _, verb := range slices.Sorted(maps.Keys(table)) {
			args := table[verb]
			// Each verb has 12 places, whatever the number of its arguments, times its weight.
			for i := range 12 * max(1, weights[verb]) {
				all[kind] = append(all[kind], step{verb: verb, arg: args[i%len(args)]})
			}
		}
	}
	return all
}()

// randomScript makes a script.
func randomScript(rnd *rand.Rand) script {
	s := script{network: pick(rnd, "tcp", "unix"), buffer: pick(rnd, 4<<10, 512<<10)}
	p := newPlanner(s)
	kinds, conns := "eeeeeeeeeeeep", 1
	if rnd.IntN(5) == 0 {
		kinds, conns = "ddlllleeeeeeeeep", maxConns
		p.ownListener = true
	} else {
		p.connect()
	}
	// What makes no sense is left out, and more often so towards the script's end.
	for range 5 + rnd.IntN(40) {
		a := anyStep(rnd, kinds[rnd.IntN(len(kinds))], conns)
		if p.over(a) && rnd.IntN(6) > 0 {
			continue
		}
		if rnd.IntN(12) > 0 {
			if p.add(a) {
				s.steps = append(s.steps, a)
			}
			continue
		}
		b := anyStep(rnd, kinds[rnd.IntN(len(kinds))], conns)
		if rnd.IntN(2) == 0 && (a.who.kind == 'd' || a.who.kind == 'a') {
			a, b = stream(rnd, a.who)
			if out := (step{who: a.who.peer(), verb: "copyout"}); p.add(out) {
				s.steps = append(s.steps, out)
			}
		}
		a.with = true
		if p.addBoth(a, b) {
			s.steps = append(s.steps, a, b)
		}
	}
	return s
}

// stream returns two steps of which one writes very many bytes and one ends that.
func stream(rnd *rand.Rand, w who) (a, b step) {
	a = step{who: w, verb: pick(rnd, "write", "copyin"), arg: "big"}
	b = pick(rnd, step{verb: "closewrite"}, step{verb: "close"}, step{verb: "wdeadline", arg: "past"})
	b.who = w
	return a, b
}

// anyStep returns a step of a kind.
func anyStep(rnd *rand.Rand, kind byte, conns int) step {
	a := alphabets[kind]
	s := a[rnd.IntN(len(a))]
	s.who = who{kind, 0}
	switch kind {
	case 'e':
		s.who = who{pick[byte](rnd, 'd', 'a'), rnd.IntN(conns)}
	case 'd':
		s.who.conn = rnd.IntN(conns)
	}
	return s
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// shrinkFor is how long a script is made smaller at most.
const shrinkFor = 30 * time.Second

// shrink makes a script smaller that fails, as long as it does.
func (b *bench) shrink(s script, why string) (script, string) {
	end := time.Now().Add(shrinkFor)
	fails := func(s script) bool {
		for range 5 {
			if time.Now().After(end) {
				return false
			}
			d := b.check(s, time.Second, new(tally))
			if d != "" && strings.HasPrefix(d, modelWrong) == strings.HasPrefix(why, modelWrong) {
				why = d
				return true
			}
		}
		return false
	}
	for smaller := true; smaller; {
		smaller = false
		for n := (len(s.steps) + 1) / 2; n > 0; n /= 2 {
			for i := 0; i+n <= len(s.steps); {
				t := s
				t.steps = slices.Delete(slices.Clone(s.steps), i, i+n)
				if fails(t) {
					s, smaller = t, true
				} else {
					i += n
				}
			}
		}
		for i := range s.steps {
			for _, st := range simpler(s.steps[i]) {
				t := s
				t.steps = slices.Clone(s.steps)
				t.steps[i] = st
				if fails(t) {
					s, smaller = t, true
					break
				}
			}
		}
	}
	return s, why
}

// simpler returns steps that are simpler than s.
func simpler(s step) (all []step) {
	if s.with {
		t := s
		t.with = false
		all = append(all, t)
	}
	kind := s.who.kind
	if (kind == 'd' || kind == 'a') && s.verb != "dial" {
		kind = 'e'
	}
	for _, arg := range verbs[kind][s.verb] {
		if arg == s.arg {
			break
		}
		t := s
		t.arg = arg
		all = append(all, t)
	}
	return all
}
