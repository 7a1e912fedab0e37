package ctnet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/stream"
)

// A Snapshot is the state of an application. Its parts are read one after the other while the
// application goes on.
type Snapshot struct {
	App     string // the application's identity, see [Addr]
	PID     int
	UID     int
	Program string // as the process calls itself
	Exe     string // the program's path, as the kernel says; "" if it is not known

	// The counts to which the Limits apply. A connection counts until its end
	// has let go of its memory; until both have, if both are in this application.
	Conns    int64
	Segments int64
	Bytes    int64
	Memory   int64 // what fifos may come to take as large as they are now

	Limits Limits // those of [AppConfig], or its defaults

	// What has happened since the application was made.
	Refused   uint64 // connections that its listeners have refused
	Reset     uint64 // ends of connections that were reset, whichever side has caused it
	Cancelled uint64 // Dials that gave up unanswered: its own, and those that its listeners had seen

	// CutOff counts the pairs with other applications that were ended because the other one
	// broke the protocol. Each is logged, as far as there are not too many.
	CutOff     uint64
	Violations Violations // what they had done

	Totals Totals

	// Sockets are the names or paths through which the application is found.
	Sockets []string

	Listeners   []ListenerInfo
	Connections []ConnInfo

	// Fallbacks are the connections and listeners that use the kernel's socket, and why; the most
	// frequent first.
	Fallbacks []FallbackInfo

	Pairs   []PairInfo
	Omitted int // connections that are not in Connections, as there are too many

	socket string // through which Inspect has found the application
}

// Limits are what an application may have, see [AppConfig].
type Limits struct {
	Conns    int64
	Segments int64
	Bytes    int64
	Memory   int64
}

// Totals are what all connections of an application have done since it was made, with those that are
// gone. They never go back. What an end has done is in them when it is gone, or when a Snapshot has
// looked at it.
type Totals struct {
	Dialed   uint64 // connections through shared memory that a Dial has returned
	Accepted uint64 // connections through shared memory that an Accept has returned

	// Of both ends, of connections inside the application.
	Recv, Send FlowTotals

	// Connections and listeners that use the kernel's socket, by reason.
	DialFallbacks, ListenFallbacks map[Reason]uint64
}

// FlowTotals are what ends have done in one direction, see [FlowInfo]. Bytes does not depend on
// what peers write into shared memory.
type FlowTotals struct {
	Bytes     uint64
	Ops       uint64
	Transfers uint64 // of bytes into fifos or out of them: one or more for each of Ops
	Wakes     uint64 // the others of Transfers needed no notification
	Polls     uint64
	Stalls    uint64
	Stalled   time.Duration
}

// Violations are how often peers broke the protocol, by what they did.
type Violations struct {
	Fifo     uint64 // they wrote what can't be into the words of a fifo
	Message  uint64 // they sent a message that is not of the protocol
	Doorbell uint64 // they rang the doorbell without end
}

// A ListenerInfo describes a listener.
type ListenerInfo struct {
	Network string
	Address string
	Backlog int // connections that can wait to be accepted
	Waiting int // connections that wait, and Dials that are not answered yet
}

// A ConnInfo describes an end of a connection.
type ConnInfo struct {
	ID            string // of the connection in its application; no other one ever has it
	State         string // StateHalfOpen and so on
	Network       string
	Local, Remote string // Local is "" until the dialer is answered
	Peer          Cred

	// The bytes that wait to be read here and by the peer, and the sizes of the fifos.
	RecvQueue, RecvBuffer int
	SendQueue, SendBuffer int

	Recv, Send FlowInfo

	Age time.Duration // since this end was made

	// Idle is for how long no bytes have moved, as far as is known: since bytes had moved when a
	// goroutine went to sleep in a Read or Write at this end, or when an earlier Snapshot looked. It
	// is 0 if others have moved since then. So a connection on which a goroutine waits in Read has
	// the right time unless the peer has read or written since the goroutine went to sleep; and any
	// connection has it from the second Snapshot on, as of the first.
	Idle time.Duration

	Pair          string // the ID of its PairInfo
	Worker        int    // the number of the worker that delivers its events; -1 inside one application
	Segment, Slot int    // where its fifos are: segment of the pair, and slot of the segment
}

