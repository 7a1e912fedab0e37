package hostnet

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// NetNamespace returns the identity of the calling thread's network namespace. The same address
// in another namespace is another place.
func NetNamespace() (id string, ok bool) {
	var b [64]byte
	n, err := unix.Readlink("/proc/thread-self/ns/net", b[:]) // net:[4026531833]
	if err != nil {
		return "", false
	}
	if id = string(b[:n]); id != ownNamespace() {
		manyNamespaces.Store(true)
	}
	return id, true
}

// ownNamespace is the network namespace of the process's first thread.
var ownNamespace = sync.OnceValue(func() string {
	id, _ := os.Readlink("/proc/self/ns/net")
	return id
})

// manyNamespaces is set when a thread was seen in another namespace than ownNamespace.
var manyNamespaces atomic.Bool

// LikelyNamespace returns the result that [NetNamespace] most likely has, without asking the
// kernel, which is a large part of the cost of a Dial that finds no listener. Verify the namespace
// with NetNamespace before you trust a listener that was found with it.
func LikelyNamespace() (id string, ok bool) {
	if id = ownNamespace(); id == "" || manyNamespaces.Load() {
		return NetNamespace()
	}
	return id, true
}

// OneNamespace reports whether all threads that were asked have been in the network namespace of the
// process's first thread. If so, LikelyNamespace returns that one.
func OneNamespace() bool { return !manyNamespaces.Load() }

// Pending returns a function that reports whether a listener of the kernel's has a connection
// to accept. It returns nil if the listener doesn't give access to its socket.
func Pending(kernel net.Listener) func() bool {
	raw := rawConn(kernel)
	if raw == nil {
		return nil
	}
	return func() (pending bool) {
		raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			pending = err == nil && n > 0
		})
		return pending
	}
}

// KeepNonblocking returns a function that makes a listener of the kernel's non-blocking again
// if it has become blocking. The mode belongs to the socket, so a process with a duplicate can
// change it, and os/exec and os.File.Fd do so. An accept that finds no connection would then
// block a thread, and Close would wait for it.
func KeepNonblocking(kernel net.Listener) func() {
	raw := rawConn(kernel)
	if raw == nil {
		return func() {}
	}
	return func() {
		raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err == nil && flags&unix.O_NONBLOCK == 0 {
				unix.SetNonblock(int(fd), true)
			}
		})
	}
}

func socketOnlyIPv6(fd uintptr) bool {
	v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return err != nil || v != 0
}

// SocketFile returns the identity of the socket file at a path, which is the same for all paths
// of the file. The error is ECONNREFUSED if the file is of another kind.
func SocketFile(path string) (id string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", syscall.ECONNREFUSED
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// MayConnect returns the error of a connect to a socket file if this process may not write to
// the file.
func MayConnect(path string) error {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
}

// IsAbstract reports whether a path is a name in the abstract namespace.
func IsAbstract(path string) bool { return strings.HasPrefix(path, "@") }
