package ctnet

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netNamespace returns the identity of the network namespace that the calling
// thread is in. An address means something else in another one.
func netNamespace() (id string, ok bool) {
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &st) != nil {
		return "", false
	}
	return fmt.Sprint(st.Ino), true
}

// pendingIn returns a function that reports whether a listener of the kernel's has
// a connection to be accepted, or nil if that can't be told.
func pendingIn(kernel net.Listener) func() bool {
	c, ok := kernel.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
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

// absences are the listeners that Dials have found not to be in the directory, or
// not to be had, so that those that end up in the kernel don't ask again and again.
type absences struct {
	mu    sync.Mutex
	dir   string
	stamp dirStamp // of the directory, all the while
	until map[string]time.Time
}

// A dirStamp changes whenever a file is added to or removed from a directory.
type dirStamp struct {
	dev, ino uint64
	mtime    unix.Timespec
}

const (
	// stampAge is the least age of a stamp to be relied on: the clock of file
	// systems goes in steps, and within one several changes look like one.
	stampAge = 50 * time.Millisecond

	// distrustTime is how long a listener that can't be had is left alone.
	distrustTime = 5 * time.Second

	maxAbsences = 4096
)

// present reports whether the directory has a listener for a key.
func (r *remotes) present(key string) bool {
	dir := runDir()
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil {
		return false
	}
	stamp := dirStamp{uint64(st.Dev), st.Ino, st.Mtim}
	a := &r.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until == nil || a.dir != dir || a.stamp != stamp || len(a.until) > maxAbsences {
		a.dir, a.stamp, a.until = dir, stamp, make(map[string]time.Time)
	}
	if until, ok := a.until[key]; ok && (until.IsZero() || time.Now().Before(until)) {
		return false
	}
	delete(a.until, key)
	path, err := socketPath(dir, key)
	if err != nil {
		return false
	}
	if unix.Lstat(path, &st) == nil {
		return true
	}
	if time.Since(time.Unix(stamp.mtime.Unix())) > stampAge {
		a.until[key] = time.Time{} // until the directory changes
	}
	return false
}

// distrust remembers that a listener that is there can't be had: it does not
// answer, is not ours to talk to, or speaks otherwise. The next one may, so a
// change of the directory ends it.
func (r *remotes) distrust(key string) {
	a := &r.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until != nil {
		a.until[key] = time.Now().Add(distrustTime)
	}
}