// A FlowInfo says what an end has done in one direction. The counts are of this end; those in
// Connections of a Snapshot of the other application are of the other end.
//
// Bytes is read from memory that the peer can write to, so a peer that breaks the protocol can make
// it any number. While a goroutine is in the middle of a call, the other counts may be those of the
// last Snapshot. In a testing/synctest bubble they are those of the last wait.
type FlowInfo struct {
	Bytes uint64 // that were read or written at this end
	Ops   uint64 // the calls that did that
	High  int    // the most bytes that were found in the fifo, about

	// A stall is a goroutine's sleep: in a Read for data, in a Write for space.
	Stalls  uint64
	Stalled time.Duration // all of them together, and the one under way
	Asleep  bool          // one is under way
	Sleep   time.Duration // how long that has lasted
	Polls   uint64        // waits that ended while the goroutine looked, before it slept

	// Notifications of the peer that there is data or space, and transfers that needed none, as the
	// peer did not sleep.
	Wakes, Elided uint64
}

// A PairInfo describes what the application shares with another one: a pair connects it with one
// listener that it has dialed, or with one application that has dialed a listener here. Connections
// inside the application have one for each choice of buffer sizes.
type PairInfo struct {
	ID   string
	Role string // RoleDialed and so on

	// Name is what was dialed: the network, ":", and the address. It is "" inside one application.
	Name string

	Peer    Cred
	PeerExe string // the path of the peer's program, as the kernel says; "" if it is not known
	PeerApp string // the peer's identity, as it says
	Worker  int    // -1 inside one application

	// PeerStopped is whether the peer's process is stopped, by a signal or a debugger. It is false
	// also if that is not known.
	PeerStopped bool `json:",omitempty"`

	RecvBuffer, SendBuffer int // the sizes of the fifos, as the dialing end sees them

	Conns     int
	Segments  int
	FreeSlots int   // for further connections, in these segments
	Mapped    int64 // bytes of address space
	Resident  int64 // bytes of memory, or -1 if there was no time to count them
}

// Roles of an application in a pair.
const (
	RoleDialed   = "dialed"   // it has dialed the other one's listener
	RoleListened = "listened" // the other one has dialed its listener
	RoleInside   = "inside"   // both ends are in this application
)

// States of a connection. TCP's states have TCP's names.
const (
	StateHalfOpen    = "HALF-OPEN"   // Dial has not been answered
	StateEstablished = "ESTABLISHED" // open both ways
	StateFinWait     = "FIN-WAIT"    // CloseWrite was called here
	StateCloseWait   = "CLOSE-WAIT"  // the peer has closed, this end has not
	StateClosing     = "CLOSING"     // CloseWrite was called here, and the peer has closed too
	StateReset       = "RESET"       // reset or cut off, or the peer is gone; this end was not closed yet
	StateClosed      = "CLOSED"      // closed here, but a view from Peek or Reserve is out
)

// maxConnInfos is the most connections that a Snapshot has.
const maxConnInfos = 100_000

// countTime is how long a Snapshot counts pages at most.
const countTime = 50 * time.Millisecond

// Snapshot returns the application's listeners and connections. A nil App is the process's own. It
// has 100,000 connections at most, and says how many it has left out.
func (a *App) Snapshot() Snapshot { return a.app().snapshot() }

