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

// NetNamespace returns the identity of the network namespace that the calling
// thread is in. An address means something else in another one.
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

// manyNamespaces is set when a thread was seen that is in another one.
var manyNamespaces atomic.Bool

// LikelyNamespace returns what NetNamespace most likely does, without asking the kernel,
// which is most of what a Dial costs that finds nothing. Verify it with NetNamespace before
// trusting what was found by it.
func LikelyNamespace() (id string, ok bool) {
	if id = ownNamespace(); id == "" || manyNamespaces.Load() {
		return NetNamespace()
	}
	return id, true
}

// Pending returns a function that reports whether a listener of the kernel's has
// a connection to be accepted, or nil if that can't be told.
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

// KeepNonblocking returns a function that makes a listener of the kernel's
// non-blocking, should it have become blocking. That is a property of the socket, so
// a process with a duplicate can change it, and os/exec and os.File.Fd do. An accept
// that finds no connection would then hold up a thread, and Close would wait for it.
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

// SocketFile returns what identifies the socket file at a path, which may have other paths
// too. It is ECONNREFUSED if that is another kind of file.
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

// MayConnect returns the error that the kernel has for a connect to a socket file that this
// process may not write to.
func MayConnect(path string) error {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
}

// IsAbstract reports whether a path is a name in the abstract namespace.
func IsAbstract(path string) bool { return strings.HasPrefix(path, "@") }
