package differential

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A call is a step under way. What it has in common with its goroutine is to be looked
// at once it has returned.
type call struct {
	step      step
	end       *end // nil if it is not done on a connection
	begun     bool
	done      chan struct{}
	goroutine atomic.Int64
	slept     int64 // what moves said when it was last seen asleep

	result   result
	conn     net.Conn // of Dial and Accept
	data     []byte   // what was read
	progress gauge    // bytes that were read so far, if it reads more than once

	from, size int64         // what is written: from where on, and how much
	source     *source       // that it copies from, if that has to be fed
	stall      chan struct{} // that it waits for, if it copies to a sink that is stalled
	stalledAt  int64
}

func (c *call) returned() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// An end is one end of a connection.
type end struct {
	conn
	peer          *end // nil if it was not accepted
	number        int  // the peer's is one more or less
	sent          int64
	writing       int64 // by calls that have not returned
	got           int64
	returned      int64 // how many calls have
	local, remote net.Addr
}

// A conn is what connections of all networks have in common.
type conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// A gauge counts bytes.
type gauge struct {
	mu      sync.Mutex
	n       int64
	enough  int64
	reached chan struct{} // closed when n is enough; nil if no call waits for that
}

func (g *gauge) add(n int) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n += int64(n)
	g.tell()
	return g.n
}

func (g *gauge) tell() {
	if g.reached != nil && g.n >= g.enough {
		close(g.reached)
		g.reached = nil
	}
}

func (g *gauge) load() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// reach returns a channel that is closed when there are n bytes. It ends the last call.
func (g *gauge) reach(n int64) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	reached := make(chan struct{})
	g.enough, g.reached = n, reached
	g.tell()
	return reached
}

// there returns how many bytes can be read, including bytes on the way.
func (e *end) there() int64 {
	if e.peer == nil {
		return 0
	}
	return e.peer.sent - e.got
}

// An end writes the bytes of a pattern, from a position on that depends on the end. The period is
// a prime, so that bytes from a multiple of a page away are wrong.
const period = 65521

var pattern = func() []byte {
	b := make([]byte, bigBytes+period)
	rand.NewChaCha8([32]byte{}).Read(b[:period])
	for n := period; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}()

// bytesAt returns n of the bytes that the end with a number writes.
func bytesAt(number int, pos int64, n int) []byte {
	return pattern[(int64(number)*7919+pos)%period:][:n]
}

var (
	errNoConn = errors.New("there is no connection")
	errNotFed = errors.New("the source is not read")
)

// begin begins a step. Its call begins when start returns.
func (r *runner) begin(st stage, start func()) error {
	c := r.calls[st.id]
	c.begun = true
	f, err := r.prepare(c, st)
	if err != nil {
		return err
	}
	if f == nil {
		close(c.done)
		return nil
	}
	go func() {
		defer close(c.done)
		c.goroutine.Store(thisGoroutine())
		start()
		f()
	}()
	return nil
}

// thisGoroutine returns the number of the goroutine.
func thisGoroutine() int64 {
	var b [64]byte
	words := strings.Fields(string(b[:runtime.Stack(b[:], false)]))
	n, _ := strconv.ParseInt(words[1], 10, 64)
	return n
}

// prepare returns what a step's goroutine is to do, or nil if there is nothing.
func (r *runner) prepare(c *call, st stage) (func(), error) {
	switch {
	case st.step.who.kind == 'p':
		return nil, nil
	case st.step.verb == "dial":
		return r.dial(c, st), nil
	case st.step.who.kind == 'l':
		return r.listenerCall(c), nil
	}
	if c.end = r.endOf(st.step.who); c.end == nil {
		return nil, errNoConn
	}
	switch st.step.verb {
	case "feed":
		return nil, r.feed(c.end, st.step)
	case "unstall":
		for _, other := range r.calls {
			if other.end == c.end && other.stall != nil {
				close(other.stall)
				other.stall = nil
			}
		}
		return nil, nil
	}
	f := c.write
	switch {
	case isRead(st.step):
		f = c.read
	case !isWrite(st.step):
		f = c.control
	}
	do := f(st)
	return func() {
		n, err := do()
		c.result.n = n
		c.result.err = describe(err, c.end.local, c.end.remote)
	}, nil
}

// endOf returns an end that a step is about, or nil.
func (r *runner) endOf(w who) *end {
	if w.kind == 'd' {
		return r.ends[w.conn][0]
	}
	return r.ends[w.conn][1]
}

func (r *runner) dial(c *call, st stage) func() {
	closed := len(st.done) > 0 && st.done[0].end.closed
	return func() {
		address := r.listener.Addr()
		var err error
		c.conn, err = r.net.dial(st.step.arg, address.String(), r.plan.buffer, closed)
		c.result.err = describe(err, nil, address)
	}
}

func (r *runner) listenerCall(c *call) func() {
	return func() {
		var err error
		switch c.step.verb {
		case "accept":
			if c.conn, err = r.listener.Accept(); err == nil {
				err = r.net.limit(c.conn)
			}
		case "deadline":
			err = r.listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(deadline(c.step.arg))
		case "close":
			err = r.listener.Close()
		}
		c.result.err = describe(err, r.listener.Addr(), nil)
	}
}

func deadline(arg string) time.Time {
	switch arg {
	case "past":
		return time.Now().Add(-time.Second)
	case "soon":
		return time.Now().Add(2 * time.Millisecond)
	case "future":
		return time.Now().Add(time.Hour)
	}
	return time.Time{}
}

