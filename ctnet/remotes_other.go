//go:build !linux

package ctnet

import (
	"context"
	"syscall"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

// remotes stands for other applications, of which there are none here.
type remotes struct{ absences rendezvous.Absences }

func (*remotes) init(*app)     {}
func (*remotes) close()        {}
func (*remotes) conns() []seen { return nil }

func (a *app) dialRemote(ctx context.Context, key string, t target, ask sizes) (*Conn, error) {
	return nil, syserr.New(syscall.ECONNREFUSED, "nobody in this process listens there; ctnet connects processes on Linux only")
}

// A door would be the way in for other applications.
type door struct{}

func openDoor(ctx context.Context, l *Listener) (*door, error) { return nil, nil }
func (*door) accept()                                          {}
func (*door) close()                                           {}
