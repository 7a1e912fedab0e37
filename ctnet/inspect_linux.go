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

// Inspect returns a [Snapshot] of each application that listens in this network namespace, or in
// the directory that CTNET_DIR names, and that belongs to this user or to root; for root, of each
// application.
// A connection with any other application is seen from the end that is in one of these. The
// error names the applications that did not answer; the other Snapshots are returned.
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
			// The listener is gone.
		case isStranger(err):
			// Its user shows it to nobody else.
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
		s.PID = cred.PID // the number in this PID namespace
	}
	return s, nil
}
