package differential

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// A plan is a script whose steps all make sense, with what must be true after each.
//
// Where two steps are done at the same time, the kernel's sockets do them in both orders, and the
// outcome on ctnet's must be one of these two.
type plan struct {
	script
	ownListener bool    // otherwise one that other scripts use too
	orders      []order // one, or several if two steps are done at the same time
	// The calls that waited before the two steps, and return with them.
	racing map[int]bool
}

// An order is one in which the steps are done.
type order []stage

// completions returns the returns of all calls.
func (o order) completions() iter.Seq[completion] {
	return func(yield func(completion) bool) {
		for _, st := range o {
			for _, c := range st.done {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// A stage is one step.
type stage struct {
	id      int // the step's index in the script
	step    step
	bytes   int          // that it is about
	park    bool         // first, the calls that wait must have gone to sleep
	ends    bool         // it ends a stream: see model.streams
	done    []completion // the calls that return
	blocked []int        // the calls that wait afterwards
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
	var stages []stage
	for i := range p.orders {
		stages = append(stages, makeStage(id, s, p.models[i], next[i]))
		if stages[i].bytes != stages[0].bytes {
			return false
		}
	}
	for i := range p.orders {
		p.orders[i] = append(p.orders[i], stages[i])
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

// over reports whether a step is about an end that is closed.
func (p *planner) over(s step) bool {
	if s.who.kind != 'd' && s.who.kind != 'a' {
		return false
	}
	e, _ := p.models[0].side(s.who)
	return e.closed
}

func isRead(s step) bool {
	switch s.verb {
	case "read", "readfull", "readall", "drain", "copyout":
		return true
	}
	return false
}

func isWrite(s step) bool { return s.verb == "write" || s.verb == "copyin" }

// readsOn reports whether a step may read several times.
func readsOn(s step) bool { return isRead(s) && s.verb != "read" }

// addBoth adds two steps that are done at the same time, if that makes sense: then the
// same calls must wait afterwards in whichever order they are done, and it must be clear
// which bytes are whose.
func (p *planner) addBoth(a, b step) bool {
	if len(p.orders) > 1 || a.verb == "accept" && b.verb == "accept" || a.who == b.who && (isRead(a) && isRead(b) || isWrite(a) && isWrite(b)) {
		return false
	}
	if a.who == b.who && (a.verb == "close" && readsOn(b) || b.verb == "close" && readsOn(a)) {
		return false // between two of its Reads, or not
	}
	stream := p.models[0].streams(a, b)
	for _, s := range []step{a, b} {
		switch {
		case s.verb == "park", s.verb == "feed", s.verb == "unstall", s.verb == "dial", s.arg == "soon",
			s.arg == "open", s.arg == "stall", s.arg == "fail", s.bytes() > roomBytes && !stream:
			return false
		}
	}
	b.with = false
	before, id := p.models[0], len(p.steps)
	first := p.orders[0]
	one, two := stage{id: id, step: a}, stage{id: id + 1, step: b}
	park := mustPark(before, a) || mustPark(before, b)
	var orders []order
	var models []*model
	try := func(steps ...stage) bool {
		o, m := p.simulate(steps)
		if o == nil || len(models) > 0 && !slices.Equal(m.blocked(), models[0].blocked()) {
			return false
		}
		for i := range o {
			if o[i].step.with {
				o[i].park = park
			}
		}
		orders, models = append(orders, o), append(models, m)
		return true
	}
	if !try(append(slices.Clip(first), one, two)...) || !try(append(slices.Clip(first), two, one)...) {
		return false
	}
	if stream {
		// Any number of bytes may be written before the other step.
		for i := range orders {
			streamed(orders[i][len(first):], models[i], a.who)
		}
	}
	// Calls that wait, and return with the two steps, may see what the first has done, or
	// wake too late. Then it is as if they began afterwards.
	p.racing = make(map[int]bool)
	var rest, late []stage
	for _, st := range first {
		if slices.Contains(before.blocked(), st.id) && !slices.Contains(models[0].blocked(), st.id) {
			if before.hasProgress(st.id) && !stream {
				return false
			}
			p.racing[st.id] = true
			late = append(late, st)
		} else {
			rest = append(rest, st)
		}
	}
	if len(late) > 0 && !stream && (!try(slices.Concat(rest, []stage{one, two}, late)...) || !try(slices.Concat(rest, []stage{two, one}, late)...)) {
		return false
	}
	p.steps = append(p.steps, a, b)
	p.orders, p.models = orders, models
	return true
}

// streamed notes that it is not known how many bytes an end has written in some stages,
// nor how many its peer reads.
func streamed(stages []stage, m *model, writer who) {
	for i := range stages {
		stages[i].ends = !isWrite(stages[i].step)
		for j := range stages[i].done {
			c := &stages[i].done[j]
			c.broken = isWrite(c.step)
			c.unknown = c.unknown || isRead(c.step) && c.step.who != writer
		}
	}
	_, peer := m.side(writer)
	for i := range peer.reads {
		peer.reads[i].unknown = true
	}
}

// simulate does steps in an order. It returns nil if one of them makes no sense.
func (p *planner) simulate(steps []stage) (o order, m *model) {
	m = &model{tcp: p.network == "tcp"}
	for _, st := range steps {
		next := m.after(st.id, st.step)
		if next == nil {
			return nil, nil
		}
		o = append(o, makeStage(st.id, st.step, m, next))
		m = next
	}
	return o, m
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
