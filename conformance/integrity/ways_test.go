package integrity

import (
	"errors"
	"io"
	"math/rand/v2"
	"runtime"

	"cutthrough.example/internal/pattern"
)

// readers are the ways to read. Each returns how many bytes it has read.
var readers = []func(e *end, rnd *rand.Rand) (int64, error){
	func(e *end, rnd *rand.Rand) (int64, error) { return e.read(upTo(rnd, 64<<10)) },
	func(e *end, rnd *rand.Rand) (int64, error) { return e.read(e.plan.fifo[1-e.side]) },
	// As many as Buffered says there are. No other goroutine reads, so they are there.
	func(e *end, rnd *rand.Rand) (int64, error) {
		n := e.c.Buffered()
		e.must(n <= e.plan.fifo[1-e.side], "%d bytes are buffered", n)
		got, err := e.read(max(n, 1))
		e.must(n == 0 || got > 0 || kind(err) == deadline || kind(err) == ownClosed, "%d bytes were buffered, Read: %d, %v", n, got, err)
		return got, err
	},
	// Not more than half of the fifo: a Reserve may be waiting for the other half.
	func(e *end, rnd *rand.Rand) (int64, error) {
		view, err := e.c.Peek(upTo(rnd, e.plan.fifo[1-e.side]/2))
		for range 1 + rnd.IntN(2) {
			e.check(view, e.report.Read)
			runtime.Gosched()
		}
		if len(view) == 0 {
			return 0, err
		}
		n, err := e.c.Discard(rnd.IntN(len(view) + 1))
		return int64(n), err
	},
	func(e *end, rnd *rand.Rand) (int64, error) {
		n, err := e.c.Discard(upTo(rnd, 2*e.plan.fifo[1-e.side]))
		return int64(n), err
	},
	func(e *end, rnd *rand.Rand) (int64, error) {
		n, err := e.c.WriteTo(e.sink(rnd))
		return n, whole(err)
	},
	func(e *end, rnd *rand.Rand) (int64, error) {
		n, err := io.Copy(e.sink(rnd), e.c)
		return n, whole(err)
	},
}

// whole returns io.EOF for the nil of a copy up to the end of the stream.
func whole(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

func (e *end) read(n int) (int64, error) {
	b := make([]byte, n)
	n, err := e.c.Read(b)
	e.must(n > 0 || err != nil, "Read of %d bytes: 0, nil", len(b))
	e.must(n == 0 || err == nil, "Read of %d bytes: %d, %v", len(b), n, err)
	e.check(b[:n], e.report.Read)
	return int64(n), err
}

// A sink accepts and checks a number of bytes, and then fails.
type sink struct {
	e    *end
	at   int64
	left int
	rnd  *rand.Rand
}

var errEnough = errors.New("enough")

func (e *end) sink(rnd *rand.Rand) *sink {
	return &sink{e, e.report.Read, upTo(rnd, 4*e.plan.fifo[1-e.side]), rnd}
}

func (s *sink) Write(b []byte) (n int, err error) {
	if n = min(len(b), s.left); s.rnd.IntN(4) == 0 {
		runtime.Gosched()
	}
	s.e.check(b[:n], s.at)
	s.at += int64(n)
	if s.left -= n; s.left == 0 {
		return n, errEnough
	}
	return n, nil
}

// writers are the ways to write some bytes, up to most. Each returns how many it wrote.
var writers = []func(e *end, rnd *rand.Rand, most int) (int64, error){
	func(e *end, rnd *rand.Rand, most int) (int64, error) {
		b := make([]byte, min(most, upTo(rnd, 4*e.plan.fifo[e.side])))
		e.plan.pattern(e.side).Fill(b, e.report.Wrote)
		n, err := e.c.Write(b)
		e.must((n == len(b)) == (err == nil), "Write of %d bytes: %d, %v", len(b), n, err)
		return int64(n), err
	},
	func(e *end, rnd *rand.Rand, most int) (int64, error) { return e.c.ReadFrom(e.source(rnd, most)) },
	func(e *end, rnd *rand.Rand, most int) (int64, error) { return io.Copy(e.c, e.source(rnd, most)) },
	func(e *end, rnd *rand.Rand, most int) (int64, error) { return e.reserve(rnd, most, 0) },
	func(e *end, rnd *rand.Rand, most int) (int64, error) {
		return e.reserve(rnd, most, upTo(rnd, e.plan.fifo[e.side]/4))
	},
}

// reserve writes by Reserve and Commit. A quarter of the fifo is always to be had in the
// end, as the other side waits for no more than a half.
func (e *end) reserve(rnd *rand.Rand, most, want int) (int64, error) {
	room, err := e.c.Reserve(want)
	if err != nil {
		return 0, err
	}
	e.must(len(room) >= max(want, 1), "Reserve(%d) has %d", want, len(room))
	n := min(most, rnd.IntN(len(room)+1))
	e.plan.pattern(e.side).Fill(room[:n], e.report.Wrote)
	if rnd.IntN(4) == 0 {
		runtime.Gosched()
	}
	if err := e.c.Commit(n); err != nil {
		return 0, err
	}
	return int64(n), nil
}

// A source has a number of bytes.
type source struct {
	pattern pattern.Pattern
	at      int64
	left    int
	rnd     *rand.Rand
}

func (e *end) source(rnd *rand.Rand, most int) *source {
	return &source{e.plan.pattern(e.side), e.report.Wrote, min(most, upTo(rnd, 4*e.plan.fifo[e.side])), rnd}
}

func (s *source) Read(b []byte) (n int, err error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if n = min(len(b), s.left); s.rnd.IntN(4) == 0 {
		runtime.Gosched()
		n = upTo(s.rnd, n)
	}
	s.pattern.Fill(b[:n], s.at)
	s.at += int64(n)
	s.left -= n
	return n, nil
}
