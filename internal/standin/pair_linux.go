package standin

import "golang.org/x/sys/unix"

// pair returns a pair of sockets that do not block, and that no process inherits.
func pair() (user, inner int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fds[0], fds[1], err
}
