package ctnet

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"syscall"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/rendezvous"
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
	b, cred, err := pair.Inspect(ctx, path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	if cred.PID != 0 {
		s.PID = cred.PID // as it is seen from here
	}
	return s, nil
}
