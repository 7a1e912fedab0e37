package rendezvous

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/syserr"
)

// Dir returns the directory in which applications find each other, or "" if they do so in the
// network namespace.
func Dir() string {
	if dir := os.Getenv("CTNET_DIR"); dir != "" {
		return filepath.Clean(dir)
	}
	return ""
}

// checkDir checks that the directory can be used. Any user may own it and write to it: such a user
// can keep applications from finding each other, but can't take another's place, as credentials
// are checked when a process connects.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return syserr.New(syscall.EINVAL, fmt.Sprintf("CTNET_DIR=%s must be an absolute path", dir))
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return syserr.New(syscall.ENOTDIR, dir+" must be a directory; remove it, or set CTNET_DIR to another one")
	}
	return nil
}

// makeDir makes the directory if it is missing, and checks it.
func makeDir(dir string) error {
	if filepath.IsAbs(dir) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return checkDir(dir)
}

const (
	socketSuffix = ".sock"
	nextSuffix   = ".next" // of a new socket, before it is renamed; as long as socketSuffix
)

// socketPath returns the path in dir of a seat of a key. A key may contain any bytes, so
// the file's name is its hash; of a seat after the first, the hash of the key, a NUL and the
// seat's number.
func socketPath(dir, key string, seat int) (string, error) {
	if seat > 0 {
		key = fmt.Sprintf("%s\x00%d", key, seat)
	}
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
		fd, err := connect(path)
		if err == nil {
			unix.Close(fd)
		} else if err == unix.ECONNREFUSED {
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

// lockPath returns the path of this user's lock in dir.
func lockPath(dir string) string { return filepath.Join(dir, fmt.Sprintf("lock-%d", os.Geteuid())) }

// lockDir locks this user's sockets in dir against other processes of the user. If another user
// has put a file of his own in the lock's place there is no lock: then a listener can lose its file
// to another one of this user that starts at the same time, and binds another one, see
// [Socket.keep].
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		if st := new(unix.Stat_t); unix.Lstat(lockPath(dir), st) == nil && int(st.Uid) != os.Geteuid() {
			return func() {}, nil
		}
		return nil, err
	}
	if fi, err := f.Stat(); err == nil && int(fi.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		f.Close()
		return func() {}, nil
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
