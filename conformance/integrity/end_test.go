package integrity

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

// An end is one end of a connection, and what its goroutines have found.
type end struct {
	plan *plan
	side int
	c    *ctnet.Conn
	x    *exchange

	moved    atomic.Int64 // bytes
	triggers []trigger

	halfClosed, lingered, aborted, closed atomic.Bool

	mu     sync.Mutex
	report report
}

// A trigger starts an event.
type trigger struct {
	event
	fired chan struct{} // closed when it is time
	once  *sync.Once
}

// use does what the plan says with one side of a connection.
func use(p *plan, side int, c *ctnet.Conn, x *exchange) report {
	e := &end{plan: p, side: side, c: c, x: x}
	for _, ev := range p.does[side].events {
		e.triggers = append(e.triggers, trigger{ev, make(chan struct{}), new(sync.Once)})
	}
	var reading, writing, events sync.WaitGroup
	for _, tr := range e.triggers {
		events.Go(func() {
			<-tr.fired
			pause(50)
			e.happen(tr.what)
		})
	}
	e.step(0)
	reading.Go(e.readAll)
	writing.Go(e.writeAll)

	does := &p.does[side]
	writing.Wait()
	if does.hangsUp {
		e.close(false)
	} else {
		e.halfClose()
	}
	e.tell(ended)
	reading.Wait()
	for _, tr := range e.triggers {
		tr.fire() // it was not reached
	}
	events.Wait()
	if does.stays {
		x.wait(p.number, 1-side, closed)
		e.last()
	}
	e.close(true)
	e.tell(closed)
	e.afterClose()
	x.wait(p.number, 1-side, closed)

	e.report.HalfClosed, e.report.Lingered, e.report.Aborted = e.halfClosed.Load(), e.lingered.Load(), e.aborted.Load()
	return e.report
}

func (e *end) tell(what string) { e.x.tell(note{key: key{e.plan.number, e.side, what}}) }

// step counts bytes, and starts the events whose time has come.
func (e *end) step(n int64) {
	for moved, i := e.moved.Add(n), 0; i < len(e.triggers); i++ {
		if moved >= e.triggers[i].after {
			e.triggers[i].fire()
		}
	}
}

func (t *trigger) fire() { t.once.Do(func() { close(t.fired) }) }

func (e *end) happen(what string) {
	var err error
	switch soon := time.Now().Add(time.Duration(rand.IntN(300)) * time.Microsecond); what {
	case "Close":
		e.close(false)
	case "reset":
		if e.c.SetLinger(0) == nil {
			e.lingered.Store(true)
		}
		if e.close(false) {
			e.aborted.Store(true)
		}
	case "CloseWrite":
		e.halfClose()
	case "past deadline":
		err = e.c.SetDeadline(time.Unix(1, 0))
	case "deadline":
		err = []func(time.Time) error{e.c.SetDeadline, e.c.SetReadDeadline, e.c.SetWriteDeadline}[rand.IntN(3)](soon)
	}
	e.must(err == nil || kind(err) == ownClosed, "%s: %v", what, err)
}

// must notes what is wrong.
func (e *end) must(ok bool, format string, args ...any) {
	if ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.report.Wrong) < 5 {
		e.report.Wrong = append(e.report.Wrong, fmt.Sprintf("the %s: ", []string{"client", "server"}[e.side])+fmt.Sprintf(format, args...))
	}
}

// close closes the connection, and reports whether it did. If orderly is set then all was
// written and read, unless an event has come in between.
func (e *end) close(orderly bool) bool {
	err := e.c.Close()
	if err == nil {
		e.closed.Store(true)
		r := &e.report
		r.Orderly = orderly && r.ReadEnd == eof && !e.lingered.Load()
		return true
	}
	e.must(kind(err) == ownClosed && e.closed.Load() || len(e.triggers) > 0, "Close: %v", err)
	return false
}

func (e *end) halfClose() {
	e.halfClosed.Store(true)
	err := e.c.CloseWrite()
	e.must(err == nil || kind(err) == ownClosed, "CloseWrite: %v", err)
}

// kind returns the kind of an error for the rules, or the error.
func kind(err error) string {
	var op *net.OpError
	switch {
	case err == nil:
		return ""
	case err == io.EOF:
		return eof
	case !errors.As(err, &op):
	case errors.Is(err, syscall.ECONNRESET):
		return reset
	case errors.Is(err, syscall.EPIPE):
		return broken
	case errors.Is(err, net.ErrClosed):
		return ownClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return deadline
	}
	return err.Error()
}

