package ctnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"syscall"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"golang.org/x/sys/unix"
)

// Inspect returns the Snapshots of the applications that listen in the directory
// in which applications find each other, as far as they belong to this user, or
// of all for root. What the others have is seen from these: a connection has an
// end here. An error says which of them did not answer; the rest is returned.
func Inspect(ctx context.Context) ([]Snapshot, error) {
	paths, err := rendezvous.List()
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	var errs []error
	for _, path := range paths {
		s, err := inspect(ctx, path)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
			// Nobody listens there any more.
		case err != nil:
			errs = append(errs, &os.PathError{Op: "inspect", Path: path, Err: err})
		case !slices.ContainsFunc(all, func(o Snapshot) bool { return o.App == s.App }):
			all = append(all, s)
		}
	}
	return all, errors.Join(errs...)
}

// inspect asks the application that listens on a socket.
func inspect(ctx context.Context, path string) (s Snapshot, err error) {
	ch, cred, err := rendezvous.DialPath(ctx, path)
	if err != nil {
		return s, err
	}
	defer ch.Close()
	done := ch.LimitHandshake(ctx)
	defer done()
	if err := ch.Send(rendezvous.Message{Kind: rendezvous.KindInspect}); err != nil {
		return s, err
	}
	m, fds, err := ch.Expect(rendezvous.KindSnapshot, 1)
	if err != nil {
		return s, err
	}
	if m.Size > maxSnapshot {
		rendezvous.CloseAll(fds)
		return s, rendezvous.ErrProtocol
	}
	mem, err := segpool.OpenShared(fds[0], int(m.Size), false)
	if err != nil {
		return s, err
	}
	defer mem.Free()
	if err := json.Unmarshal(bytes.Clone(mem.Bytes), &s); err != nil {
		return s, err
	}
	if cred.PID != 0 {
		s.PID = cred.PID // as it is seen from here
	}
	return s, nil
}

// maxSnapshot is the largest answer that is looked at, in bytes.
const maxSnapshot = 256 << 20

// answerInspect sends a snapshot of the application.
func (a *app) answerInspect(ch rendezvous.Channel) error {
	b, err := json.Marshal(a.snapshot())
	if err != nil {
		return err
	}
	mem, fd, err := segpool.CreateShared("ctnet snapshot", len(b), true)
	if err != nil {
		return err
	}
	defer mem.Free()
	defer unix.Close(fd)
	copy(mem.Bytes, b)
	return ch.Send(rendezvous.Message{Kind: rendezvous.KindSnapshot, Size: uint32(len(b))}, fd)
}
