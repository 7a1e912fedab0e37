package rendezvous

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/syserr"
)

// A Socket is where dialers connect to a listener.
type Socket struct {
	ln   *net.UnixListener
	path string
	id   fileID // of the file there
}

// Bind binds the socket for a key. It replaces a file that a dead process has left. If a live
// process listens there, Bind fails with ErrInUse. With takeover, for a caller to which the
// kernel has granted the address, it takes over instead, and the other listener retires.
func Bind(ctx context.Context, key string, takeover bool) (*Socket, error) {
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
	other, err := net.DialTimeout("unixpacket", path, time.Second)
	if err == nil {
		defer other.Close()
		if !takeover {
			return nil, ErrInUse
		}
	} else if isLocal(err) {
		return nil, err
	} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) && !takeover {
		return nil, ErrInUse // the socket's queue is full, or the file is of another kind
	}
	// Under another name first: after the rename there is still a socket at any time.
	next := path[:len(path)-len(socketSuffix)] + nextSuffix
	os.Remove(next) // left by a process that died here
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: next, Net: "unixpacket"})
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	// remove unlinks the file, under the lock.
	ln.SetUnlinkOnClose(false)
	// The file's mode lets every user connect; credentials decide.
	s := &Socket{ln: ln, path: path}
	err = os.Chmod(next, 0o666)
	if err == nil {
		s.id, err = identify(next)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		ln.Close()
		os.Remove(next)
		return nil, err
	}
	sweep(dir, path)
	if other != nil {
		takeOver(ctx, Channel{other.(*net.UnixConn)})
	}
	return s, nil
}

// isLocal reports whether err says that this process has no more descriptors or memory.
func isLocal(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || IsShortage(err)
}

// Accept returns the next channel. It fails with net.ErrClosed after Close.
func (s *Socket) Accept() (Channel, error) {
	c, err := s.ln.AcceptUnix()
	return Channel{c}, err
}

// takeoverPatience is how long takeOver waits for the answer.
const takeoverPatience = 250 * time.Millisecond

// takeOver tells the listener that had the address so far to retire: its clients attach anew,
// here. If it doesn't answer, they do so when it closes.
func takeOver(ctx context.Context, ch Channel) {
	if cred, err := ch.PeerCred(); err != nil || !Trusted(cred) {
		return
	}
	defer ch.LimitHandshake(ctx)()
	ch.SetDeadline(time.Now().Add(takeoverPatience))
	if ch.Send(Message{Kind: KindTakeover}) == nil {
		ch.Expect(KindTaken, 0)
	}
}

// Close closes the socket and removes its file, unless another listener has put its own
// there. It doesn't wait for the directory's lock.
//
// The file is identified by its inode. While the inode exists, no later listener's file can
// have its number. The bound socket keeps the inode, so Close removes the file before it closes
// the socket, or keeps the inode by another descriptor until the file is removed.
func (s *Socket) Close() {
	if s.remove(0) {
		s.ln.Close()
		return
	}
	fd, err := unix.Open(s.path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	s.ln.Close()
	if err != nil {
		return // there is no file to remove
	}
	go func() {
		s.remove(lockTimeout) // if it fails, a later Bind or sweep finds the file stale
		unix.Close(fd)
	}()
}

// remove removes the file. It returns false if it could not lock the directory within wait.
func (s *Socket) remove(wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	unlock, err := lockDir(ctx, filepath.Dir(s.path))
	if err != nil {
		return !errors.Is(err, context.DeadlineExceeded)
	}
	defer unlock()
	if now, err := identify(s.path); err == nil && now == s.id {
		os.Remove(s.path)
	}
	return true
}

// Dial connects to the listener of a key, if its process is [Trusted]. It waits while the
// socket's queue is full.
func Dial(ctx context.Context, key string) (Channel, Cred, error) {
	dir := Dir()
	err := checkDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNobody
	}
	if err != nil {
		return Channel{}, Cred{}, err
	}
	path, err := socketPath(dir, key)
	if err != nil {
		return Channel{}, Cred{}, err
	}
	return DialPath(ctx, path)
}

// List returns the paths of the directory's sockets.
func List() ([]string, error) {
	dir := Dir()
	if err := checkDir(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
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
	return paths, err
}

// DialPath is Dial for the path of a socket.
func DialPath(parent context.Context, path string) (ch Channel, cred Cred, err error) {
	ctx, cancel := context.WithTimeout(untraced{parent}, HandshakeTimeout)
	defer cancel()
	ended := func() error {
		<-ctx.Done() // the connect may have failed just before the context ends
		if err := parent.Err(); err != nil {
			return err
		}
		return ErrSilent
	}
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, "unixpacket", path)
		if err == nil {
			ch = Channel{c.(*net.UnixConn)}
			break
		}
		var errno syscall.Errno
		switch {
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
			return ch, cred, ended()
		case errors.Is(err, fs.ErrNotExist):
			return ch, cred, ErrNobody
		case errors.Is(err, syscall.EAGAIN):
			select {
			case <-ctx.Done():
				return ch, cred, ended()
			case <-time.After(wait):
				continue
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			return ch, cred, ErrNobody // a dead process has left its file there
		case errors.As(err, &errno):
			err = errno
		}
		return ch, cred, err
	}
	if cred, err = ch.PeerCred(); err == nil && !Trusted(cred) {
		err = syserr.New(syscall.EACCES, "the listener belongs to another user")
	}
	if err != nil {
		ch.Close()
	}
	return ch, cred, err
}

// An untraced context has no values, and so no tracer: a program's tracer must not see the
// connects of this package.
type untraced struct{ context.Context }

func (untraced) Value(any) any { return nil }
