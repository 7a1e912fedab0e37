package ctnet

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
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
			return "", errNobody
		}
		return "unix:" + netns + "/" + path, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", errNobody
	}
	return fmt.Sprintf("unix:%d:%d", st.Dev, st.Ino), nil
}

// absences are the targets at which Dials have found nobody, or nobody to be had,
// so that those that end up in the kernel don't ask again and again.
type absences struct {
	mu    sync.Mutex
	stamp dirStamp // all the while
	until map[string]time.Time
}

// A dirStamp changes whenever a listener comes or goes: a file is added to or
// removed from the directory, or one in this application.
type dirStamp struct {
	path     string
	dev, ino uint64
	mtime    unix.Timespec
	own      uint64
}

const (
	// stampAge is the least age of a stamp to be relied on: the clock of file
	// systems goes in steps, and within one several changes look like one.
	stampAge = 50 * time.Millisecond

	// distrustTime is how long a listener that can't be had is left alone.
	distrustTime = 5 * time.Second

	maxAbsences = 4096
)

// absent reports whether nobody is known to be at the target with this name. If not,
// what is found out can be told to remember with the stamp that it returns.
func (r *remotes) absent(name string) (bool, dirStamp) {
	stamp := dirStamp{path: runDir(), own: r.app.opened.Load()}
	var st unix.Stat_t
	if unix.Lstat(stamp.path, &st) == nil {
		stamp.dev, stamp.ino, stamp.mtime = uint64(st.Dev), st.Ino, st.Mtim
	}
	a := &r.absences
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until == nil || a.stamp != stamp || len(a.until) > maxAbsences {
		a.stamp, a.until = stamp, make(map[string]time.Time)
	}
	until, ok := a.until[name]
	return ok && (until.IsZero() || time.Now().Before(until)), stamp
}

// remember remembers that nobody was at a target, when the directory had a stamp.
func (r *remotes) remember(name string, stamp dirStamp) {
	if time.Since(time.Unix(stamp.mtime.Unix())) > stampAge {
		r.mark(name, stamp, time.Time{})
	}
}

// distrust remembers that the listener at a target can't be had: it does not
// answer, is not ours to talk to, or speaks otherwise. The next one may, so a
// change of the stamp ends it.
func (r *remotes) distrust(name string, stamp dirStamp) {
	r.mark(name, stamp, time.Now().Add(distrustTime))
}

func (r *remotes) mark(name string, stamp dirStamp, until time.Time) {
	a := &r.absences
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stamp == stamp { // otherwise it may be wrong by now
		a.until[name] = until
	}
}

// present reports whether the directory has a socket for a key.
func present(key string) bool {
	path, err := socketPath(runDir(), key)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}
