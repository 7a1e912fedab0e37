package differential

import (
	"fmt"
	"slices"
	"strings"
)

// A plan is a script whose steps all make sense, with what must be true after each.
//
// Where two steps are done at the same time the kernel's sockets do them in one order and
// in the other, and ctnet's must come to what one of the two comes to.
type plan struct {
	script
	ownListener bool    // otherwise one that other scripts use too
	orders      []order // one, or two
}

// An order is one in which the steps are done.
type order []stage

// A stage is one step.
type stage struct {
	id      int // the step's index in the script
	step    step
	bytes   int          // that it is about
	park    bool         // first, the calls that wait must have gone to sleep
	done    []completion // the calls that return
	blocked []int        // those that wait afterwards
}

// A planner makes a plan, step by step.
type planner struct {
	plan
	models []*model
}

// newPlanner returns a planner for an empty script.
func newPlanner(s script) *planner {
	s.steps = nil
	return &planner{plan: plan{script: s, orders: make([]order, 1)}, models: []*model{{tcp: s.network == "tcp"}}}
}

// connect adds the steps that make the first connection.
func (p *planner) connect() {
	p.addText("d0 dial plain")
	p.addText("l accept")
}

// makePlan leaves out the script's steps that make no sense, and adds some so that all
// calls return.
func makePlan(s script) *plan {
	p := newPlanner(s)
	p.ownListener = slices.ContainsFunc(s.steps, func(s step) bool { return s.who.kind == 'l' || s.verb == "dial" })
	if !p.ownListener {
		p.connect()
	}
	for i := 0; i < len(s.steps); i++ {
		if st := s.steps[i]; st.with {
			if i+1 < len(s.steps) && p.addBoth(st, s.steps[i+1]) {
				i++
				continue
			}
			st.with = false
			p.add(st)
			continue
		}
		p.add(s.steps[i])
	}
	p.finish()
	return &p.plan
}

// add adds a step, if it makes sense. It reports whether it does.
func (p *planner) add(s step) bool {
	var next []*model
	id := len(p.steps)
	for _, m := range p.models {
		n := m.after(id, s)
		if n == nil {
			return false
		}
		next = append(next, n)
	}
	if !agree(next) {
		return false
	}
	for i := range p.orders {
		p.orders[i] = append(p.orders[i], makeStage(id, s, p.models[i], next[i]))
	}
	p.steps = append(p.steps, s)
	p.models = next
	return true
}

// agree reports whether the same calls have returned in each order, and the same wait.
func agree(models []*model) bool {
	ids := func(m *model) (ids []int) {
		for _, c := range m.done {
			ids = append(ids, c.id)
		}
		return ids
	}
	for _, m := range models[1:] {
		if !slices.Equal(ids(m), ids(models[0])) || !slices.Equal(m.blocked(), models[0].blocked()) {
			return false
		}
	}
	return true
}

func makeStage(id int, s step, before, after *model) stage {
	n := s.bytes()
	if s.arg == "rest" {
		e, _ := before.side(s.who)
		n = e.in
	}
	return stage{id: id, step: s, bytes: n, park: mustPark(before, s), done: after.done, blocked: after.blocked()}
}

// mustPark reports whether it matters that the calls that wait have gone to sleep before
// a step: it must not overtake one of its own kind, and a Write must have filled the
// buffers.
func mustPark(m *model, s step) bool {
	if s.verb == "park" || s.verb == "accept" && len(m.listener.accepts) > 0 {
		return true
	}
	for i := range m.ends {
		for j := range m.ends[i] {
			if w := m.ends[i][j].writes; len(w) > 0 && w[0].begun {
				return true
			}
		}
	}
	if s.who.kind != 'd' && s.who.kind != 'a' {
		return false
	}
	e, _ := m.side(s.who)
	return len(e.reads) > 0 && isRead(s) || len(e.writes) > 0 && isWrite(s)
}

func isRead(s step) bool {
	switch s.verb {
	case "read", "readfull", "readall", "drain", "copyout":
		return true
	}
	return false
}

func isWrite(s step) bool { return s.verb == "write" || s.verb == "copyin" }

// addBoth adds two steps that are done at the same time, if that makes sense: then the
// same calls must wait afterwards in whichever order they are done, and it must be clear
// which bytes are whose.
func (p *planner) addBoth(a, b step) bool {
	if len(p.orders) > 1 || a.who == b.who && (isRead(a) && isRead(b) || isWrite(a) && isWrite(b)) {
		return false
	}
	for _, s := range []step{a, b} {
		switch {
		case s.verb == "park", s.verb == "feed", s.verb == "unstall", s.verb == "dial", s.arg == "soon",
			s.arg == "open", s.arg == "stall", s.arg == "fail", s.bytes() > roomBytes:
			return false
		}
	}
	b.with = false
	m, id := p.models[0], len(p.steps)
	var next []*model
	var orders []order
	for _, o := range [][2]int{{0, 1}, {1, 0}} {
		ab := []step{a, b}
		first := m.after(id+o[0], ab[o[0]])
		if first == nil {
			return false
		}
		second := first.after(id+o[1], ab[o[1]])
		if second == nil {
			return false
		}
		one := makeStage(id+o[0], ab[o[0]], m, first)
		two := makeStage(id+o[1], ab[o[1]], first, second)
		one.step.with, two.step.with = true, false
		orders = append(orders, append(slices.Clone(p.orders[0]), one, two))
		next = append(next, second)
	}
	if !slices.Equal(next[0].blocked(), next[1].blocked()) {
		return false
	}
	p.steps = append(p.steps, a, b)
	p.orders, p.models = orders, next
	return true
}

// finish adds steps after which all calls have returned, and which look at what is left.
func (p *planner) finish() {
	if p.ownListener {
		p.addText("l close")
	}
	for i := range maxConns {
		for _, last := range []string{
			"unstall", "feed eof", "deadline none", "readfull rest", "drain", "closewrite",
			"readall", "write 1", "readall", "close", "unstall", "feed eof",
		} {
			p.addText(fmt.Sprintf("d%d %s", i, last))
			p.addText(fmt.Sprintf("a%d %s", i, last))
		}
	}
	if waiting := p.models[0].blocked(); len(waiting) > 0 {
		panic(fmt.Sprintf("calls %v of this script never return:\n%v", waiting, p.script))
	}
}

func (p *planner) addText(text string) {
	s, ok := parseStep(strings.Fields(text))
	if !ok {
		panic("not a step: " + text)
	}
	p.add(s)
}
