package differential

import "slices"

// A model says which calls of a script block, and until when. It does not model results, which
// come from the kernel, nor the sizes of buffers: it refuses a step after which they would decide
// whether a call blocks.
type model struct {
	tcp      bool // or else unix
	listener listenerModel
	ends     [maxConns][2]endModel // the dialing one, the accepting one
	done     []completion          // calls that returned in the last step
}

// Numbers of bytes that always fit a buffer, and that never do.
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
