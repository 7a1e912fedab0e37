package differential

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"golang.org/x/sys/unix"
)

// A runner runs one order of a plan on a network.
type runner struct {
	net      *network
	plan     *plan
	order    order
	together bool // do at the same time what the script says
	patience time.Duration

	listener net.Listener
	ends     [maxConns][2]*end
	calls    []*call
	stacks   []byte
}

// An outcome is the result of a runner.
type outcome struct {
	results []result // of each step
	trouble string   // a call returned too early, or not at all
}

func (r *runner) run() (o outcome) {
	o.trouble = r.runStages()
	r.cleanUp(o.trouble != "")
	for _, c := range r.calls {
		if c.returned() {
			o.results = append(o.results, c.result)
		} else {
			o.results = append(o.results, result{bad: "has not returned"})
		}
	}
	return o
}

func (r *runner) runStages() (trouble string) {
	for _, s := range r.plan.steps {
		r.calls = append(r.calls, &call{step: s, done: make(chan struct{})})
	}
	r.listener = r.net.listener
	if r.plan.ownListener {
		ln, err := r.net.listen(r.net.address())
		if err != nil {
			return "Listen: " + err.Error()
		}
		r.listener = ln
	}
	var blocked []int
	for i := 0; i < len(r.order); {
		n := 1
		if r.together && r.order[i].step.with {
			n = 2
		}
		group := r.order[i : i+n]
		i += n
		if trouble := r.runGroup(group, blocked); trouble != "" {
			return trouble
		}
		blocked = group[n-1].blocked
	}
	return ""
}

// runGroup does a step, or two at the same time. A blocked call must not have returned before.
func (r *runner) runGroup(group []stage, blocked []int) (trouble string) {
	first := group[0].step
	for _, id := range blocked {
		if c := r.calls[id]; c.returned() {
			return fmt.Sprintf("%v has returned before %v: %v", c.step, first, c.result)
		}
	}
	for _, st := range group {
		if st.park && !r.park(blocked) {
			return fmt.Sprintf("calls have not gone to sleep before %v", first)
		}
	}
	start := make(chan struct{})
	for _, st := range group {
		if err := r.begin(st, r.starter(group, st, start)); err != nil {
			return fmt.Sprintf("%v: %v", st.step, err)
		}
	}
	close(start)
	for _, st := range group {
		if c := r.calls[st.id]; c.source != nil && !r.untilAsked(c) {
			return fmt.Sprintf("%v does not read its source", c.step)
		}
		for _, done := range st.done {
			c := r.calls[done.id]
			if !r.await(c.done) {
				return fmt.Sprintf("%v has not returned after %v", c.step, st.step)
			}
			r.finish(c, done)
		}
	}
	for _, st := range group {
		for _, done := range st.done {
			if c := r.calls[done.id]; done.unknown {
				c.result.left = c.end.there()
			}
		}
	}
	return r.keepUp(group[len(group)-1].blocked)
}

// starter returns what a step's goroutine waits for.
func (r *runner) starter(group []stage, st stage, start chan struct{}) func() {
	if len(group) == 1 {
		return func() { <-start }
	}
	if !st.ends {
		return func() {
			<-start
			for range rand.IntN(500) { // less than a microsecond, or nothing
				spun.Load()
			}
		}
	}
	// Until a part of the stream has come.
	writer := r.calls[group[0].id+group[1].id-st.id]
	var came <-chan struct{}
	for _, c := range r.calls {
		if c.end != nil && c.end == r.endOf(st.step.who.peer()) && c.step.verb == "copyout" && !c.returned() {
			came = c.progress.reach(c.progress.load() + rand.Int64N(bigBytes))
		}
	}
	return func() {
		<-start
		select {
		case <-came:
		case <-writer.done:
		}
	}
}

var spun atomic.Int64

// await waits until done is closed, but not for ever.
func (r *runner) await(done <-chan struct{}) bool {
	for range 20 {
		select {
		case <-done:
			return true
		default:
			runtime.Gosched()
		}
	}
	timeout := time.NewTimer(r.patience)
	defer timeout.Stop()
	select {
	case <-done:
		return true
	case <-timeout.C:
		return false
	}
}

// untilAsked waits until a call that copies from a source has asked it for more, or
// returned.
func (r *runner) untilAsked(c *call) bool {
	timeout := time.NewTimer(r.patience)
	defer timeout.Stop()
	select {
	case <-c.source.asked:
		return true
	case <-c.done:
		return true
	case <-timeout.C:
		return false
	}
}

// keepUp waits until calls that go on reading have read all that is there.
func (r *runner) keepUp(blocked []int) (trouble string) {
	for _, id := range blocked {
		c := r.calls[id]
		if c.end == nil || !isRead(c.step) || c.step.verb == "read" {
			continue
		}
		want := c.stalledAt
		if c.stall == nil {
			want = c.end.there()
		}
		if !r.await(c.progress.reach(want)) {
			return fmt.Sprintf("%v has read %d bytes of %d", c.step, c.progress.load(), want)
		}
	}
	return ""
}

