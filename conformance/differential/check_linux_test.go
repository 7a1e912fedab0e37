package differential

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// modelWrong begins the text of a difference between the kernel and the model.
const modelWrong = "the kernel does not do as the model says: "

// kernelTries is how often the kernel is asked again if ctnet has another result: what it
// says can depend on how long a segment takes.
const kernelTries = 10

// pairTries is how often a script is run on ctnet in which two steps are done at the same
// time.
const pairTries = 3

// A tally counts what was done.
type tally struct {
	scripts, steps, pairs, runs, again, differences atomic.Int64

	mu   sync.Mutex
	used map[string]int // rules
}

func (t *tally) use(rules map[string]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used == nil {
		t.used = make(map[string]int)
	}
	for name, n := range rules {
		t.used[name] += n
	}
}

// check runs a script on the kernel's network and on ctnet's. It returns a difference,
// or "".
func (b *bench) check(s script, patience time.Duration, t *tally) string {
	p := makePlan(s)
	t.scripts.Add(1)
	t.steps.Add(int64(len(p.steps)))
	if len(p.orders) > 1 {
		t.pairs.Add(1)
	}
	kernels, trouble := b.askKernel(p, patience, t)
	if trouble != "" {
		return trouble
	}
	used := make(map[string]int)
	nets := b.cut[s.network]
	if len(p.orders) > 1 { // it is a matter of luck what they come to
		nets = slices.Repeat(nets, pairTries)
	}
	for _, n := range nets {
		r := runner{net: n, plan: p, order: p.orders[0], together: true, patience: patience}
		cut := r.run()
		t.runs.Add(1)
		if cut.trouble != "" {
			return n.name + ": " + cut.trouble
		}
		clear(used)
		for try := 0; ; try++ {
			difference := p.compare(n, kernels, cut, used)
			if difference == "" {
				break
			}
			if try == kernelTries {
				return n.name + ": " + difference + p.table(kernels, cut)
			}
			t.again.Add(1)
			if kernels, trouble = b.askKernel(p, patience, t); trouble != "" {
				return trouble
			}
		}
		t.use(used)
	}
	return ""
}

// askKernel returns what package net says, for each order of the steps. It is asked again
// if that is not what the model says: between two pieces of an io.Copy another Write can
// come, which is seldom.
func (b *bench) askKernel(p *plan, patience time.Duration, t *tally) (outcomes []outcome, trouble string) {
	for _, o := range p.orders {
		r := runner{net: b.kernel[p.network], plan: p, order: o, patience: patience}
		kernel := r.run()
		t.runs.Add(1)
		for try := 0; kernel.trouble != "" && try < kernelTries; try++ {
			r = runner{net: b.kernel[p.network], plan: p, order: o, patience: patience}
			kernel = r.run()
			t.runs.Add(1)
			t.again.Add(1)
		}
		if kernel.trouble != "" {
			return nil, modelWrong + kernel.trouble
		}
		outcomes = append(outcomes, kernel)
	}
	return outcomes, ""
}

// compare returns how an outcome on one of ctnet's networks differs from the outcomes on the
// kernel's. It returns "" if one of these is the same, or if the difference is allowed. It counts
// the rules that were used.
func (p *plan) compare(n *network, kernels []outcome, cut outcome, used map[string]int) string {
	see := func(i int, c completion) observed {
		return observed{c, p.network == "tcp", n.proto, len(p.orders) > 1, kernels[i].results[c.id], cut.results[c.id]}
	}
	var differences []string
	for i, order := range p.orders {
		difference := ""
		for c := range order.completions() {
			o := see(i, c)
			rule, ok := o.allowed(used)
			if !ok && p.racing[c.id] {
				// One may have seen what the first of two steps did, and another one not.
				for j, other := range p.orders {
					for c := range other.completions() {
						if _, also := see(j, c).allowed(used); also && c.id == o.id {
							ok = true
						}
					}
				}
			}
			if !ok {
				difference = strings.TrimSpace(fmt.Sprintf("step %d, %v: net has %v, ctnet %v %s", c.id, c.step, o.kernel, o.cut, rule))
				break
			}
		}
		if difference == "" {
			return ""
		}
		differences = append(differences, difference)
	}
	return strings.Join(differences, "; or ")
}

// table returns what each step has returned: by package net, in each order, and ctnet.
func (p *plan) table(kernels []outcome, cut outcome) string {
	var b strings.Builder
	for i, s := range p.steps {
		fmt.Fprintf(&b, "\n%3d  %-18v", i, s)
		for _, k := range kernels {
			fmt.Fprintf(&b, " net %v;", k.results[i])
		}
		fmt.Fprintf(&b, " ctnet %v", cut.results[i])
	}
	return b.String()
}