// control returns a call that neither reads nor writes.
func (c *call) control(st stage) func() (int64, error) {
	e, arg := c.end, st.step.arg
	return func() (int64, error) {
		switch st.step.verb {
		case "deadline":
			return 0, e.SetDeadline(deadline(arg))
		case "rdeadline":
			return 0, e.SetReadDeadline(deadline(arg))
		case "wdeadline":
			return 0, e.SetWriteDeadline(deadline(arg))
		case "closeread":
			return 0, e.CloseRead()
		case "closewrite":
			return 0, e.CloseWrite()
		case "linger":
			sec, _ := strconv.Atoi(arg)
			return 0, e.conn.(interface{ SetLinger(int) error }).SetLinger(sec)
		}
		return 0, e.Close()
	}
}

// read returns a call that reads.
func (c *call) read(st stage) func() (int64, error) {
	e, n := c.end, st.bytes
	there := e.there()
	switch st.step.verb {
	case "read":
		return func() (int64, error) {
			b := make([]byte, n)
			m, err := e.Read(b)
			c.data = b[:m]
			return int64(m), err
		}
	case "readfull", "drain":
		if st.step.verb == "drain" {
			n = int(max(there, 0))
		}
		return func() (int64, error) {
			b := buffer(n)
			m, err := io.ReadFull(&counted{e, &c.progress}, b)
			c.data = b[:m]
			return int64(m), err
		}
	case "readall":
		return func() (int64, error) {
			for b := make([]byte, 16<<10); ; {
				m, err := e.Read(b)
				c.data = append(c.data, b[:m]...)
				if err != nil {
					return int64(len(c.data)), err
				}
			}
		}
	}
	s := &sink{call: c, number: e.number ^ 1, pos: e.got}
	switch st.step.arg {
	case "fail":
		s.failAt = there
	case "stall":
		c.stall, c.stalledAt = make(chan struct{}), there
		s.stall = c.stall
	}
	return func() (int64, error) { return io.Copy(s, e.conn) }
}

// bigBuffers has used buffers: making one takes longer than filling it.
var bigBuffers sync.Pool

func buffer(n int) []byte {
	if n < bigBytes {
		return make([]byte, n)
	}
	b, ok := bigBuffers.Get().(*[]byte)
	if !ok {
		return make([]byte, bigBytes+roomBytes)[:n]
	}
	return (*b)[:n]
}

// A counted reader counts what was read.
type counted struct {
	io.Reader
	progress *gauge
}

func (r *counted) Read(b []byte) (n int, err error) {
	n, err = r.Reader.Read(b)
	r.progress.add(n)
	return n, err
}

// A sink takes what a call copies, and compares it.
type sink struct {
	call   *call
	number int
	pos    int64
	failAt int64         // the number of bytes at which it fails; 0 is never
	stall  chan struct{} // to wait for
}

func (s *sink) Write(b []byte) (int, error) {
	if !bytes.Equal(b, bytesAt(s.number, s.pos, len(b))) {
		s.call.result.bad = fmt.Sprintf("these are not the bytes at %d", s.pos)
	}
	s.pos += int64(len(b))
	n := s.call.progress.add(len(b))
	if s.stall != nil {
		<-s.stall
	}
	if n == s.failAt {
		return len(b), errSink
	}
	return len(b), nil
}

// write returns a call that writes.
func (c *call) write(st stage) func() (int64, error) {
	e := c.end
	c.from, c.size = e.sent+e.writing, int64(st.bytes)
	b := bytesAt(e.number, c.from, st.bytes)
	if st.step.verb == "write" {
		e.writing += c.size
		return func() (int64, error) {
			n, err := e.Write(b)
			return int64(n), err
		}
	}
	var from io.Reader = bytes.NewReader(b)
	if st.step.arg == "open" {
		c.source = &source{asked: make(chan struct{}, 1), feeds: make(chan fed, 1), quit: make(chan struct{})}
		from = c.source
	}
	e.writing += c.size
	return func() (int64, error) { return io.Copy(e.conn, struct{ io.Reader }{from}) }
}

// A source gives what it is fed.
type source struct {
	asked chan struct{} // when it has nothing more
	feeds chan fed
	quit  chan struct{}
	fed
}

// fed is what a source is fed.
type fed struct {
	bytes []byte
	err   error // once there are no more bytes
}

func (s *source) Read(b []byte) (int, error) {
	if len(s.bytes) == 0 && s.err == nil {
		s.asked <- struct{}{}
		select {
		case s.fed = <-s.feeds:
		case <-s.quit:
			return 0, io.EOF
		}
	}
	n := copy(b, s.bytes)
	s.bytes = s.bytes[n:]
	if n > 0 {
		return n, nil
	}
	return 0, s.err
}

// feed feeds the source that is copied to e.
func (r *runner) feed(e *end, s step) error {
	for _, c := range r.calls {
		if c.end != e || c.source == nil || c.returned() {
			continue
		}
		switch s.arg {
		case "eof":
			c.source.feeds <- fed{err: io.EOF}
		case "err":
			c.source.feeds <- fed{err: errSource}
		default:
			c.source.feeds <- fed{bytes: bytesAt(e.number, e.sent, s.bytes())}
		}
		if !r.untilAsked(c) {
			return errNotFed
		}
		if !c.returned() {
			e.sent += int64(s.bytes())
		}
	}
	return nil
}