// check looks at bytes that were read.
func (e *end) check(b []byte, at int64) {
	n, first := e.plan.pattern(1-e.side).Wrong(b, at)
	if n == 0 {
		return
	}
	want := make([]byte, min(16, len(b)-first))
	got := slices.Clone(b[first:][:len(want)])
	e.plan.pattern(1-e.side).Fill(want, at+int64(first))
	e.must(false, "%d of %d bytes from position %d are wrong, the first at %d: %x, not %x", n, len(b), at, at+int64(first), got, want)
	e.mu.Lock()
	e.report.WrongBytes += int64(n)
	e.mu.Unlock()
}

// readAll reads in all ways until the end of the stream.
func (e *end) readAll() {
	if e.plan.does[e.side].late {
		e.x.wait(e.plan.number, 1-e.side, ended)
	}
	rnd := e.plan.rnd(e.side, 0)
	for {
		op := rnd.IntN(len(readers))
		n, err := readers[op](e, rnd)
		e.report.Reads++
		e.report.Read += n
		e.step(n)
		switch k := kind(err); {
		case k == "" || errors.Is(err, errEnough):
		case k == deadline:
			e.pastDeadline("read")
		case k == eof || k == reset || k == ownClosed:
			e.must(k != ownClosed || e.planned("Close", "reset") || e.plan.does[e.side].hangsUp, "reading in way %d: %v", op, err)
			e.report.ReadEnd = k
			e.afterEnd()
			return
		default:
			e.must(false, "reading in way %d: %v", op, err)
			e.close(false)
			return
		}
	}
}

// pastDeadline clears a deadline that has passed, of which there must have been one.
func (e *end) pastDeadline(op string) {
	e.must(e.planned("deadline", "past deadline"), "%s: a deadline passed, and none was set", op)
	if op == "read" {
		e.c.SetReadDeadline(time.Time{})
	} else {
		e.c.SetWriteDeadline(time.Time{})
	}
}

// afterEnd reads on, which must find nothing but the same end; after io.EOF it may be a
// reset, if this side goes on to write.
func (e *end) afterEnd() {
	b := make([]byte, 100)
	for range 5 {
		before := e.report.ReadEnd
		n, err := e.c.Read(b)
		if kind(err) == deadline {
			e.pastDeadline("read")
			continue
		}
		now := kind(err)
		same := now == before || now == ownClosed || before == eof && now == reset
		e.must(n == 0 && same, "Read said %s, then %d bytes, %v", before, n, err)
		queued := e.c.Buffered()
		e.must(queued == 0, "Read said %s, then %d bytes are buffered", before, queued)
		if now != ownClosed {
			e.report.ReadEnd = now
		}
		pause(10)
	}
}

// last reads when the other side has closed.
func (e *end) last() {
	e.afterEnd()
	e.report.Last = e.report.ReadEnd
	if e.closed.Load() {
		e.report.Last = ""
	}
}

// afterClose checks the calls on a closed connection. It ends the last Peek.
func (e *end) afterClose() {
	b := make([]byte, 1)
	n, err := e.c.Read(b)
	e.must(n == 0 && kind(err) == ownClosed, "Read after Close: %d, %v", n, err)
	n, err = e.c.Write(b)
	e.must(n == 0 && kind(err) == ownClosed, "Write after Close: %d, %v", n, err)
	err = e.c.Close()
	e.must(kind(err) == ownClosed, "Close after Close: %v", err)
}

// writeAll writes all in all ways.
func (e *end) writeAll() {
	rnd := e.plan.rnd(e.side, 1)
	total := e.plan.total[e.side]
	for e.report.Wrote < total {
		op := rnd.IntN(len(writers))
		n, err := writers[op](e, rnd, int(total-e.report.Wrote))
		e.report.Writes++
		e.report.Wrote += n
		e.step(n)
		switch k := kind(err); k {
		case "":
		case deadline:
			e.pastDeadline("write")
		case broken, reset, ownClosed:
			e.must(k != ownClosed || e.planned("Close", "reset"), "writing in way %d: %v", op, err)
			if e.report.WriteEnd = k; k == broken && e.planned("CloseWrite") {
				e.report.WriteEnd = ownEnded
			}
			return
		default:
			e.must(false, "writing in way %d: %v", op, err)
			e.close(false)
			return
		}
		if rnd.IntN(8) == 0 {
			runtime.Gosched()
		}
	}
	e.report.WriteEnd = all
}

// planned reports whether one of these events may have happened.
func (e *end) planned(events ...string) bool {
	return slices.ContainsFunc(e.triggers, func(t trigger) bool { return slices.Contains(events, t.what) })
}
