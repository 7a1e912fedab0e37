// Command ctsoak uses ctnet in all ways at once for a long time, and looks for what goes wrong
// seldom, and for what grows.
//
//	ctsoak -time 30m
//
// Some processes live all the time: they stream to each other, on all networks and with every
// byte checked, dial in storms, read slowly, close by halves, and speak HTTP. One of them is
// stopped and goes on, again and again. Other processes do the same and are killed. Others
// overwrite the memory that they share at random. In the end ctsoak prints what was done, each
// error that should not have been, and how memory, descriptors, goroutines and threads of the
// long-lived processes have changed. It exits with status 1 if there was such an error, or if
// something grows.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if playRole() {
		return
	}
	var o options
	flag.DurationVar(&o.time, "time", time.Minute, "how long")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "of what is random")
	flag.IntVar(&o.steady, "steady", 2, "processes that live all the time and are never stopped")
	flag.IntVar(&o.victims, "victims", 2, "processes at a time that are killed")
	flag.IntVar(&o.hostile, "hostile", 1, "processes at a time that overwrite their shared memory")
	flag.Parse()
	ok, err := soak(o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctsoak:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

type options struct {
	time                     time.Duration
	seed                     uint64
	steady, victims, hostile int
}

// A proc is a process of a soak.
type proc struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	said strings.Builder // on standard error
}

func start(p plan) (*proc, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	pr := &proc{name: p.Name, cmd: exec.Command(exe)}
	pr.cmd.Env = append(os.Environ(), roleEnv+"="+string(env), "CTNET_DIR="+p.Dir)
	pr.cmd.Stderr = &pr.said
	if pr.in, err = pr.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := pr.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	pr.out = bufio.NewScanner(out)
	pr.out.Buffer(nil, 1<<20)
	return pr, pr.cmd.Start()
}

// ask says a line and returns the process's counts.
func (p *proc) ask(line string) (c counts, err error) {
	if _, err = io.WriteString(p.in, line+"\n"); err != nil {
		return c, err
	}
	if !p.out.Scan() {
		return c, fmt.Errorf("%s has ended: %.3000s", p.name, p.said.String())
	}
	return c, json.Unmarshal(p.out.Bytes(), &c)
}

// kill kills the process and reports whether it has died of that.
func (p *proc) kill() bool {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// A soaking is what a soak has done.
type soaking struct {
	options
	base plan

	mu     sync.Mutex
	faults map[string]int
	wrong  []string
	more   int // that were not kept
	stall  time.Duration
}

func (s *soaking) fault(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[kind]++
}

func (s *soaking) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) < 20 {
		s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	} else {
		s.more++
	}
}

