package differential

import "slices"

// A model says which calls of a script block, and until when. Results are not its
// business: these are the kernel's. The sizes of buffers are not either: a step after
// which it would depend on them whether a call blocks makes no sense, and is refused.
type model struct {
	tcp      bool // or else unix
	listener listenerModel
	ends     [maxConns][2]endModel // the dialing one, the accepting one
	done     []completion          // calls that returned in the last step
}

// The bytes that surely fit a buffer, and those that surely don't.
const (
	roomBytes = 3000
	overBytes = bigBytes - 100_000
)

type listenerModel struct {
	closed, past bool
	queue        []int // connections that are to be accepted
	accepts      []int // calls that wait
}

// An endModel is one end of a connection.
type endModel struct {
	there  bool // the program has it
	dialed bool // the connection was made

	closed, readClosed, writeClosed, linger0 bool
	readPast, writePast                      bool // the deadline

	in    int  // bytes to read here, with those that the peer's Write is about to write
	some  bool // and a number of bytes that an interrupted Write has written
	total int  // bytes that ever were to be read here

	fin     bool // the peer has ended the stream to here
	reset   bool // or the connection, with bytes unread or on purpose
	dropped bool // the reset came while bytes were on the way to here
	lost    bool // bytes were written here that the peer, closed, did not want
	told    bool // a Read has said that the stream has ended

	reads, writes []pending
}

// A pending call waits, in the order in which it began.
type pending struct {
	id      int
	step    step
	left    int  // bytes that are still to be read or written
	begun   bool // a Write has begun to write
	moved   bool // a call that reads has read some
	unknown bool // it does not depend on the script alone how many
	opened  bool // a source has more, or a sink is stalled, until a step says otherwise
}

// A completion is the return of a call, and what was true then.
type completion struct {
	id        int
	step      step
	conn      int  // what Accept has accepted
	partial   bool // some of a Write's bytes were written, and not all
	unknown   bool // how many bytes were read depends on that
	broken    bool // a Write that fails has written some of its bytes, or none
	end, peer endModel
}

func (m *model) clone() *model {
	c := *m
	c.listener.queue = slices.Clone(m.listener.queue)
	c.listener.accepts = slices.Clone(m.listener.accepts)
	c.done = nil
	for i := range c.ends {
		for j := range c.ends[i] {
			e := &c.ends[i][j]
			e.reads, e.writes = slices.Clone(e.reads), slices.Clone(e.writes)
		}
	}
	return &c
}

// side returns the end that a step is done on, and its peer.
func (m *model) side(w who) (e, peer *endModel) {
	c := &m.ends[w.conn]
	if w.kind == 'd' {
		return &c[0], &c[1]
	}
	return &c[1], &c[0]
}

