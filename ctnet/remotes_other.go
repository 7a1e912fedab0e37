//go:build !linux

package ctnet

import (
	"context"
	"syscall"
)

// remotes stands for other applications, of which there are none here.
type remotes struct{}

func (*remotes) init(*app)      {}
func (*remotes) close()         {}
func (*remotes) conns() []*Conn { return nil }

func (*remotes) present(key string) bool { return false }
func (*remotes) distrust(key string)     {}

func (a *app) dialRemote(ctx context.Context, key string, t target, ask sizes) (*Conn, error) {
	return nil, &problem{syscall.ECONNREFUSED, "nobody in this process listens there; ctnet connects processes on Linux only"}
}

// A door would be the way in for other applications.
type door struct{}

func openDoor(ctx context.Context, l *Listener) (*door, error) { return nil, nil }
func (*door) accept()                                          {}
func (*door) close()                                           {}