func soak(o options, w io.Writer) (ok bool, err error) {
	dir, err := os.MkdirTemp("", "ctsoak-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	rnd := rand.New(rand.NewPCG(o.seed, 0))
	fmt.Fprintf(w, "seed %d, %v\n", o.seed, o.time)
	s := &soaking{options: o, faults: make(map[string]int)}
	s.base = plan{Dir: dir, Net: [2]int{1 + rnd.IntN(250), 1 + rnd.IntN(250)}}
	for i := range o.steady {
		s.base.Steady = append(s.base.Steady, fmt.Sprintf("steady-%d", i))
	}
	s.base.Steady = append(s.base.Steady, napper)
	for i := range o.victims {
		s.base.Victims = append(s.base.Victims, fmt.Sprintf("victim-%d", i))
	}
	var steady []*proc
	defer func() {
		for _, p := range steady {
			p.kill()
		}
	}()
	for i, name := range s.base.Steady {
		p := s.base
		p.Name, p.Index, p.Seed = name, i+1, rnd.Uint64()
		pr, err := start(p)
		if err != nil {
			return false, err
		}
		steady = append(steady, pr)
		if _, err := pr.ask("listen"); err != nil {
			return false, err
		}
	}
	for _, p := range steady {
		if _, err := p.ask("go"); err != nil {
			return false, err
		}
	}
	end := time.Now().Add(o.time)
	over := make(chan struct{})
	var faulting sync.WaitGroup
	for i, name := range s.base.Victims {
		p := s.base
		p.Name, p.Index, p.Victim = name, 100+i, true
		rnd := rand.New(rand.NewPCG(o.seed, 100+uint64(i)))
		faulting.Go(func() { s.killAgain(p, rnd, over) })
	}
	for i := range o.hostile {
		p := s.base
		p.Name, p.Hostile = fmt.Sprintf("hostile-%d", i), true
		rnd := rand.New(rand.NewPCG(o.seed, 200+uint64(i)))
		faulting.Go(func() { s.scribbleAgain(p, rnd, over) })
	}
	nap := rand.New(rand.NewPCG(o.seed, 300))
	napping := steady[len(steady)-1].cmd.Process
	faulting.Go(func() {
		for pause(over, time.Duration(nap.Int64N(int64(3*time.Second)))) {
			napping.Signal(syscall.SIGSTOP)
			s.fault("stop")
			pause(over, time.Duration(nap.Int64N(int64(1500*time.Millisecond))))
			napping.Signal(syscall.SIGCONT)
		}
	})

	every := max(o.time/240, 250*time.Millisecond)
	var all []counts
	samples := make([][]sample, len(steady))
	for now := time.Now(); now.Before(end); now = time.Now() {
		nap := min(every, time.Until(end))
		time.Sleep(nap)
		s.stall = max(s.stall, time.Since(now)-nap)
		all = all[:0]
		for i, p := range steady {
			c, err := p.ask("counts") // the napper answers when it goes on
			if err != nil {
				close(over)
				faulting.Wait()
				return false, err
			}
			all = append(all, c)
			m, err := measure(p.cmd.Process.Pid, c)
			if err != nil {
				return false, err
			}
			m.at = o.time - time.Until(end)
			samples[i] = append(samples[i], m)
		}
	}
	close(over)
	faulting.Wait()
	// All stop to dial first, so that none is at fault if it finds nobody.
	for _, line := range []string{"stop", "end"} {
		all = all[:0]
		for _, p := range steady {
			c, err := p.ask(line)
			if err != nil {
				return false, err
			}
			all = append(all, c)
		}
	}
	for i, c := range all {
		for _, e := range c.Wrong {
			s.fail("%s: %s", steady[i].name, e)
		}
		s.more += c.More
	}
	return s.report(w, all, samples), nil
}

// pause waits for a while, and reports whether the soak goes on.
func pause(over <-chan struct{}, while time.Duration) bool {
	select {
	case <-over:
		return false
	case <-time.After(while):
		return true
	}
}

// killAgain starts victims, one after the other, and kills each.
func (s *soaking) killAgain(p plan, rnd *rand.Rand, over <-chan struct{}) {
	for goOn := true; goOn; {
		p.Seed = rnd.Uint64()
		pr, err := start(p)
		if err != nil {
			s.fail("%v", err)
			return
		}
		if rnd.IntN(4) > 0 { // otherwise it is killed while it starts
			_, err := pr.ask("listen")
			if err == nil {
				_, err = pr.ask("go")
			}
			if err != nil {
				s.fail("%v", err)
			}
		}
		goOn = pause(over, time.Duration(rnd.Int64N(1<<(20+rnd.IntN(12))))) // up to 2 s, mostly less
		if goOn {
			if c, err := pr.ask("counts"); err != nil {
				s.fail("%v", err)
			} else {
				for _, e := range c.Wrong {
					s.fail("%s: %s", pr.name, e)
				}
			}
		}
		if !pr.kill() {
			s.fail("%s has ended by itself: %v: %.3000s", pr.name, pr.cmd.ProcessState, pr.said.String())
		}
		s.fault("kill")
	}
}

// scribbleAgain starts hostile processes, one after the other.
func (s *soaking) scribbleAgain(p plan, rnd *rand.Rand, over <-chan struct{}) {
	for goOn := true; goOn; {
		p.Seed = rnd.Uint64()
		pr, err := start(p)
		if err != nil {
			s.fail("%v", err)
			return
		}
		goOn = pause(over, time.Duration(rnd.Int64N(int64(2*time.Second))))
		pr.kill() // if it has not died of its own doing
		s.fault("hostile process")
	}
}

// A sample is what a process has at a time.
type sample struct {
	at     time.Duration
	values [len(measures)]float64
}

// measures are what is sampled, and how much each may grow from the warm-up's end to the end
// of the soak.
var measures = [...]struct {
	name  string
	allow float64
}{
	{"private KB", 16 << 10},
	{"shared KB", 64 << 10}, // a slot that was used once keeps up to 128 KiB
	{"Pss KB", 64 << 10},
	{"descriptors", 8},
	{"goroutines", 64},
	{"threads", 16}, // those of the busiest moment stay
}

func measure(pid int, c counts) (m sample, err error) {
	fields := func(file string) map[string]float64 {
		b, e := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if e != nil {
			err = e
		}
		m := make(map[string]float64)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 {
				m[f[0]], _ = strconv.ParseFloat(f[1], 64)
			}
		}
		return m
	}
	rollup, status := fields("smaps_rollup"), fields("status")
	fds, e := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if e != nil {
		err = e
	}
	m.values = [...]float64{status["RssAnon:"], status["RssShmem:"], rollup["Pss:"], float64(len(fds)), float64(c.Goroutines), status["Threads:"]}
	return m, err
}

