package ctnet

import (
	"encoding/json"
	"time"

	"cutthrough.example/internal/stream"
)

// An EndEvents is an end of a connection with what happened there last.
type EndEvents struct {
	ConnInfo

	// Events are in the order of time. The first one is the making of this end. Up to 32 others
	// are kept, each when it is over, and the oldest one goes first. To these come the stalls that
	// are under way: Ended is "" then.
	//
	// The end of the peer's stream is seen when a call here finds it, or a Snapshot looks; where no
	// goroutine had slept before, a Read that finds it does not count.
	Events []Event
}

// An Event is something that has happened at an end of a connection: that a goroutine slept, or a step
// towards the connection's end.
type Event struct {
	Kind EventKind
	At   time.Time // when; of a stall, when it began

	// Of a stall: how long it lasted, or has lasted so far, and how it ended.
	For   time.Duration
	Ended StallEnd

	// Of a stall: what happened since the last one in the same direction, or since the beginning, as in
	// a [FlowInfo]: notifications of the peer, and waits that ended before the goroutine slept. No
	// more than 65,535.
	Wakes, Polls int
}

// An EventKind says what has happened.
type EventKind string

// The kinds of events. Later versions may have more.
const (
	EventDialed      EventKind = "dialed"       // this end was made by a Dial
	EventAccepted    EventKind = "accepted"     // this end was made for a listener
	EventStallData   EventKind = "stall-data"   // a goroutine slept in a Read, for data
	EventStallSpace  EventKind = "stall-space"  // a goroutine slept in a Write, for space
	EventReadClosed  EventKind = "read-closed"  // by CloseRead
	EventWriteClosed EventKind = "write-closed" // by CloseWrite
	EventClosed      EventKind = "closed"       // by Close, while a call is under way or a view is out
	EventFinSent     EventKind = "fin-sent"     // the peer was told that no more bytes come
	EventResetSent   EventKind = "reset-sent"   // the peer was told of a reset
	EventFinSeen     EventKind = "fin-seen"     // this end has found the peer's fin, see EndEvents
	EventResetSeen   EventKind = "reset-seen"   // or its reset
	EventSevered     EventKind = "severed"      // reset from outside, see [Snapshot.ResetConn]
	EventPeerBroke   EventKind = "peer-broke"   // the peer broke the protocol
	EventPeerGone    EventKind = "peer-gone"    // the peer's process has ended, or let go of all
)

// A StallEnd says how a stall ended.
type StallEnd string

// How stalls end.
const (
	StallCame     StallEnd = "came"     // there were data, or there was space
	StallDeadline StallEnd = "deadline" // the deadline passed
	StallClosed   StallEnd = "closed"   // this end was closed, or its reading or writing side
	StallEnded    StallEnd = "ended"    // the peer has ended the stream or is gone, or the connection was reset
	StallNothing  StallEnd = "nothing"  // there was nothing to wake up for
)

var eventKinds = [stream.EventKinds]EventKind{
	stream.EventStallData: EventStallData, stream.EventStallSpace: EventStallSpace, stream.EventReadClosed: EventReadClosed,
	stream.EventWriteClosed: EventWriteClosed, stream.EventClosed: EventClosed, stream.EventFinSent: EventFinSent,
	stream.EventResetSent: EventResetSent, stream.EventFinSeen: EventFinSeen, stream.EventResetSeen: EventResetSeen,
	stream.EventSevered: EventSevered, stream.EventPeerBroke: EventPeerBroke, stream.EventPeerGone: EventPeerGone,
}

var stallEnds = [stream.StallEnds]StallEnd{
	stream.StallCame: StallCame, stream.StallDeadline: StallDeadline, stream.StallClosed: StallClosed,
	stream.StallEnded: StallEnded, stream.StallNothing: StallNothing,
}

// Events returns the ends of the connection with an ID, as [ConnInfo] has it, and what happened there
// last. There are two if both are in this application, and none if the connection is gone. A nil App is the
// process's own.
func (a *App) Events(id string) []EndEvents { return a.app().events(id) }

func (a *app) events(id string) (ends []EndEvents) {
	for _, c := range a.conns() {
		if c.id != id {
			continue
		}
		if info, ok := c.info(); ok {
			ends = append(ends, EndEvents{info, c.events()})
		}
	}
	return ends
}

// events returns the last events of c.
func (c seen) events() (all []Event) {
	last := c.end.Events()
	now := time.Now()
	for _, v := range last {
		kind := eventKinds[v.Kind]
		switch {
		case v.Kind != stream.EventMade:
		case c.dialed:
			kind = EventDialed
		default:
			kind = EventAccepted
		}
		all = append(all, Event{kind, now.Add(-v.Ago).UTC(), v.For, stallEnds[v.Ended], int(v.Wakes), int(v.Polls)})
	}
	return all
}

// inspectEvents returns the answer of [Snapshot.Events]: a Snapshot of nothing but the connection, in which
// each end has its events.
func (a *app) inspectEvents(id string) ([]byte, error) {
	return json.Marshal(struct{ Connections []EndEvents }{a.events(id)})
}