func (a *app) snapshot() Snapshot {
	used := a.account.Usage()
	violations := a.remote.Violations()
	s := Snapshot{
		App:        fmt.Sprintf("%016x", a.id),
		PID:        os.Getpid(),
		UID:        os.Geteuid(),
		Program:    filepath.Base(os.Args[0]),
		Conns:      used.Conns,
		Segments:   used.Segments,
		Bytes:      used.Bytes,
		Memory:     used.Memory,
		Refused:    a.counts.Refused.Load(),
		Reset:      a.counts.Reset.Load(),
		Cancelled:  a.counts.Cancelled.Load(),
		Limits:     Limits(a.account.Limits()),
		CutOff:     violations.Total(),
		Violations: Violations(violations),
		Fallbacks:  a.fallbacks.list(),
		Sockets:    a.remote.Sockets(),
	}
	s.Exe, _ = os.Executable()
	a.mu.Lock()
	listeners := slices.Collect(maps.Keys(a.open))
	a.mu.Unlock()
	for _, l := range listeners {
		s.Listeners = append(s.Listeners, ListenerInfo{l.network, l.addr.String(), l.backlog.size, l.backlog.waiting()})
	}
	conns := a.conns()
	s.Connections = slices.Grow(s.Connections, min(len(conns), maxConnInfos))
	for _, c := range conns {
		if len(s.Connections) == maxConnInfos {
			s.Omitted++
		} else if info, ok := c.info(); ok {
			s.Connections = append(s.Connections, info)
		}
	}
	s.Totals = a.totals() // after the connections, which are in them then
	s.Pairs = a.pairs(time.Now().Add(countTime), s.Exe)
	slices.SortFunc(s.Listeners, func(a, b ListenerInfo) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(s.Connections, func(a, b ConnInfo) int {
		return cmp.Or(strings.Compare(a.Local, b.Local), strings.Compare(a.Remote, b.Remote))
	})
	return s
}

func (a *app) totals() Totals {
	recv, send := a.counts.Ends.Sums()
	return Totals{
		Dialed:          a.counts.Dialed.Load(),
		Accepted:        a.counts.Accepted.Load(),
		Recv:            FlowTotals(recv),
		Send:            FlowTotals(send),
		DialFallbacks:   a.fallbacks.sums("dial"),
		ListenFallbacks: a.fallbacks.sums("listen"),
	}
}

// conns returns all connections of the application.
func (a *app) conns() (all []seen) {
	a.mu.Lock()
	for p := range a.local {
		s := seen{id: p.id(), pair: p.pool.id(), worker: -1, halfOpen: p.halfOpen()}
		s.segment, s.slot = p.slot.Position()
		for _, c := range []*conn{&p.client, &p.server} {
			s.conn, s.dialed = c, c == &p.client
			all = append(all, s)
		}
	}
	a.mu.Unlock()
	a.remote.Each(func(owner any, at pair.Spot, halfOpen bool) {
		s := seen{id: connID(at), pair: fmt.Sprint(at.Pair), worker: at.Worker, segment: at.Segment, slot: at.Slot, halfOpen: halfOpen}
		switch o := owner.(type) {
		case *dialedConn:
			s.conn, s.dialed = &o.conn, true
		case *acceptedConn:
			s.conn = &o.conn
		}
		all = append(all, s)
	})
	return all
}

// connID returns the ID of a connection with another application.
func connID(at pair.Spot) string {
	return fmt.Sprintf("%d.%d.%d.%d", at.Pair, at.Segment, at.Slot, at.Use)
}

// id returns the ID of the PairInfo.
func (p *localPool) id() string { return fmt.Sprintf("in%d", p.number) }

func (p *localPair) id() string {
	segment, slot := p.slot.Position()
	return fmt.Sprintf("%s.%d.%d.%d", p.pool.id(), segment, slot, p.slot.Use)
}

// pairs describes the application's pairs. It counts pages until the given time.
func (a *app) pairs(until time.Time, exe string) (all []PairInfo) {
	a.poolMu.Lock()
	pools := maps.Clone(a.pools)
	a.poolMu.Unlock()
	conns := make(map[*localPool]int)
	a.mu.Lock()
	for p := range a.local {
		conns[p.pool]++
	}
	a.mu.Unlock()
	for g, p := range pools {
		u := p.Usage(until)
		all = append(all, PairInfo{
			ID: p.id(), Role: RoleInside, Peer: *ownCred(), PeerExe: exe, PeerApp: fmt.Sprintf("%016x", a.id), Worker: -1,
			RecvBuffer: g.ToClient, SendBuffer: g.ToServer, Conns: conns[p],
			Segments: u.Segments, FreeSlots: u.FreeSlots, Mapped: u.Mapped, Resident: u.Resident,
		})
	}
	for _, i := range a.remote.Infos(until) {
		role := RoleListened
		if i.Dialed {
			role = RoleDialed
		}
		all = append(all, PairInfo{
			ID: fmt.Sprint(i.Number), Role: role, Name: i.Name, Peer: Cred(*i.Cred), PeerExe: i.Exe,
			PeerApp: fmt.Sprintf("%016x", i.App), PeerStopped: i.Stopped, Worker: i.Worker, RecvBuffer: i.ToClient, SendBuffer: i.ToServer,
			Conns: i.Conns, Segments: i.Segments, FreeSlots: i.FreeSlots, Mapped: i.Mapped, Resident: i.Resident,
		})
	}
	slices.SortFunc(all, func(a, b PairInfo) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// inspect returns the snapshot as [Inspect] expects it, or with the ID of a connection the answer of
// [Snapshot.Events]. It leaves connections out until the rest is no larger than it may be: their
// addresses can be long.
func (a *app) inspect(id string) ([]byte, error) {
	if id != "" {
		return a.inspectEvents(id)
	}
	s := a.snapshot()
	for {
		b, err := json.Marshal(s)
		if err != nil || len(b) <= pair.MaxAnswer || len(s.Connections) == 0 {
			return b, err
		}
		keep := len(s.Connections) / 2
		s.Omitted += len(s.Connections) - keep
		s.Connections = s.Connections[:keep]
	}
}

// reset resets the connection with an ID, for [Snapshot.ResetConn]. It reports whether there is one.
func (a *app) reset(id string) (done bool) {
	for _, c := range a.conns() {
		switch {
		case c.id != id:
		case c.halfOpen:
			c.end.Abort() // so that a Dial returns
			done = true
		case c.end.Sever():
			done = true
		}
	}
	return done
}

// A seen is a connection that is to be described.
type seen struct {
	*conn
	id, pair              string
	worker, segment, slot int
	halfOpen              bool // its dialer was not answered yet
	dialed                bool // it is the dialing end
}

// info describes c. It returns false if c is closed and nothing holds its memory.
func (c seen) info() (info ConnInfo, ok bool) {
	info = ConnInfo{
		ID:      c.id,
		Network: c.remote.Network(),
		Remote:  c.remote.String(),
		Peer:    *c.cred,
		Pair:    c.pair,
		Worker:  c.worker,
		Segment: c.segment,
		Slot:    c.slot,
	}
	if !c.halfOpen {
		info.Local = c.local.String() // Connected sets it before the connection counts as answered
	}
	s, ok := c.end.Status()
	info.State = stateOf(s, c.halfOpen)
	info.RecvQueue, info.RecvBuffer, info.Recv = s.Recv.Queue, s.Recv.Buffer, flowInfo(s.Recv)
	info.SendQueue, info.SendBuffer, info.Send = s.Send.Queue, s.Send.Buffer, flowInfo(s.Send)
	info.Age, info.Idle = s.Age, s.Idle
	return info, ok
}

func stateOf(s stream.Status, halfOpen bool) string {
	switch {
	case s.Closed:
		return StateClosed
	case halfOpen:
		return StateHalfOpen
	case s.Reset:
		return StateReset
	case s.PeerClosed && s.WriteClosed:
		return StateClosing
	case s.PeerClosed:
		return StateCloseWait
	case s.WriteClosed:
		return StateFinWait
	}
	return StateEstablished
}

func flowInfo(f stream.Flow) FlowInfo {
	return FlowInfo{
		Bytes: f.Bytes, Ops: f.Ops, High: f.High, Stalls: f.Stalls, Stalled: f.Stalled, Asleep: f.Asleep, Sleep: f.Sleep,
		Polls: f.Polls, Wakes: f.Wakes, Elided: f.Elided,
	}
}