// park waits until calls have gone to sleep.
func (r *runner) park(ids []int) bool {
	var awake []*call
	for _, id := range ids {
		if c := r.calls[id]; c.slept != c.moves() {
			awake = append(awake, c)
		}
	}
	if r.stacks == nil {
		r.stacks = make([]byte, 1<<20)
	}
	looks := 0
	for end := time.Now().Add(r.patience); len(awake) > 0; {
		if time.Now().After(end) {
			return false
		}
		// To look costs more than to yield. If it is in vain the runtime has to look for
		// what comes from the kernel, which it does when there is nothing to run.
		if looks++; looks > 3 {
			time.Sleep(100 * time.Microsecond)
		}
		for range 20 {
			runtime.Gosched()
		}
		stacks := r.stacks[:runtime.Stack(r.stacks, true)]
		awake = slices.DeleteFunc(awake, func(c *call) bool {
			if sleeps(stacks, c.goroutine.Load()) && c.filled() {
				c.slept = c.moves()
			}
			return c.returned() || c.slept == c.moves()
		})
	}
	return true
}

// moves is another number when what the call waits for may have come.
func (c *call) moves() int64 {
	n := 1 + c.progress.load()
	if c.end == nil {
		return n
	}
	n += c.end.returned // it may be this one's turn
	if c.end.peer != nil && isWrite(c.step) {
		n += c.end.peer.got
	}
	return n
}

// filled reports whether a call that writes has written as much as it can, if it is
// asleep. It has not if it was woken, and does not run yet, as its peer has read all.
func (c *call) filled() bool {
	if !isWrite(c.step) || c.source != nil || c.end.peer == nil {
		return true
	}
	switch peer := c.end.peer.conn.(type) {
	case *ctnet.Conn:
		return peer.Buffered() > 0
	case syscall.Conn:
		raw, err := peer.SyscallConn()
		if err != nil {
			return true
		}
		n := 1
		raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		return n > 0
	}
	return true
}

// sleeps reports whether a goroutine waits for another step. A wait for a mutex does not count:
// the call and this test count bytes under one. Nor does a wait for a semaphore of the runtime's,
// which an allocation can have; but a wait for a lock of package net's does.
func sleeps(stacks []byte, goroutine int64) bool {
	_, rest, _ := bytes.Cut(stacks, fmt.Appendf(nil, "goroutine %d [", goroutine))
	head, rest, _ := bytes.Cut(rest, []byte("\n"))
	state, _, _ := bytes.Cut(head, []byte("]"))
	state, _, _ = bytes.Cut(state, []byte(","))
	switch string(state) {
	case "IO wait", "chan receive", "select":
		return true
	case "semacquire":
		return bytes.HasPrefix(rest, []byte("internal/poll."))
	}
	return false
}

// finish takes note of a call that has returned.
func (r *runner) finish(c *call, done completion) {
	e := c.end
	if e != nil {
		e.returned++
	}
	switch {
	case c.conn != nil && c.step.verb == "dial":
		r.ends[c.step.who.conn][0] = r.newEnd(c, c.step.who.conn, 0)
	case c.conn != nil && done.conn >= 0:
		r.ends[done.conn][1] = r.newEnd(c, done.conn, 1)
	case e == nil:
	case isWrite(c.step):
		if c.result.n > 0 {
			e.sent = max(e.sent, c.from+c.result.n)
		}
		e.writing -= c.size
	case c.step.verb == "copyout":
		e.got += c.result.n
	case isRead(c.step):
		if !bytes.Equal(c.data, bytesAt(e.number^1, e.got, len(c.data))) {
			c.result.bad = fmt.Sprintf("these are not the bytes at %d", e.got)
		}
		e.got += int64(len(c.data))
		if cap(c.data) >= bigBytes {
			b := c.data[:cap(c.data)]
			bigBuffers.Put(&b)
		}
		c.data = nil
	}
}

// newEnd returns the end that a call has made.
func (r *runner) newEnd(c *call, number, side int) *end {
	e := &end{conn: c.conn.(conn), number: 2*number + side, local: c.conn.LocalAddr(), remote: c.conn.RemoteAddr()}
	if peer := r.ends[number][1-side]; peer != nil {
		e.peer, peer.peer = peer, e
	}
	if !r.net.kernel && !harness.IsCut(c.conn) {
		c.result.bad = "this is the kernel's socket"
	}
	return e
}

// cleanUp closes the connections that a failed script has left open, and the script's listener.
func (r *runner) cleanUp(trouble bool) {
	if r.plan.ownListener && r.listener != nil {
		r.listener.Close()
	}
	if !trouble {
		return
	}
	for _, c := range r.calls {
		if c.source != nil {
			close(c.source.quit)
		}
		if c.stall != nil {
			close(c.stall)
		}
		if c.conn != nil {
			c.conn.Close()
		}
	}
	for _, c := range r.calls {
		if c.begun {
			r.await(c.done)
		}
	}
	if !r.plan.ownListener {
		// A connection may be left in its backlog.
		r.net.listener.Close()
		if ln, err := r.net.listen(r.net.address()); err == nil {
			r.net.listener = ln
		}
	}
}
