package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

const (
	// eventsTime is how long --events asks at most.
	eventsTime = 10 * time.Second

	// maxHistories is of how many connections it asks at most.
	maxHistories = 32
)

// An end is an end of a connection, with its events.
type end struct {
	App     string
	PID     int
	Program string
	ctnet.EndEvents
}

// A history is what happened at one end of a connection, or at both.
type history struct {
	ends []end
	rows []row // one for each end
}

// histories asks for the events of the connections that the filter selects, at both ends where that can be
// done.
func histories(ctx context.Context, o *options, h host) (all []history, err error) {
	ctx, cancel := context.WithTimeout(ctx, eventsTime)
	defer cancel()
	asked := make(map[string]bool)
	for _, r := range h.rows(o) {
		if r.conn == nil || asked[r.key()] {
			continue
		}
		if len(all) == maxHistories {
			return all, errors.Join(err, fmt.Errorf("the filter selects more than %d connections; the others are left out", maxHistories))
		}
		var one history
		for _, r := range append([]row{r}, h.others(&r)...) {
			asked[r.key()] = true
			err = errors.Join(err, one.ask(ctx, r))
		}
		if len(one.ends) > 0 {
			all = append(all, one)
		}
	}
	if len(all) == 0 && err == nil {
		err = errors.New("no connection is as the filter says")
	}
	return all, err
}

// key identifies a connection in its application.
func (r *row) key() string { return r.app.App + " " + r.conn.ID }

// ask adds what the application of a row says of its connection. Two ends of one connection in one
// application have one ID.
func (one *history) ask(ctx context.Context, r row) error {
	ends, err := r.app.Events(ctx, r.conn.ID)
	if errors.Is(err, syscall.ESRCH) {
		return nil // it has ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", r.pid, err)
	}
	for i := range ends {
		one.ends = append(one.ends, end{r.app.App, r.pid, r.program, ends[i]})
		one.rows = append(one.rows, connRow(r.app, &ends[i].ConnInfo, r.pair))
	}
	return nil
}

// others returns the row of the other end of a connection, if it is in another application that was
// found: it is in the same slot of the pair, and has the addresses the other way round.
func (h *host) others(r *row) []row {
	p := r.pair
	if p == nil || p.Role == ctnet.RoleInside {
		return nil
	}
	for i := range h.apps {
		a := &h.apps[i]
		if a.App != p.PeerApp || a.App == r.app.App {
			continue
		}
		for j := range a.Connections {
			c := &a.Connections[j]
			if c.Network == r.network && c.Local == r.remote && c.Remote == r.local && place(c.ID) == place(r.conn.ID) {
				if p := pairOf(a, c); p != nil && p.PeerApp == r.app.App {
					return []row{connRow(a, c, p)}
				}
			}
		}
	}
	return nil
}

// place returns what both ends say of a connection in its ID: segment, slot and use, but not the number
// of the pair.
func place(id string) string {
	_, place, _ := strings.Cut(id, ".")
	return place
}

// writeEvents prints the ends of each connection, and what happened there in the order of time.
func writeEvents(out io.Writer, o *options, width int, all []history, now time.Time) {
	for i, one := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		sessions(o, one.rows, nil).write(out, width)
		fmt.Fprintln(out)
		one.table(now).write(out, width)
	}
}

// table returns the table of events.
func (one *history) table(now time.Time) *table {
	type located struct {
		where string
		ctnet.Event
	}
	var events []located
	for i := range one.ends {
		for _, v := range one.ends[i].Events {
			events = append(events, located{one.where(i), v})
		}
	}
	slices.SortStableFunc(events, func(a, b located) int { return a.At.Compare(b.At) })
	t := &table{right: []bool{true, true, true, true, false, false}, wide: []bool{true, true, true, true, true, true}}
	t.lines = append(t.lines, line{cells: []string{"Ago", "For", "Wakes", "Polls", "End", "Event"}})
	for _, v := range events {
		cells := []string{brief(max(0, now.Sub(v.At))), "-", "-", "-", v.where, eventText(v.Event)}
		if isStall(v.Event) {
			cells[1], cells[2], cells[3] = brief(max(0, v.For)), strconv.Itoa(v.Wakes), strconv.Itoa(v.Polls)
		}
		t.lines = append(t.lines, line{cells: cells})
	}
	return t
}

// where names an end: by its process, or by its address if both are in one process.
func (one *history) where(i int) string {
	e := &one.ends[i]
	for j := range one.ends {
		if j != i && one.ends[j].PID == e.PID {
			return clean(e.Local)
		}
	}
	return clean(fmt.Sprintf("%s/%d", e.Program, e.PID))
}

func isStall(v ctnet.Event) bool {
	return v.Kind == ctnet.EventStallData || v.Kind == ctnet.EventStallSpace
}

// eventTexts are the kinds of events in words.
var eventTexts = map[ctnet.EventKind]string{
	ctnet.EventDialed: "dialed", ctnet.EventAccepted: "accepted", ctnet.EventStallData: "for data", ctnet.EventStallSpace: "for space",
	ctnet.EventReadClosed: "closed for reading", ctnet.EventWriteClosed: "closed for writing", ctnet.EventClosed: "closed",
	ctnet.EventFinSent: "sent fin", ctnet.EventResetSent: "sent reset", ctnet.EventFinSeen: "saw the peer's fin",
	ctnet.EventResetSeen: "saw the peer's reset", ctnet.EventSevered: "reset from outside",
	ctnet.EventPeerBroke: "the peer broke the protocol", ctnet.EventPeerGone: "the peer's process is gone",
}

// stallTexts are how stalls end, in words.
var stallTexts = map[ctnet.StallEnd]string{
	ctnet.StallCame: ", which came", ctnet.StallDeadline: " until the deadline", ctnet.StallClosed: " until closed here",
	ctnet.StallEnded: " until the stream ended", ctnet.StallNothing: ", woken for nothing",
}

// eventText says in words what happened. A later version of ctnet may have kinds that this one doesn't
// know, and a hostile process any.
func eventText(v ctnet.Event) string {
	text := eventTexts[v.Kind]
	switch {
	case text == "":
		return clean("unknown: " + string(v.Kind))
	case !isStall(v):
		return text
	case v.Ended == "":
		return "waits " + text
	}
	how := stallTexts[v.Ended]
	if how == "" {
		how = clean(", unknown: " + string(v.Ended))
	}
	return "waited " + text + how
}
