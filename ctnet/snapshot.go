package ctnet

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Snapshot is the state of an application. Its parts are read one after the other while the
// application goes on.
type Snapshot struct {
	App     string // the application's identity, see [Addr]
	PID     int
	Program string

	// The counts to which the limits of [AppConfig] apply. A connection counts until its end
	// has let go of its memory; until both have, if both are in this application.
	Conns    int64
	Segments int64
	Bytes    int64
	Memory   int64 // what fifos may come to take as large as they are now

	// CutOff counts the pairs with other applications that were ended because the other one
	// broke the protocol. Each is logged, as far as there are not too many.
	CutOff uint64

	Listeners   []ListenerInfo
	Connections []ConnInfo

	// Fallbacks are the connections and listeners that use the kernel's socket, and why; the most
	// frequent first.
	Fallbacks []FallbackInfo
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
	State         string // StateHalfOpen and so on
	Network       string
	Local, Remote string // Local is "" until the dialer is answered
	Peer          Cred

	// The bytes that wait to be read here and by the peer, and the sizes of the fifos.
	RecvQueue, RecvBuffer int
	SendQueue, SendBuffer int
}

// States of a connection. TCP's states have TCP's names.
const (
	StateHalfOpen    = "HALF-OPEN"   // Dial has not been answered
	StateEstablished = "ESTABLISHED" // open both ways
	StateFinWait     = "FIN-WAIT"    // CloseWrite was called here
	StateCloseWait   = "CLOSE-WAIT"  // the peer has closed or is gone, this end has not
	StateClosed      = "CLOSED"      // closed here, but a view from Peek or Reserve is out
)

// Snapshot returns the application's listeners and connections. A nil App is the process's own.
func (a *App) Snapshot() Snapshot { return a.app().snapshot() }

func (a *app) snapshot() Snapshot {
	used := a.account.Usage()
	s := Snapshot{
		App:      fmt.Sprintf("%016x", a.id),
		PID:      os.Getpid(),
		Program:  filepath.Base(os.Args[0]),
		Conns:    used.Conns,
		Segments: used.Segments,
		Bytes:    used.Bytes,
		Memory:   used.Memory,
		CutOff:   a.remote.CutOff(),

		Fallbacks: a.fallbacks.list(),
	}
	a.mu.Lock()
	listeners := slices.Collect(maps.Keys(a.open))
	var conns []seen
	for p := range a.local {
		half := p.halfOpen()
		conns = append(conns, seen{&p.client, half}, seen{&p.server, half})
	}
	a.mu.Unlock()
	a.remote.Each(func(owner any, halfOpen bool) {
		switch o := owner.(type) {
		case *dialedConn:
			conns = append(conns, seen{&o.conn, halfOpen})
		case *acceptedConn:
			conns = append(conns, seen{&o.conn, halfOpen})
		}
	})

	for _, l := range listeners {
		s.Listeners = append(s.Listeners, ListenerInfo{l.network, l.addr.String(), l.backlog.size, l.backlog.waiting()})
	}
	for _, c := range conns {
		if info, ok := c.info(); ok {
			s.Connections = append(s.Connections, info)
		}
	}
	slices.SortFunc(s.Listeners, func(a, b ListenerInfo) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(s.Connections, func(a, b ConnInfo) int {
		return strings.Compare(a.Local+" "+a.Remote, b.Local+" "+b.Remote)
	})
	return s
}

// inspect returns the snapshot as [Inspect] expects it.
func (a *app) inspect() ([]byte, error) { return json.Marshal(a.snapshot()) }

// A seen is a connection that is to be described. halfOpen says that its dialer was not
// answered yet.
type seen struct {
	*conn
	halfOpen bool
}

// info describes c. It returns false if c is closed and nothing holds its memory.
func (c seen) info() (info ConnInfo, ok bool) {
	info = ConnInfo{
		Network: c.remote.Network(),
		Remote:  c.remote.String(),
		Peer:    *c.cred,
	}
	if !c.halfOpen {
		info.Local = c.local.String() // Connected sets it before the connection counts as answered
	}
	s, ok := c.end.Status()
	switch {
	case s.Closed:
		info.State = StateClosed
	case c.halfOpen:
		info.State = StateHalfOpen
	case s.PeerClosed:
		info.State = StateCloseWait
	case s.WriteClosed:
		info.State = StateFinWait
	default:
		info.State = StateEstablished
	}
	info.RecvQueue, info.RecvBuffer = s.RecvQueue, s.RecvBuffer
	info.SendQueue, info.SendBuffer = s.SendQueue, s.SendBuffer
	return info, ok
}
