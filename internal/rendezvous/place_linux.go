package rendezvous

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/hostnet"
)

// A place is where the sockets for keys are: a directory, or the network namespace if dir is "".
//
// A key has several seats in it, as a user can occupy one that another user's listener should
// have. A listener takes the first seat that no other user has. A dialer tries one after the
// other, until a process is there that it trusts, or nobody.
type place struct{ dir string }

// name returns the name of a seat.
func (p place) name(key string, seat int) (string, error) {
	if p.dir == "" {
		return nameOf(key, seat), nil
	}
	return socketPath(p.dir, key, seat)
}

// taken reports whether somebody has a name, or had it and has left a file.
func (p place) taken(name string) bool {
	if p.dir == "" {
		return lit(hostnet.NewRawName(name))
	}
	return isThere(name)
}

func isThere(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}

// lock locks this user's seats, as far as that is needed, and makes the directory.
func (p place) lock(ctx context.Context) (unlock func(), err error) {
	if p.dir == "" {
		return func() {}, ctx.Err()
	}
	if err := makeDir(p.dir); err != nil {
		return nil, unusable(err)
	}
	unlock, err = lockDir(ctx, p.dir)
	if _, ok := err.(*fs.PathError); ok && !isLocal(err) {
		err = unusable(err)
	}
	return unlock, err
}

// connect connects to a socket, without waiting. An error is an errno, or *Unusable if this process
// can't have such a socket.
func connect(name string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if isLocal(err) {
		return -1, err
	}
	if err != nil {
		return -1, unusable(os.NewSyscallError("socket", err))
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// credOf returns the credentials of the process at the other end of a socket.
func credOf(fd int) (Cred, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt", err)
	}
	return Cred{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid)}, nil
}

// channelOf makes a connected socket a channel.
func channelOf(fd int) (Channel, error) {
	f := os.NewFile(uintptr(fd), "ctnet channel")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return Channel{}, os.NewSyscallError("socket", errnoOf(err))
	}
	return Channel{c.(*net.UnixConn)}, nil
}

const (
	// bindTries is how often bind begins anew, as another process was about to bind, or to
	// close, the same name.
	bindTries = 20

	bindPause = 5 * time.Millisecond
)

// bind makes the door of a listener, see [Bind].
func (p place) bind(ctx context.Context, key string, takeover bool) (door, error) {
	for try := 0; ; try++ {
		d, err := p.tryBind(ctx, key, takeover, try == bindTries)
		if err != errAgain {
			return d, err
		}
		select {
		case <-time.After(bindPause):
		case <-ctx.Done():
			return d, ctx.Err()
		}
	}
}

// errAgain says that a name's owner could not be asked: it is about to listen, or to end.
var errAgain = errors.New("try again")

// tryBind is one try of bind. The last one passes over names whose owner can't be asked.
func (p place) tryBind(ctx context.Context, key string, takeover, last bool) (door, error) {
	pass := last
	// A listener of this user may have any seat, as others were not free when it came.
	for seat := range maxSeats {
		name, err := p.name(key, seat)
		if err != nil {
			return door{}, unusable(err)
		}
		if !p.taken(name) {
			continue
		}
		ch, err := dialOurs(name)
		if err != nil {
			return door{}, err
		}
		if ch == nil {
			continue
		}
		defer ch.Close()
		if !takeover {
			return door{}, ErrInUse
		}
		d, err := p.takeOver(ctx, *ch, name, seat)
		if err == nil || err == errAgain && !last {
			return d, err
		}
		pass = true // it doesn't answer, so this one takes another seat
		break
	}
	for seat := range maxSeats {
		d, err := p.take(key, seat)
		switch {
		case err == nil:
			if p.dir != "" {
				sweep(p.dir, d.name)
			}
			return d, nil
		case err == errSeatTaken, err == unix.EADDRINUSE && pass:
			continue
		case err == unix.EADDRINUSE:
			return d, errAgain
		case isLocal(err):
			return d, err
		default:
			return d, unusable(err)
		}
	}
	return door{}, ErrNamesTaken
}

