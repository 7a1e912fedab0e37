package differential

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
