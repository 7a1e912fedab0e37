// Package pair connects two applications: with a control channel, segments of shared memory
// in whose slots the connections are, and doorbells by which each wakes the other.
//
// A [Host] is an application's side of all its pairs. As the client it dials listeners of
// other applications; as the server it lets other applications attach to its own listeners,
// each through a [Door]. Package pair asks the listener for its decisions through [Listener];
// it knows neither names nor addresses itself.
package pair

import (
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"cutthrough.example/internal/tap"
)

// Sizes are the sizes of a connection's fifos in bytes; 0 is no preference.
type Sizes struct {
	ToServer, ToClient int
}

// A Target is what a Dial attaches to.
type Target struct {
	Key  string // under which the listener is found
	Name string // what was dialed; the listener is told it
	Ask  Sizes

	// Remote is the address of the other end, for Dialing.Begin.
	Remote net.Addr

	// Allow, if it is not nil, decides whom the listener may belong to. Otherwise it may be
	// whom package rendezvous trusts, and the user who Owns Remote.
	Allow func(rendezvous.Cred) bool
	Owns  func(uid int, a net.Addr) bool
}

// trusts reports whether the listener may belong to a process.
func (t *Target) trusts(c rendezvous.Cred) bool {
	switch {
	case !rendezvous.Known(c):
		return false
	case t.Allow != nil:
		return t.Allow(c)
	}
	return rendezvous.Trusted(c) || t.Owns != nil && t.Owns(c.UID, t.Remote)
}

// ErrRetired means that a pair accepts no more connections: its listener was closed, or its
// process has ended.
var ErrRetired = errors.New("pair retired")

// A Dialing is the memory of a connection that is dialed. The caller allocates it in one
// piece: it holds the end and the link by value.
type Dialing interface {
	End() *stream.End
	Link() *Dialed
	// Options returns the options of the end; this package sets all but TCP.
	Options() stream.Options
	// Begin is called before anything else can find the connection. peer is the listener's
	// process, and remote the Target's; all connections of a pair have the same ones.
	Begin(peer *rendezvous.Cred, remote net.Addr)
	// Connected is called before the connection counts as answered, with this application's
	// identity, the connection's number, and the origin that the listener has given. The
	// origin is not checked: a hostile listener can give any value.
	Connected(app, number, origin uint64)
}

// An Accepting is the memory of an accepting end, as a Dialing is of a dialing end.
type Accepting interface {
	End() *stream.End
	Link() *Accepted
}

// A Dialer is the application that a connection comes from. App and Number are what it
// claims; Cred is what the kernel says.
type Dialer struct {
	App, Number uint64
	Cred        *rendezvous.Cred // the same for all connections of a pair
}

// A Listener decides about the connections that come through its door. Its methods may be
// called at the same time.
type Listener interface {
	// Allows reports whether a process may attach.
	Allows(c rendezvous.Cred) bool
	// Place returns what connections dialed by a name need to know of the listener, or nil
	// if the listener does not have that name, or accepts no connections any more.
	Place(name string) Place
	// PeerLimits returns what each peer may hold of the listener.
	PeerLimits() PeerLimits
	// Shared reports whether another process may take over: the kernel has granted it the
	// same address.
	Shared() bool
	// Retire is called when another listener has taken over, or the door is closed.
	Retire()
	// Withdraw removes from the backlog a connection that was offered with [Place.Offer].
	Withdraw(a Accepting)
}

// PeerLimits are the most that one peer may hold of a listener. A peer is a process, or all
// processes of another user that is not root.
type PeerLimits struct {
	Attached  int   // pairs
	HalfOpens int   // connections of one pair that were not accepted
	Conns     int   // connections, with those
	Segments  int   // of its memory that are mapped here
	Bytes     int64 // address space of these
	Memory    int64 // what the fifos hold
}

// A Place is a Listener as one pair has dialed it.
type Place interface {
	// Sizes returns the fifo sizes for a dialer that asks for ask, which was not checked.
	Sizes(ask Sizes) (Sizes, error)
	// Make makes the memory of a connection, or refuses it with an errno. The dialer gets
	// origin in [Dialing.Connected].
	Make(from Dialer) (a Accepting, o stream.Options, origin uint64, errno syscall.Errno)
	// Offer queues a connection to be accepted. It never blocks.
	Offer(a Accepting)
	// Forget is called when a connection that Make has made is not used any more.
	Forget(a Accepting)
}

// Counts are what has happened in an application, inside it and with others.
type Counts struct {
	Dialed    atomic.Uint64 // connections that Dial has returned
	Accepted  atomic.Uint64 // connections that Accept has returned
	Refused   atomic.Uint64 // connections that its listeners have refused
	Reset     atomic.Uint64 // ends of connections that were reset, whichever side has caused it
	Cancelled atomic.Uint64 // Dials that gave up: its own, and those that its listeners had seen
	Ends      stream.Totals // what the ends of connections have done
}

// Violations are how often a peer was cut off, by what it has done.
type Violations struct {
	Fifo     uint64 // wrote what can't be into the words of a fifo
	Message  uint64 // sent a message that is not of the protocol
	Doorbell uint64 // rang without end
}

// Total returns the sum.
func (v Violations) Total() uint64 { return v.Fifo + v.Message + v.Doorbell }

// A Spot is where a connection is.
type Spot struct {
	Pair          uint64 // the number of the pair, in its application
	Worker        int    // that delivers its events; -1 if there is none
	Segment, Slot int    // of the pair; of the segment
	Use           uint32 // of the slot
}

// An Info describes a pair.
type Info struct {
	Number   uint64 // in its application
	Dialed   bool   // this application is the client
	Name     string // that was dialed. If this application is the server, the peer may have made it up
	Cred     *rendezvous.Cred
	Exe      string // of the peer, or "" if it is not known
	Stopped  bool   // the peer's process is, by a signal or a debugger; false also if it is not known
	App      uint64 // the peer's identity, as it says
	Worker   int
	Conns    int
	ToServer int // sizes of fifos
	ToClient int
	segpool.Usage
}

// A Config is what a Host needs to know of its application.
type Config struct {
	ID      uint64         // of the application
	Numbers *atomic.Uint64 // the number of the last connection dialed
	Account *segpool.Account
	Janitor *stream.Janitor
	Counts  *Counts
	// Inspect returns the snapshot that is sent to a process of this user, or of root, that
	// asks for it, or what has happened to the connection with an ID, if that is not "".
	Inspect func(id string) ([]byte, error)
	Log     func() *slog.Logger
	// Reset resets the connection with an ID, for such a process, and reports whether there
	// was one.
	Reset func(id string) bool
	// Capture has a Tap record what flows over the connection with an ID, for such a process, until
	// release is called. It returns what there is to say of the connection.
	Capture func(id string, t *tap.Tap) (about []byte, release func(), err error)
}
