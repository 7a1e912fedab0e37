package ctnet

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/rendezvous"
)

// netNamespace returns the identity of the network namespace that the calling
// thread is in. An address means something else in another one.
func netNamespace() (id string, ok bool) {
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

// likelyNamespace is netNamespace for one who only wants to know where to look, and
// makes sure before it believes what it finds. To ask the kernel is most of what a
// Dial costs that finds nothing.
func likelyNamespace() (id string, ok bool) {
	if id = ownNamespace(); id == "" || manyNamespaces.Load() {
		return netNamespace()
	}
	return id, true
}

// pendingIn returns a function that reports whether a listener of the kernel's has
// a connection to be accepted, or nil if that can't be told.
func pendingIn(kernel net.Listener) func() bool {
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

// keepNonblocking returns a function that makes a listener of the kernel's
// non-blocking, should it have become blocking. That is a property of the socket, so
// whoever has a duplicate can change it, and os/exec and os.File.Fd do. An accept
// that finds no connection would then hold up a thread, and Close would wait for it.
func keepNonblocking(kernel net.Listener) func() {
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

// unixTarget returns the target for the path of a socket file. The file is what it
// is found by, and not the path, which may come to mean another one.
func unixTarget(path string) (target, error) {
	t := target{name: "unix:" + path, addr: &net.UnixAddr{Name: path, Net: "unix"}}
	key, err := unixKey(path)
	if err != nil {
		return t, err
	}
	if !strings.HasPrefix(path, "@") {
		// What the kernel asks for too.
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
			return t, err
		}
	}
	t.keys = []string{key}
	return t, nil
}

// unixKey returns the key of a listener on a path.
func unixKey(path string) (string, error) {
	if strings.HasPrefix(path, "@") {
		netns, ok := netNamespace()
		if !ok {
			return "", rendezvous.ErrNobody
		}
		return "unix:" + netns + "/" + path, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", rendezvous.ErrNobody
	}
	return fmt.Sprintf("unix:%d:%d", st.Dev, st.Ino), nil
}