// blocked returns the calls that wait.
func (m *model) blocked() (ids []int) {
	ids = append(ids, m.listener.accepts...)
	for i := range m.ends {
		for j := range m.ends[i] {
			for _, p := range append(slices.Clone(m.ends[i][j].reads), m.ends[i][j].writes...) {
				ids = append(ids, p.id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// streams reports whether one of two steps writes very many bytes, which the peer copies
// out as they come, and the other one ends that.
func (m *model) streams(a, b step) bool {
	if isWrite(b) {
		a, b = b, a
	}
	if a.who != b.who || !isWrite(a) || a.bytes() != bigBytes {
		return false
	}
	e, peer := m.side(a.who)
	if !e.there || writeFails(e, peer) || len(e.writes) > 0 || len(peer.reads) != 1 || peer.reads[0].step.verb != "copyout" || peer.reads[0].opened {
		return false
	}
	switch b.verb {
	case "wdeadline":
		return b.arg == "past"
	case "close":
		return e.in == 0 && !e.some && !e.linger0
	}
	return b.verb == "closewrite"
}

// hasProgress reports whether a call that waits has read or written something.
func (m *model) hasProgress(id int) bool {
	for i := range m.ends {
		for j := range m.ends[i] {
			for _, p := range append(slices.Clone(m.ends[i][j].reads), m.ends[i][j].writes...) {
				if p.id == id && (p.moved || p.begun || p.opened) {
					return true
				}
			}
		}
	}
	return false
}

// after returns the model after a step, or nil if the step makes no sense.
func (m *model) after(id int, s step) *model {
	m = m.clone()
	if !m.apply(id, s) {
		return nil
	}
	m.settle()
	if !m.unambiguous() {
		return nil
	}
	return m
}

func (m *model) apply(id int, s step) bool {
	var e, peer endModel
	returned := func() { m.done = append(m.done, completion{id: id, step: s, end: e, peer: peer}) }
	switch s.who.kind {
	case 'p':
		return len(m.blocked()) > 0
	case 'l':
		return m.applyListener(id, s)
	}
	end, other := m.side(s.who)
	if s.verb == "dial" {
		return m.applyDial(id, s)
	}
	if !end.there {
		return false
	}
	e, peer = *end, *other
	switch s.verb {
	case "read", "readfull", "readall", "drain", "copyout":
		return m.read(id, s, end, other)
	case "write", "copyin":
		return m.write(id, s, end, other)
	case "feed":
		return m.feed(s, end, other)
	case "unstall":
		if len(end.reads) == 0 || !end.reads[0].opened {
			return false
		}
		end.reads[0].opened = false
		return true
	case "deadline", "rdeadline", "wdeadline":
		if !end.closed {
			for _, half := range []struct {
				verb  string
				past  *bool
				calls []pending
			}{{"rdeadline", &end.readPast, end.reads}, {"wdeadline", &end.writePast, end.writes}} {
				if s.verb != "deadline" && s.verb != half.verb {
					continue
				}
				if s.arg == "soon" && (len(half.calls) == 0 || half.calls[0].opened) {
					return false // nothing would tell when it has passed
				}
				*half.past = s.arg == "past" || s.arg == "soon"
			}
		} else if s.arg == "soon" {
			return false
		}
	case "closeread":
		if !end.closed {
			if len(other.writes) > 0 || end.some {
				return false // how much can be read then depends on the buffers
			}
			end.readClosed = true
		}
	case "closewrite":
		if !end.closed {
			if m.tcp && end.readClosed && len(other.writes) > 0 {
				return false
			}
			// A Write that is blocked stays so on unix.
			if !m.tcp && len(end.writes) > 0 && !end.writes[0].opened {
				return false
			}
			end.writeClosed = true
			other.fin = true
		}
	case "linger":
		if !m.tcp {
			return false // a unix socket has none
		}
		if !end.closed {
			end.linger0 = s.arg == "0"
		}
	case "close":
		m.close(end, other)
	default:
		return false
	}
	returned()
	return true
}

func (m *model) close(end, other *endModel) {
	if end.closed {
		return
	}
	end.closed = true
	if end.linger0 || end.in > 0 || end.some {
		other.reset = true
		other.dropped = m.tcp && (other.some || len(end.writes) > 0 && !end.writes[0].opened)
	} else {
		other.fin = true
	}
	end.in, end.some = 0, false
}

func (m *model) applyListener(id int, s step) bool {
	l := &m.listener
	switch s.verb {
	case "accept":
		if len(l.accepts) == 2 {
			return false
		}
		l.accepts = append(l.accepts, id)
		return true
	case "deadline":
		if s.arg == "soon" && (l.closed || len(l.accepts) == 0) {
			return false
		}
		if !l.closed {
			l.past = s.arg == "past" || s.arg == "soon"
		}
	case "close":
		l.closed = true
		for _, i := range l.queue {
			d := &m.ends[i][0]
			d.reset = true
			a := &m.ends[i][1]
			a.closed, a.in = true, 0
		}
		l.queue = nil
	}
	m.done = append(m.done, completion{id: id, step: s})
	return true
}

func (m *model) applyDial(id int, s step) bool {
	d, a := &m.ends[s.who.conn][0], &m.ends[s.who.conn][1]
	succeeds := (s.arg == "plain" || s.arg == "future") && !m.listener.closed
	if d.dialed || succeeds && len(m.listener.accepts) == 2 {
		return false // nobody says which Accept gets it
	}
	if succeeds {
		d.there, d.dialed = true, true
		a.dialed = true
		m.listener.queue = append(m.listener.queue, s.who.conn)
	}
	m.done = append(m.done, completion{id: id, step: s, end: endModel{closed: m.listener.closed}})
	return true
}

// readFails reports whether a Read at e fails at once, whatever there is to read.
func readFails(e *endModel) bool { return e.closed || e.readPast }

// read begins a call that reads.
func (m *model) read(id int, s step, e, peer *endModel) bool {
	fails := readFails(e)
	writer := len(peer.writes) > 0 && !peer.writes[0].opened
	if len(e.reads) > 0 && e.reads[0].opened {
		// Reading waits while a sink is stalled, on ctnet. Not if it can't succeed.
		if !fails || s.verb == "copyout" {
			return false
		}
		m.done = append(m.done, completion{id: id, step: s, end: *e, peer: *peer})
		return true
	}
	if len(e.reads) == 2 || len(e.reads) == 1 && e.reads[0].step.verb != "read" {
		return false // what reads several times and another one get in each other's way
	}
	n := s.bytes()
	if s.arg == "rest" {
		n = e.in
	}
	switch s.verb {
	case "read":
		if n > 0 && !fails && (e.some || writer) {
			return false // how much it returns depends on the buffers
		}
	case "readfull":
		if n == 0 || !fails && (e.some || writer && n != e.in && n > e.in-overBytes) {
			return false
		}
	case "drain":
		if fails || !e.some || len(e.reads) > 0 {
			return false
		}
	case "readall":
		ended := e.fin || e.reset || e.readClosed
		if !fails && (!ended || writer) || len(e.reads) > 0 {
			return false
		}
	case "copyout":
		if len(e.reads) > 0 || s.arg != "" && (fails || e.some || writer) {
			return false
		}
		// The sink must get all there is in one piece, or know how much that is.
		if s.arg == "fail" && e.in == 0 || s.arg == "stall" && (e.in == 0 || e.total > roomBytes) {
			return false
		}
	}
	// Until the next one begins the order of two is not known.
	e.reads = append(e.reads, pending{id: id, step: s, left: n})
	return true
}

// writeFails reports whether a Write at e fails at once, or finds the peer closed.
func writeFails(e, peer *endModel) bool {
	return e.closed || e.writePast || e.writeClosed || e.reset || e.lost || peer.closed
}

// write begins a call that writes.
func (m *model) write(id int, s step, e, peer *endModel) bool {
	n := s.bytes()
	if len(e.writes) > 0 && e.writes[0].opened {
		// Writing waits while a source has nothing, on ctnet. Not if it can't succeed.
		if !e.closed && !e.writePast || s.verb == "copyin" {
			return false
		}
		m.done = append(m.done, completion{id: id, step: s, end: *e, peer: *peer})
		return true
	}
	if len(e.writes) == 2 || len(e.writes) > 0 && (n > roomBytes || s.verb == "copyin" && (s.arg == "open" || n == 0)) {
		return false
	}
	if s.arg != "open" && (!writeFails(e, peer) && !m.canTake(n, peer) || m.undecided(e, peer)) {
		return false
	}
	e.writes = append(e.writes, pending{id: id, step: s, left: n, opened: s.arg == "open"})
	return true
}

// undecided reports whether the peer has closed while a sink has what e has written.
func (m *model) undecided(e, peer *endModel) bool {
	return m.tcp && peer.closed && len(peer.reads) > 0 && peer.reads[0].opened && !e.reset
}

// canTake reports whether it is known what becomes of n bytes that are written to e.
func (m *model) canTake(n int, e *endModel) bool {
	if !m.tcp && e.readClosed || n > 0 && (e.some || e.readClosed && (e.writeClosed || e.told)) {
		return false
	}
	if n == 0 {
		return true
	}
	// A Read returns some of many bytes.
	return n <= roomBytes || !e.readClosed && (len(e.reads) == 0 || e.reads[0].step.verb != "read")
}

// feed gives a source more.
func (m *model) feed(s step, e, peer *endModel) bool {
	if len(e.writes) == 0 || !e.writes[0].opened {
		return false
	}
	n := s.bytes()
	if n > 0 && m.undecided(e, peer) {
		return false
	}
	switch {
	case s.arg == "eof" || s.arg == "err":
		m.wrote(e, peer, false)
	case m.tcp && peer.closed && !e.closed && !e.writePast && !e.writeClosed && !e.reset && !e.lost:
		m.lose(e)
	case writeFails(e, peer):
		m.wrote(e, peer, false)
	case !m.canTake(n, peer):
		return false
	default:
		peer.in += n
		peer.total += n
	}
	return true
}

// settle has calls return that can.
func (m *model) settle() {
	for changed := true; changed; {
		changed = m.settleListener()
		for i := range m.ends {
			c := &m.ends[i]
			for j := range c {
				e, peer := &c[j], &c[1-j]
				if len(e.reads) > 0 && !e.reads[0].opened && m.settleRead(e, peer) {
					changed = true
				}
				if len(e.writes) > 0 && !e.writes[0].opened && m.settleWrite(e, peer) {
					changed = true
				}
			}
		}
	}
}

func (m *model) settleListener() bool {
	l := &m.listener
	if len(l.accepts) == 0 || !l.closed && !l.past && len(l.queue) == 0 {
		return false
	}
	c := completion{id: l.accepts[0], step: step{who: who{kind: 'l'}, verb: "accept"}, conn: -1}
	l.accepts = l.accepts[1:]
	if !l.closed && !l.past {
		c.conn = l.queue[0]
		l.queue = l.queue[1:]
		m.ends[c.conn][1].there = true
	}
	m.done = append(m.done, c)
	return true
}

// settleRead moves the first of the calls that read. It reports whether anything changed.
func (m *model) settleRead(e, peer *endModel) bool {
	r := &e.reads[0]
	before := e.in
	there := e.in > 0 || e.some
	ended := e.fin || e.reset || e.readClosed
	returns := readFails(e)
	unknown := e.some && !returns && r.step.verb != "read"
	if !returns {
		switch r.step.verb {
		case "read":
			returns = r.left == 0 || there || ended
			e.in -= min(e.in, r.left)
		case "readfull":
			n := min(e.in, r.left)
			e.in -= n
			r.left -= n
			returns = r.left == 0 || ended
		case "drain", "readall":
			returns = true
			e.in, e.some = 0, false
		case "copyout":
			e.in, e.some = 0, false
			returns = ended || r.step.arg == "fail"
			if r.step.arg == "stall" && !r.begun {
				r.begun, r.opened = true, true
				return true
			}
		}
	}
	if returns {
		switch r.step.verb {
		case "read":
			e.told = e.told || ended && !there
		case "readfull":
			e.told = e.told || ended && r.left > 0
		default:
			e.told = e.told || ended
		}
		m.done = append(m.done, completion{id: r.id, step: r.step, unknown: unknown || r.unknown, end: *e, peer: *peer})
		e.reads = e.reads[1:]
	}
	r.unknown = r.unknown || unknown
	r.moved = r.moved || e.in != before
	return returns || e.in != before
}

// settleWrite moves the first of the calls that write. It reports whether anything
// changed.
func (m *model) settleWrite(e, peer *endModel) bool {
	w := &e.writes[0]
	switch {
	case w.left == 0:
		m.wrote(e, peer, false)
	case writeFails(e, peer):
		// On tcp the first Write after the peer's close succeeds.
		lost := m.tcp && peer.closed && !e.closed && !e.writePast && !e.writeClosed && !e.reset && !e.lost
		if w.begun && !peer.closed {
			peer.in, peer.some = 0, true
		}
		if lost {
			m.lose(e)
		}
		m.wrote(e, peer, w.begun || lost && w.left > roomBytes)
	case !w.begun:
		w.begun = true
		peer.in += w.left
		peer.total += w.left
	case peer.in > roomBytes:
		return false
	default:
		m.wrote(e, peer, false)
	}
	return true
}

// lose notes that bytes were written at e to a peer that has closed.
func (m *model) lose(e *endModel) {
	e.lost = true
	e.dropped = e.dropped || e.some
}

// wrote has the first of the calls that write return.
func (m *model) wrote(e, peer *endModel, partial bool) {
	w := e.writes[0]
	m.done = append(m.done, completion{id: w.id, step: w.step, partial: partial, end: *e, peer: *peer})
	e.writes = e.writes[1:]
}

// unambiguous reports whether it is certain for each Write that it has returned, or
// that it has not.
func (m *model) unambiguous() bool {
	for i := range m.ends {
		for j := range m.ends[i] {
			e, peer := &m.ends[i][j], &m.ends[i][1-j]
			if len(peer.writes) > 0 && peer.writes[0].begun {
				if e.in < overBytes || e.some {
					return false
				}
			} else if e.in > roomBytes {
				return false
			}
		}
	}
	return true
}
