package rendezvous

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to the listener of a key whose process trust accepts. It waits while the queues of
// all sockets are full that the key has. If there are only listeners that trust does not accept the
// error is a [*Stranger].
func Dial(ctx context.Context, key string, trust func(Cred) bool) (Channel, Cred, error) {
	p := place{Dir()}
	if p.dir != "" {
		err := checkDir(p.dir)
		if errors.Is(err, fs.ErrNotExist) {
			return Channel{}, Cred{}, ErrNobody
		}
		if err != nil {
			return Channel{}, Cred{}, unusable(err)
		}
	}
	return dial(ctx, func(seat int) (string, error) {
		if seat == maxSeats {
			return "", nil
		}
		name, err := p.name(key, seat)
		if err != nil || !p.taken(name) {
			return "", err
		}
		return name, nil
	}, trust)
}

// DialName is Dial for the name or path of one socket, as [List] returns it.
func DialName(ctx context.Context, name string, trust func(Cred) bool) (Channel, Cred, error) {
	return dial(ctx, func(seat int) (string, error) {
		if seat > 0 {
			return "", nil
		}
		return name, nil
	}, trust)
}

// dial connects to the first of several sockets that trust accepts. next returns their names, and
// then "".
func dial(parent context.Context, next func(i int) (string, error), trust func(Cred) bool) (Channel, Cred, error) {
	ctx, cancel := context.WithTimeout(parent, HandshakeTimeout)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if err := parent.Err(); err != nil {
			return Channel{}, Cred{}, err
		}
		fd, cred, err := dialOnce(next, trust)
		if err == nil {
			ch, err := channelOf(fd)
			return ch, cred, err
		}
		if err != unix.EAGAIN {
			return Channel{}, cred, err
		}
		select {
		case <-ctx.Done():
			if parent.Err() == nil {
				return Channel{}, Cred{}, ErrSilent
			}
		case <-time.After(wait):
		}
	}
}

// dialOnce is one try of dial. The error is EAGAIN if a queue is full.
func dialOnce(next func(i int) (string, error), trust func(Cred) bool) (int, Cred, error) {
	result := ErrNobody
	for i := 0; ; i++ {
		name, err := next(i)
		if err != nil {
			return -1, Cred{}, err
		}
		if name == "" {
			return -1, Cred{}, result
		}
		fd, err := connect(name)
		switch err {
		case nil:
		case unix.ECONNREFUSED, unix.ENOENT:
			continue // a dead process has left its file there
		case unix.EAGAIN:
			result = err // there may be a listener
			continue
		default:
			if isLocal(err) {
				return -1, Cred{}, err
			}
			if result == ErrNobody {
				result = err
			}
			continue
		}
		cred, err := credOf(fd)
		if err == nil && trust(cred) {
			return fd, cred, nil
		}
		unix.Close(fd)
		if result != unix.EAGAIN {
			if result = err; err == nil {
				result = &Stranger{cred}
			}
		}
	}
}

// List returns the names or paths of all sockets in this place, and those of applications that do not
// listen there.
func List() ([]string, error) {
	names, err := listNames()
	dir := Dir()
	if dir == "" || err != nil {
		return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ownDirPrefix) }), err
	}
	own := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, ownNames(dir)) })
	if err := checkDir(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return own, nil
		}
		return nil, err
	}
	files, err := os.ReadDir(dir)
	var paths []string
	for _, f := range files {
		if strings.HasSuffix(f.Name(), socketSuffix) {
			paths = append(paths, filepath.Join(dir, f.Name()))
		}
	}
	return append(paths, own...), err
}
