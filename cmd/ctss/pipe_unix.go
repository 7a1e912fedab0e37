//go:build unix

package main

import (
	"context"

	"golang.org/x/sys/unix"
)

// pollTime is how often a goroutine that waits in poll looks whether it is to end, in milliseconds.
const pollTime = 100

// awaitUnread waits until nobody reads what is written to a pipe or socket any more, and returns true, or until
// ctx ends.
func awaitUnread(ctx context.Context, fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR is always asked for
	for ctx.Err() == nil {
		if n, err := unix.Poll(p, pollTime); n > 0 || err != nil && err != unix.EINTR {
			return p[0].Revents&unix.POLLERR != 0
		}
	}
	return false
}