// dialOurs connects to the socket with a name, if it belongs to a process of this user or of root.
// It returns nil if not, or if that can't be found out.
func dialOurs(name string) (*Channel, error) {
	fd, err := connect(name)
	if isLocal(err) {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	if cred, err := credOf(fd); err != nil || !Ours(cred) {
		unix.Close(fd)
		return nil, err
	}
	ch, err := channelOf(fd)
	return &ch, err
}

// isLocal reports whether err says that this process has no more descriptors or memory, or can't
// have the sockets that are needed.
func isLocal(err error) bool {
	var u *Unusable
	return errors.As(err, &u) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || IsShortage(err)
}

// errSeatTaken says that another user has a seat.
var errSeatTaken = errors.New("seat taken")

// take binds a seat. The error is errSeatTaken if another user has it, and EADDRINUSE if somebody
// has it who may be of this user.
func (p place) take(key string, seat int) (d door, err error) {
	name, err := p.name(key, seat)
	if err != nil {
		return d, err
	}
	if p.dir == "" {
		d, err = occupy(name)
		if err == unix.EADDRINUSE && strange(name) {
			err = errSeatTaken
		}
	} else {
		d, err = takeFile(name)
	}
	d.seat = seat
	return d, err
}

// strange reports whether a name that is in use is another user's.
func strange(name string) bool {
	fd, err := connect(name)
	if err != nil {
		return err == unix.EAGAIN // nobody can ask it
	}
	defer unix.Close(fd)
	cred, err := credOf(fd)
	return err == nil && !Ours(cred)
}

// takeFile binds a seat in the directory. It removes what a dead process has left there.
func takeFile(path string) (d door, err error) {
	if fd, err := connect(path); err == nil {
		defer unix.Close(fd)
		if cred, err := credOf(fd); err == nil && Ours(cred) {
			return d, unix.EADDRINUSE
		}
		return d, errSeatTaken
	} else if isLocal(err) {
		return d, err
	} else if err != unix.ENOENT || isLink(path) {
		if err == unix.EAGAIN || os.Remove(path) != nil {
			return d, errSeatTaken
		}
	}
	ln, err := listenPacket(path)
	if err == unix.EADDRINUSE {
		return d, errSeatTaken // another user was faster
	}
	if err != nil {
		return d, err
	}
	return newFileDoor(ln, path)
}

func isLink(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode()&fs.ModeSymlink != 0
}

// newFileDoor returns a door whose file has just been made.
func newFileDoor(ln *net.UnixListener, path string) (d door, err error) {
	// The file's mode lets every user connect; credentials decide.
	err = os.Chmod(path, 0o666)
	d = door{ln: ln, name: path}
	if err == nil {
		d.id, err = identify(path)
	}
	if err != nil {
		ln.Close()
		os.Remove(path)
	}
	return d, err
}

// takeoverPatience is how long takeOver waits for the answer.
const takeoverPatience = 250 * time.Millisecond

// takeOver takes over the seat of a listener that has answered on ch. The error is errAgain if
// another process must be asked.
//
// In the network namespace the other listener hands its sockets over, so that no dialer finds
// nobody there. In a directory this one's file replaces the other's; if the other listener doesn't
// answer, its clients attach anew when it closes.
func (p place) takeOver(ctx context.Context, ch Channel, name string, seat int) (d door, err error) {
	if p.dir != "" {
		if d, err = replaceFile(name); err != nil {
			return d, err
		}
		d.seat = seat
	}
	m, fds, err := askToRetire(ctx, ch)
	defer fds.Close()
	if p.dir != "" {
		return d, nil
	}
	if err == nil && m.Errno == uint32(syscall.ESTALE) {
		return d, errAgain
	}
	if err == nil {
		err = m.Check(KindTaken, 2, fds)
	}
	if err != nil {
		return d, err
	}
	return adopt(name, seat, fds)
}

// askToRetire tells the listener at the other end to retire, and returns its answer.
func askToRetire(ctx context.Context, ch Channel) (m Message, fds foreign.FDs, err error) {
	defer ch.LimitHandshake(ctx)()
	ch.SetDeadline(time.Now().Add(takeoverPatience))
	if err = ch.Send(Message{Kind: KindTakeover}); err == nil {
		m, fds, err = ch.Receive()
	}
	return m, fds, err
}

// replaceFile binds a socket in the place of another one's file. There is a socket at any time.
func replaceFile(path string) (d door, err error) {
	next := path[:len(path)-len(socketSuffix)] + nextSuffix
	os.Remove(next) // left by a process that died here
	ln, err := listenPacket(next)
	if err != nil {
		return d, err
	}
	if d, err = newFileDoor(ln, next); err != nil {
		return d, err
	}
	if err = os.Rename(next, path); err != nil {
		ln.Close()
		os.Remove(next)
		return d, err
	}
	d.name = path
	return d, nil
}

// adopt makes the descriptors that a listener has handed over a door.
func adopt(name string, seat int, fds foreign.FDs) (d door, err error) {
	for i, kind := range []int{unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
		if got, err := unix.GetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_TYPE); err != nil || got != kind {
			return d, ErrProtocol
		}
		if at, err := unix.Getsockname(fds[i]); err != nil || nameIn(at) != name {
			return d, ErrProtocol
		}
	}
	// From now on the kernel gives dialers this process's credentials, not the other's.
	if err := unix.Listen(fds[0], unix.SOMAXCONN); err != nil {
		return d, os.NewSyscallError("listen", err)
	}
	f := os.NewFile(uintptr(fds.Take(0)), name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return d, err
	}
	return door{ln: ln.(*net.UnixListener), name: name, seat: seat, beacon: fds.Take(1)}, nil
}

func nameIn(a unix.Sockaddr) string {
	if u, ok := a.(*unix.SockaddrUnix); ok {
		return u.Name
	}
	return ""
}

// errnoOf returns the errno in err, or err if there is none.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
