package ctnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runDir returns the directory in which applications find each other.
func runDir() string {
	if dir := os.Getenv("CTNET_DIR"); dir != "" {
		return dir
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
		return &problem{syscall.ENOTDIR, dir + " must be a directory; remove it, or set CTNET_DIR to another one"}
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return &problem{syscall.EPERM, fmt.Sprintf("%s belongs to user %d; set CTNET_DIR to a directory of your own", dir, st.Uid)}
	case fi.Mode().Perm()&0o022 != 0:
		return &problem{syscall.EPERM, fmt.Sprintf("others can write to %s; do chmod 0700, or set CTNET_DIR to another directory", dir)}
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

const socketSuffix = ".sock"

// socketPath returns where in dir the listener for a key is found. The key may
// hold any bytes, so its hash makes the file's name.
func socketPath(dir, key string) (string, error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(dir, hex.EncodeToString(sum[:12])+socketSuffix)
	if len(path) >= len(unix.RawSockaddrUnix{}.Path) {
		return "", &problem{syscall.ENAMETOOLONG, dir + " is too long a name; set CTNET_DIR to a shorter one"}
	}
	return path, nil
}

// listenSocket binds the socket for a key. A file that a dead process has left
// there is replaced; if a live one listens there it is EADDRINUSE.
func listenSocket(ctx context.Context, key string) (*net.UnixListener, error) {
	dir, err := makeDir()
	if err != nil {
		return nil, err
	}
	path, err := socketPath(dir, key)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ln, err := bindSocket(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	c, err := net.DialTimeout("unixpacket", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errInUse
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return bindSocket(path)
}

func bindSocket(path string) (*net.UnixListener, error) {
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	// Under the lock only, see closeSocket.
	ln.SetUnlinkOnClose(false)
	// Who may connect is decided by credentials.
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// closeSocket closes a socket and removes its file, unless another listener has
// put its own there. That could be while this process was about to die.
func closeSocket(ln *net.UnixListener) {
	path := ln.Addr().(*net.UnixAddr).Name
	unlock, err := lockDir(context.Background(), filepath.Dir(path))
	if err != nil {
		ln.Close() // the file is found to be stale later
		return
	}
	defer unlock()
	os.Remove(path)
	ln.Close()
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
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
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
		case <-time.After(wait):
		}
	}
}
