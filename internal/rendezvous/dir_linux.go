package rendezvous

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

// Dir returns the directory in which applications find each other.
func Dir() string {
	if dir := os.Getenv("CTNET_DIR"); dir != "" {
		return filepath.Clean(dir)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "ctnet")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("ctnet-%d", os.Geteuid()))
}

// checkDir checks that only this user and root can change what is in dir. Other users may read
// it, as credentials are checked when a process connects.
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

// makeDir makes the directory if it is missing, and checks it.
func makeDir() (string, error) {
	dir := Dir()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, checkDir(dir)
}

const (
	socketSuffix = ".sock"
	nextSuffix   = ".next" // of a new socket, before it is renamed; as long as socketSuffix
)

// socketPath returns the path in dir of the socket for a key. A key may contain any bytes, so
// the file's name is its hash.
func socketPath(dir, key string) (string, error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(dir, hex.EncodeToString(sum[:12])+socketSuffix)
	if len(path) >= len(unix.RawSockaddrUnix{}.Path) {
		return "", syserr.New(syscall.ENAMETOOLONG, dir+" is too long a name; set CTNET_DIR to a shorter one")
	}
	return path, nil
}

const (
	sweepLooks = 4 // how many files one sweep checks

	// sweepAge is the least age of a file that sweep checks. The check connects to the
	// socket, and must not disturb a listener often.
	sweepAge = time.Hour
)

// sweep checks a few files, and removes those of dead processes: many could pile up, as their
// names may never be used again. The caller has the directory's lock.
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

// A fileID identifies a file, whatever its name.
type fileID struct{ dev, ino uint64 }

func identify(path string) (fileID, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return fileID{uint64(st.Dev), st.Ino}, err
}

// lockTimeout bounds the wait for the directory's lock, which is held only
// while a socket is bound or removed.
const lockTimeout = 5 * time.Second

// lockDir locks dir's contents against other processes.
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
