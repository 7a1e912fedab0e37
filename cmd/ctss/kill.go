package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// killTime is how long -K tries at most.
const killTime = 10 * time.Second

// kill resets the connections that the filter selects, and prints them, as ss -K does. Two ends of one
// connection in one application have one ID.
func kill(ctx context.Context, out io.Writer, o *options, h host) (err error) {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	var done []row
	asked := make(map[string]bool)
	for _, r := range h.rows(o) {
		if r.conn == nil {
			continue // -K is for connections
		}
		if asked[r.key()] {
			continue
		}
		asked[r.key()] = true
		switch resetErr := r.app.ResetConn(ctx, r.conn.ID); {
		case resetErr == nil:
			done = append(done, r)
		case errors.Is(resetErr, syscall.ESRCH):
			// It has ended meanwhile.
		default:
			err = errors.Join(err, fmt.Errorf("%s of process %d: %w", r.conn.ID, r.pid, resetErr))
		}
	}
	sessions(o, done, nil).write(out, 0)
	if len(done) == 0 && err == nil {
		err = errors.New("no connection was reset: none is as the filter says")
	}
	return err
}
