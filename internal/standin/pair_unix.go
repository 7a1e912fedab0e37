//go:build unix && !linux

package standin

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// pair returns a pair of sockets that do not block, and that no process inherits. Not all systems
// have a call that makes them so.
func pair() (user, inner int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, 0, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
	}
	return fds[0], fds[1], err
}