func (s *soaking) report(w io.Writer, all []counts, samples [][]sample) bool {
	ops, bytes := make(map[string]int64), int64(0)
	for _, c := range all {
		for k, n := range c.Ops {
			ops[k] += n
		}
		bytes += c.Bytes
	}
	fmt.Fprintln(w, "operations:")
	total := int64(0)
	for _, k := range sortedKeys(ops) {
		fmt.Fprintf(w, "  %-40s %d\n", k, ops[k])
		total += ops[k]
	}
	fmt.Fprintf(w, "  %-40s %d\n", "all", total)
	fmt.Fprintf(w, "bytes verified: %d\n", bytes)
	fmt.Fprintln(w, "faults injected:")
	for _, k := range sortedKeys(s.faults) {
		fmt.Fprintf(w, "  %-40s %d\n", k, s.faults[k])
	}
	fmt.Fprintf(w, "errors outside the allowed set: %d\n", len(s.wrong)+s.more)
	for _, e := range s.wrong {
		fmt.Fprintf(w, "  %s\n", e)
	}
	// A machine that stands still for seconds explains a Dial that has timed out.
	fmt.Fprintf(w, "the longest that ctsoak itself was held up: %v\n", s.stall)
	grows := false
	fmt.Fprintf(w, "%-12s %-12s %10s %10s %12s %10s %10s\n", "process", "of", "first", "last", "per minute", "in all", "allowed")
	for i, name := range s.base.Steady {
		warm := samples[i][len(samples[i])/4:]
		for j, m := range measures {
			x, y := make([]float64, len(warm)), make([]float64, len(warm))
			for k, v := range warm {
				x[k], y[k] = v.at.Minutes(), v.values[j]
			}
			slope, deviation := leastSquares(x, y)
			window := x[len(x)-1] - x[0]
			note := ""
			// A short soak tells nothing of this; and noise is not growth.
			if s.time >= time.Minute && slope*window > m.allow && slope > 4*deviation {
				note, grows = "  GROWS", true
			}
			fmt.Fprintf(w, "%-12s %-12s %10.0f %10.0f %12.2f %10.1f %10.0f%s\n", name, m.name, y[0], y[len(y)-1], slope, slope*window, m.allow, note)
		}
	}
	return len(s.wrong)+s.more == 0 && !grows && total > 0 && bytes > 0
}

func sortedKeys[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// address is where a process is found.
func (p *plan) address(network, name string, index int, kind string) string {
	switch network {
	case "tcp":
		port := map[string]int{"strict": 7511, "loose": 7512, "http": 7513}[kind]
		return fmt.Sprintf("127.%d.%d.%d:%d", p.Net[0], p.Net[1], index, port)
	case "unix":
		return filepath.Join(p.Dir, name+"-"+kind)
	}
	return "ctsoak-" + name + "-" + kind
}
