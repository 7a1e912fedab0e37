// Package pair is what two applications have together: a control channel, segments of shared
// memory whose slots are connections, and doorbells by which each tells the other of events.
//
// A [Host] is an application's side of all its pairs. As the client it dials listeners of
// other applications; as the server it lets other applications attach to its own listeners,
// each through a [Door]. What a listener decides, it is asked through [Listener]; pair knows
// neither names nor addresses.
package pair

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// Sizes are the sizes of a connection's fifos in bytes; 0 is no preference.
type Sizes struct {
	ToServer, ToClient int
}

// A Target is what a Dial attaches to.
type Target struct {
	Key  string // the listener is found by
	Name string // as it was dialed, which the listener is told
	Ask  Sizes

	// Remote is the address of the other end, for Dialing.Begin.
	Remote net.Addr
}

// ErrRetired means that a pair takes no more connections: its listener was closed, or its
// process has ended.
var ErrRetired = errors.New("pair retired")

// A Dialing is the memory of a connection that is dialed, in one piece: the caller makes it,
// and holds the end and the link by value.
type Dialing interface {
	End() *stream.End
	Link() *Dialed
	// Options returns the options of the end; this package sets all but TCP.
	Options() stream.Options
	// Begin is called before anything else can find the connection. peer is the listener's
	// process, and remote the Target's; all connections of a pair have the same ones.
	Begin(peer *rendezvous.Cred, remote net.Addr)
	// Connected is called before it counts as answered, with this application's identity,
	// the connection's number, and what the listener says of the address of this end. The
	// listener may say anything.
	Connected(app, number, origin uint64)
}

// An Accepting is the accepting end of a connection, as a Dialing is the dialing one.
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
	// if the listener does not have that name, or takes no connections any more.
	Place(name string) Place
	// Shared reports whether other processes may listen at the same place, by the kernel's
	// leave, and so take it over.
	Shared() bool
	// Retire is called when another listener has taken over.
	Retire()
	// Withdraw takes back what a Place has been offered.
	Withdraw(a Accepting)
}

// A Place is a Listener's, for the connections of one pair.
type Place interface {
	// Sizes returns the sizes of fifos for a dialer that asks, which may be anything.
	Sizes(ask Sizes) (Sizes, error)
	// Make makes the memory of a connection, or refuses it with an errno. origin is what the
	// dialer is told of its address.
	Make(from Dialer) (a Accepting, o stream.Options, origin uint64, errno syscall.Errno)
	// Offer queues a connection to be accepted. It never blocks.
	Offer(a Accepting)
	// Released is called when nobody uses a connection any more that Make has made.
	Released(a Accepting)
}

// A Config is what a Host needs to know of its application.
type Config struct {
	ID      uint64         // of the application
	Numbers *atomic.Uint64 // the number of the last connection dialed
	Account *segpool.Account
	Janitor *stream.Janitor
	// Inspect returns the snapshot that is sent to a process of this user, or of root, that
	// asks for it.
	Inspect func() ([]byte, error)
}
