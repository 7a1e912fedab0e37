package rendezvous

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/hostnet"
)

// A Socket is where dialers connect to a listener.
type Socket struct {
	at       place
	netns    string // in which the names are; for keep
	key      string
	arrivals chan Channel
	done     chan struct{}  // closed by Close
	serving  sync.WaitGroup // goroutines

	mu     sync.Mutex
	doors  []door
	closed bool
	handed bool // another process has taken over
}

// A door is a socket on which dialers connect, under a name in the network namespace or at a path.
type door struct {
	ln     *net.UnixListener
	name   string
	seat   int
	beacon int    // if the name is in the network namespace; -1 if there is none
	id     fileID // of the file, otherwise
}

// Bind binds the socket for a key. It replaces a file that a dead process has left. If a live
// process of this user or of root listens there, Bind fails with ErrInUse. With takeover, for a
// caller to which the kernel has granted the address, it takes over instead, and the other listener
// retires.
func Bind(ctx context.Context, key string, takeover bool) (*Socket, error) {
	at := place{Dir()}
	unlock, err := at.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, err := at.bind(ctx, key, takeover)
	if err != nil {
		return nil, err
	}
	s := newSocket(at, key)
	s.open(d)
	if at.dir != "" || d.seat > 0 {
		s.netns, _ = hostnet.NetNamespace()
		s.serving.Go(s.keep)
	}
	return s, nil
}

func newSocket(at place, key string) *Socket {
	return &Socket{at: at, key: key, arrivals: make(chan Channel), done: make(chan struct{})}
}

// open adds a door.
func (s *Socket) open(d door) {
	s.doors = append(s.doors, d)
	s.serving.Go(func() { s.answer(d.ln) })
}

// answer passes on what comes through a door, until that is closed.
func (s *Socket) answer(ln *net.UnixListener) {
	var wait time.Duration
	for {
		c, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or of memory
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(wait):
			case <-s.done:
			}
			continue
		}
		wait = 0
		select {
		case s.arrivals <- Channel{c}:
		case <-s.done:
			go c.Close() // which can block, see HangUp
		}
	}
}

// Accept returns the next channel. It fails with net.ErrClosed after Close.
func (s *Socket) Accept() (Channel, error) {
	select {
	case ch := <-s.arrivals:
		return ch, nil
	case <-s.done:
		return Channel{}, net.ErrClosed
	}
}

// Names returns the names or paths under which the socket is found.
func (s *Socket) Names() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.doors {
		names = append(names, d.name)
	}
	return names
}

// keepEvery is how often a Socket looks after its doors.
const keepEvery = time.Second

// keep makes a new door if the file of the last one is gone, and moves to an earlier seat when
// that is free: dialers look no further than to the first free one.
func (s *Socket) keep() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			s.repair()
		}
	}
}

func (s *Socket) repair() {
	s.mu.Lock()
	if s.closed || s.handed {
		s.mu.Unlock()
		return
	}
	// Dialers have had time enough to come through the others.
	last := len(s.doors) - 1
	for _, d := range s.doors[:last] {
		d.close(s.at)
	}
	s.doors = s.doors[last:]
	name, seat := s.doors[0].name, s.doors[0].seat
	s.mu.Unlock()

	if s.at.dir != "" {
		if _, err := identify(name); errors.Is(err, fs.ErrNotExist) {
			seat++ // its own is free too
		}
	}
	if seat == 0 {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if netns, _ := hostnet.NetNamespace(); s.at.dir == "" && netns != s.netns {
		return // the listener was made by a thread in another one
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepEvery)
	defer cancel()
	unlock, err := s.at.lock(ctx)
	if err != nil {
		return // the next time
	}
	defer unlock()
	for i := range seat {
		d, err := s.at.take(s.key, i)
		if err != nil {
			continue
		}
		s.mu.Lock()
		if s.closed || s.handed {
			d.close(s.at)
		} else {
			s.open(d)
		}
		s.mu.Unlock()
		return
	}
}

// Close closes the socket and removes its file, unless another listener has put its own
// there. It doesn't wait for the directory's lock.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	for _, d := range s.doors {
		d.close(s.at)
	}
}

// HandOver lets the process at the other end of ch take over. It calls retire before that process
// can answer a dialer. In the network namespace it sends the door and closes it here; in a
// directory the other process has put its own file in the place of this one's. If another process
// has taken over already, the answer is ESTALE.
func (s *Socket) HandOver(ch Channel, retire func()) error {
	s.mu.Lock()
	gone := s.handed || s.closed
	s.handed = true
	var files []int
	if !gone && s.at.dir == "" {
		files = s.doors[len(s.doors)-1].duplicate()
		for _, d := range s.doors {
			d.close(s.at)
		}
		s.doors = nil
	}
	s.mu.Unlock()
	if gone {
		return ch.Send(Message{Kind: KindTaken, Errno: uint32(syscall.ESTALE)})
	}
	retire()
	defer closeAll(files)
	return ch.Send(Message{Kind: KindTaken}, files...)
}

// duplicate returns duplicates of a door's descriptors, or nil.
func (d door) duplicate() (fds []int) {
	raw, err := d.ln.SyscallConn()
	if err != nil {
		return nil
	}
	raw.Control(func(ln uintptr) {
		for _, fd := range []int{int(ln), d.beacon} {
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
				fds = append(fds, fd)
			}
		}
	})
	if len(fds) < 2 {
		closeAll(fds)
		return nil
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// close closes a door.
//
// A file is identified by its inode. While the inode exists, no later listener's file can
// have its number. The bound socket keeps the inode, so close removes the file before it closes
// the socket, or keeps the inode by another descriptor until the file is removed.
func (d door) close(at place) {
	if at.dir == "" {
		if d.beacon >= 0 {
			unix.Close(d.beacon) // first: nobody looks for the door who does not see it
		}
		d.ln.Close()
		return
	}
	if d.remove(0) {
		d.ln.Close()
		return
	}
	fd, err := unix.Open(d.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	d.ln.Close()
	if err != nil {
		return // there is no file to remove
	}
	go func() {
		d.remove(lockTimeout) // if it fails, a later Bind or sweep finds the file stale
		unix.Close(fd)
	}()
}

// remove removes a door's file. It returns false if it could not lock the directory within wait.
func (d door) remove(wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	unlock, err := lockDir(ctx, filepath.Dir(d.name))
	if err != nil {
		return !errors.Is(err, context.DeadlineExceeded)
	}
	defer unlock()
	if now, err := identify(d.name); err == nil && now == d.id {
		os.Remove(d.name)
	}
	return true
}
