package differential

// apply does a step, but for what it has other calls do. It reports whether the step makes
// sense.
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
		if !end.setDeadline(s) {
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

// setDeadline sets a deadline. One that passes soon must have a call return: nothing else
// tells when it has passed.
func (e *endModel) setDeadline(s step) bool {
	if e.closed {
		return s.arg != "soon"
	}
	for _, half := range []struct {
		verb  string
		past  *bool
		calls []pending
	}{{"rdeadline", &e.readPast, e.reads}, {"wdeadline", &e.writePast, e.writes}} {
		if s.verb != "deadline" && s.verb != half.verb {
			continue
		}
		if s.arg == "soon" && (len(half.calls) == 0 || half.calls[0].opened) {
			return false
		}
		*half.past = s.arg == "past" || s.arg == "soon"
	}
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
		return false // which Accept gets it is not defined
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
