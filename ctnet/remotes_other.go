//go:build !linux

package ctnet

import (
	"context"
	"syscall"

	"cutthrough.example/internal/syserr"
)

// remotes stands for other applications, of which there are none here.
type remotes struct{}

func (*remotes) init(*app)     {}
func (*remotes) close()        {}
func (*remotes) conns() []seen { return nil }

// A dirStamp would say when what is known of other applications is out of date.
type dirStamp struct{}

func (*remotes) absent(name string) (bool, dirStamp)  { return false, dirStamp{} }
func (*remotes) remember(name string, stamp dirStamp) {}
func (*remotes) distrust(name string, stamp dirStamp) {}

func present(key string) bool { return false }

func (a *app) dialRemote(ctx context.Context, key string, t target, ask sizes) (*Conn, error) {
	return nil, syserr.New(syscall.ECONNREFUSED, "nobody in this process listens there; ctnet connects processes on Linux only")
}

// A door would be the way in for other applications.
type door struct{}

func openDoor(ctx context.Context, l *Listener) (*door, error) { return nil, nil }
func (*door) accept()                                          {}
func (*door) close()                                           {}
