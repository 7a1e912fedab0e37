package main

import (
	"cmp"
	"slices"
	"strings"

	"cutthrough.example/ctnet"
)

const stateListen = "LISTEN"

// A row is a listener or an end of a connection.
type row struct {
	network       string
	kernel        bool // it is the kernel's
	state         string
	recvQ, sendQ  int
	local, remote string
	pid           int
	program       string

	app  *ctnet.Snapshot
	conn *ctnet.ConnInfo // nil for listeners, and for what is the kernel's
	pair *ctnet.PairInfo // of conn; nil if the application does not tell
}

// rows returns the rows that the options select, in the order in which they are shown.
func (h *host) rows(o *options) (rows []row) {
	add := func(r row) {
		if o.shows(&r) {
			rows = append(rows, r)
		}
	}
	byPID := make(map[int]*ctnet.Snapshot)
	for i := range h.apps {
		a := &h.apps[i]
		byPID[a.PID] = a
		for _, l := range a.Listeners {
			add(row{network: l.Network, state: stateListen, recvQ: l.Waiting, sendQ: l.Backlog, local: l.Address, remote: "*",
				pid: a.PID, program: a.Program, app: a})
		}
		pairs := make(map[string]*ctnet.PairInfo, len(a.Pairs))
		for j := range a.Pairs {
			pairs[a.Pairs[j].ID] = &a.Pairs[j]
		}
		for j := range a.Connections {
			c := &a.Connections[j]
			add(connRow(a, c, pairs[c.Pair]))
		}
	}
	for _, k := range h.kernel {
		a := byPID[k.PID]
		if a == nil {
			continue
		}
		add(k.row(a))
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(
			cmp.Compare(order(a.state), order(b.state)),
			strings.Compare(a.network, b.network),
			strings.Compare(a.local, b.local),
			strings.Compare(a.remote, b.remote),
			cmp.Compare(a.pid, b.pid),
		)
	})
	return rows
}

// connRow returns the row of an end of a connection of a pair, which may be nil.
func connRow(a *ctnet.Snapshot, c *ctnet.ConnInfo, p *ctnet.PairInfo) row {
	return row{network: c.Network, state: c.State, recvQ: c.RecvQueue, sendQ: c.SendQueue, local: c.Local, remote: c.Remote,
		pid: a.PID, program: a.Program, app: a, conn: c, pair: p}
}

// pairOf returns the pair of a connection, or nil.
func pairOf(a *ctnet.Snapshot, c *ctnet.ConnInfo) *ctnet.PairInfo {
	for i := range a.Pairs {
		if p := &a.Pairs[i]; p.ID == c.Pair {
			return p
		}
	}
	return nil
}

// row returns the row of a socket of the kernel's, of a process with application a.
func (k *kernelConn) row(a *ctnet.Snapshot) row {
	r := row{network: k.Network, kernel: true, state: k.State, recvQ: k.RecvQueue, sendQ: k.SendQueue,
		local: k.Local, remote: k.Remote, pid: k.PID, app: a}
	if a != nil {
		r.program = a.Program
	}
	return r
}

// order has listeners come first.
func order(state string) int {
	if state == stateListen {
		return 0
	}
	return 1
}

// netid returns what ss calls so: the network, with a mark for what is the kernel's.
func (r *row) netid() string {
	if r.kernel {
		return r.network + "/k"
	}
	return r.network
}

// clean returns a text of another process as it can be shown in a terminal.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\ufffd' || r >= 0x200b && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}
