//go:build !linux

package pair

import (
	"context"
	"syscall"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

// A Host stands for other applications, of which there are none here.
type Host struct{ Absences rendezvous.Absences }

// Init does nothing.
func (*Host) Init(Config) {}

// Close does nothing.
func (*Host) Close() {}

// Violations returns none.
func (*Host) Violations() Violations { return Violations{} }

// Each does nothing.
func (*Host) Each(func(owner any, at Spot, halfOpen bool)) {}

// Infos returns nil.
func (*Host) Infos(time.Time) []Info { return nil }

// Show does nothing.
func (*Host) Show(stay bool) {}

// Sockets returns nil.
func (*Host) Sockets() []string { return nil }

// MaxAnswer is the size of the largest answer that [Config.Inspect] may return, in bytes.
const MaxAnswer = 128 << 20

// Dial fails.
func (*Host) Dial(context.Context, Target, Dialing) error {
	return syserr.New(syscall.ECONNREFUSED, "nobody in this process listens there; ctnet connects processes on Linux only")
}

// A Door would be the way in for other applications.
type Door struct{}

// Open returns nil.
func (*Host) Open(context.Context, Listener, string) (*Door, error) { return nil, nil }

// Serve does nothing.
func (*Door) Serve() {}

// Close does nothing.
func (*Door) Close() {}

// A Dialed would be a connection's link to its pair.
type Dialed struct{}

// An Accepted would be a connection's link to its pair.
type Accepted struct{}

// Answer does nothing.
func (*Accepted) Answer() {}

// Accept returns false.
func (*Accepted) Accept() bool { return false }

// Drop does nothing.
func (*Accepted) Drop() {}

// Refuse does nothing.
func (*Accepted) Refuse(syscall.Errno) {}
