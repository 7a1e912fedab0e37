package ctnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/syserr"
)

// runDir returns the directory in which applications find each other.
func runDir() string {
	if dir := os.Getenv("CTNET_DIR"); dir != "" {
		return filepath.Clean(dir)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "ctnet")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("ctnet-%d", os.Geteuid()))
}

// checkDir makes sure that only this user and root decide what is in dir. Others
// may be allowed to look things up in it: who connects is found out later.
func checkDir(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return syserr.New(syscall.ENOTDIR, dir+" must be a directory; remove it, or set CTNET_DIR to another one")
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return syserr.New(syscall.EPERM, fmt.Sprintf("%s belongs to user %d; set CTNET_DIR to a directory of your own", dir, st.Uid))
	case fi.Mode().Perm()&0o022 != 0:
		return syserr.New(syscall.EPERM, fmt.Sprintf("others can write to %s; do chmod 0700, or set CTNET_DIR to another directory", dir))
	}
	return nil
}

// makeDir makes sure that the directory is there and fit for listening.
func makeDir() (string, error) {
	dir := runDir()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, checkDir(dir)
}

const (
	socketSuffix = ".sock"
	nextSuffix   = ".next" // of one that is to replace it; as long
)

// socketPath returns where in dir the listener for a key is found. The key may
// hold any bytes, so its hash makes the file's name.
func socketPath(dir, key string) (string, error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(dir, hex.EncodeToString(sum[:12])+socketSuffix)
	if len(path) >= len(unix.RawSockaddrUnix{}.Path) {
		return "", syserr.New(syscall.ENAMETOOLONG, dir+" is too long a name; set CTNET_DIR to a shorter one")
	}
	return path, nil
}

// A fileID says which file it is, whatever its name.
type fileID struct{ dev, ino uint64 }

func identify(path string) (fileID, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return fileID{uint64(st.Dev), st.Ino}, err
}

// listenSocket binds the socket for a key. A file that a dead process has left
// there is replaced. If a live one listens there it is EADDRINUSE, unless the
// caller has the address by other rights: then it takes over.
func listenSocket(ctx context.Context, key string, takeover bool) (ln *net.UnixListener, id fileID, err error) {
	dir, err := makeDir()
	if err != nil {
		return nil, id, err
	}
	path, err := socketPath(dir, key)
	if err != nil {
		return nil, id, err
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, id, err
	}
	defer unlock()
	other, err := net.DialTimeout("unixpacket", path, time.Second)
	if err == nil {
		defer other.Close()
		if !takeover {
			return nil, id, errInUse
		}
	} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) && !takeover {
		return nil, id, errInUse // its queue is full, or it is another kind of file
	}
	// Under another name first, so that there is one at any time.
	next := path[:len(path)-len(socketSuffix)] + nextSuffix
	os.Remove(next) // of one who died here
	ln, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: next, Net: "unixpacket"})
	if err != nil {
		return nil, id, errors.Unwrap(err)
	}
	// Under the lock only, see closeSocket.
	ln.SetUnlinkOnClose(false)
	// Who may connect is decided by credentials.
	err = os.Chmod(next, 0o666)
	if err == nil {
		id, err = identify(next)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		ln.Close()
		os.Remove(next)
		return nil, id, err
	}
	sweep(dir, path)
	if other != nil {
		takeOver(ctx, channel{other.(*net.UnixConn)})
	}
	return ln, id, nil
}

const (
	sweepLooks = 4 // files at a time

	// sweepAge is the least age of a file that is looked at, which means to
	// connect to it: who listens there is not to be troubled often.
	sweepAge = time.Hour
)

// sweep removes some of the files that dead processes have left, if it comes
// across any: there may be many, under names that nobody uses again. The caller
// has the directory's lock.
func sweep(dir, own string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	names, _ := f.Readdirnames(256)
	for range min(sweepLooks, len(names)) {
		path := filepath.Join(dir, names[rand.IntN(len(names))])
		if path == own || !strings.HasSuffix(path, socketSuffix) {
			continue
		}
		if fi, err := os.Lstat(path); err != nil || time.Since(fi.ModTime()) < sweepAge {
			continue
		}
		c, err := net.DialTimeout("unixpacket", path, time.Second)
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}

// takeOver makes the process that listened at the address so far send its clients
// here. If it doesn't answer, they find out when it closes its listener.
func takeOver(ctx context.Context, ch channel) {
	if cred, err := ch.peerCred(); err != nil || !trusted(cred) {
		return
	}
	defer ch.limitHandshake(ctx)()
	ch.SetDeadline(time.Now().Add(cutPatience))
	if ch.send(message{Kind: kindTakeover}) == nil {
		ch.expect(kindTaken, 0)
	}
}

// closeSocket closes a socket and removes its file, unless another listener has
// put its own there. It doesn't wait for the directory's lock.
func closeSocket(ln *net.UnixListener, id fileID) {
	ln.Close()
	path := ownPath(ln)
	remove := func(wait time.Duration) bool {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		unlock, err := lockDir(ctx, filepath.Dir(path))
		if err != nil {
			return !errors.Is(err, context.DeadlineExceeded)
		}
		defer unlock()
		if now, err := identify(path); err == nil && now == id {
			os.Remove(path)
		}
		return true
	}
	if !remove(0) {
		go remove(lockTimeout) // and if not it is found to be stale later
	}
}

// ownPath returns where a socket is found, which was bound under another name.
func ownPath(ln *net.UnixListener) string {
	next := ln.Addr().(*net.UnixAddr).Name
	return next[:len(next)-len(nextSuffix)] + socketSuffix
}

// lockTimeout bounds the wait for the directory's lock, which is held only
// while a socket is bound or removed.
const lockTimeout = 5 * time.Second

// lockDir takes the lock on dir's contents.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(lockTimeout)
	defer timeout.Stop()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-timeout.C:
			f.Close()
			return nil, syserr.New(syscall.ETIMEDOUT, "another process holds the lock on "+dir)
		case <-time.After(wait):
		}
	}
}
