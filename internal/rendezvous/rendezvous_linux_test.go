package rendezvous

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/leakcheck"
)

// useDir gives a test a directory of its own, with a short name.
func useDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctnet")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CTNET_DIR", dir)
	leakcheck.Check(t)
	return dir
}

// inPlaces runs a test in a directory of its own, and in the network namespace. The key is the
// test's own in both.
func inPlaces(t *testing.T, f func(t *testing.T, key string)) {
	key := fmt.Sprintf("ct:%s-%d", t.Name(), os.Getpid())
	t.Run("directory", func(t *testing.T) {
		useDir(t)
		f(t, key)
	})
	t.Run("network", func(t *testing.T) {
		t.Setenv("CTNET_DIR", "")
		NewLookup(key).Present() // opens the probe, which stays
		leakcheck.Check(t)
		f(t, key)
	})
}

func bind(t *testing.T, key string) *Socket {
	t.Helper()
	s, err := Bind(t.Context(), key, false)
	require.NoError(t, err)
	return s
}

// listed reports whether List has the first seat of a key.
func listed(t *testing.T, key string) bool {
	t.Helper()
	all, err := List()
	require.NoError(t, err)
	name, err := place{Dir()}.name(key, 0)
	require.NoError(t, err)
	return slices.Contains(all, name)
}

// abandon ends a listener as its process's death does, with its file left.
func abandon(t *testing.T, s *Socket) {
	t.Helper()
	for _, d := range s.doors {
		require.NoError(t, d.ln.Close())
	}
	s.at, s.doors = place{}, nil
	s.Close()
	s.serving.Wait()
}

// meet dials a socket and accepts.
func meet(t *testing.T, s *Socket, key string) (dialed, accepted Channel) {
	t.Helper()
	dialed, cred, err := Dial(t.Context(), key, Trusted)
	require.NoError(t, err)
	require.Equal(t, Cred{os.Getpid(), os.Geteuid(), os.Getegid()}, cred)
	accepted, err = s.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		dialed.Close()
		accepted.Close()
	})
	return dialed, accepted
}

func TestBindAndDial(t *testing.T) {
	inPlaces(t, func(t *testing.T, key string) {
		_, _, err := Dial(t.Context(), key, Trusted)
		require.Equal(t, ErrNobody, err)
		require.False(t, listed(t, key))

		s := bind(t, key)
		require.True(t, NewLookup(key).Present())
		require.False(t, NewLookup(key+"l").Present())
		meet(t, s, key)
		require.True(t, listed(t, key))
		_, err = Bind(t.Context(), key, false)
		require.Equal(t, ErrInUse, err)
		other := bind(t, key+"l")
		other.Close()

		s.Close()
		_, err = s.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.False(t, NewLookup(key).Present())
		require.False(t, listed(t, key))
		_, _, err = Dial(t.Context(), key, Trusted)
		require.Equal(t, ErrNobody, err)
		if dir := Dir(); dir != "" {
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, 1)
			require.Equal(t, lockPath(dir), filepath.Join(dir, left[0].Name()))
		}
	})
}

// TestTakeover lets another socket take over a key. The first socket is told, and its Close leaves
// the other's name. If the first one does not answer, it keeps its name in the network namespace
// until it closes.
func TestTakeover(t *testing.T) {
	inPlaces(t, func(t *testing.T, key string) {
		for _, answers := range []bool{true, false} {
			old := bind(t, key)
			retired := false
			var told sync.WaitGroup
			told.Go(func() {
				ch, err := old.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer ch.Close()
				m, _, err := ch.Receive()
				if err != nil || m.Kind != KindTakeover {
					t.Errorf("message %v, %v", m.Kind, err)
				}
				if answers {
					if err := old.HandOver(ch, func() { retired = true }); err != nil {
						t.Error(err)
					}
				} else {
					io.Copy(io.Discard, ch) // until it is left alone
				}
			})
			s, err := Bind(t.Context(), key, true)
			require.NoError(t, err)
			told.Wait()
			require.Equal(t, answers, retired)
			if !answers && Dir() == "" {
				s.repair()
				require.NotEqual(t, nameOf(key, 0), s.doors[0].name)
				old.Close()
				s.repair()
			}
			old.Close()
			meet(t, s, key)
			s.Close()
			require.False(t, NewLookup(key).Present())
		}
	})
}

// TestTakeoverKeepsQueue lets another socket take over while dialers are in the first one's queue.
// They are accepted there, and the first one's user is not asked twice.
func TestTakeoverKeepsQueue(t *testing.T) {
	t.Setenv("CTNET_DIR", "")
	key := fmt.Sprintf("ct:%s-%d", t.Name(), os.Getpid())
	NewLookup(key).Present()
	leakcheck.Check(t)
	old := bind(t, key)
	bound := make(chan *Socket)
	go func() {
		s, err := Bind(t.Context(), key, true)
		if err != nil {
			t.Error(err)
		}
		bound <- s
	}()
	asking, err := old.Accept()
	require.NoError(t, err)
	_, _, err = asking.Expect(KindTakeover, 0)
	require.NoError(t, err)
	const n = 10
	var dialed []Channel
	for range n {
		ch, _, err := Dial(t.Context(), key, Trusted)
		require.NoError(t, err)
		dialed = append(dialed, ch)
	}
	require.NoError(t, old.HandOver(asking, func() {}))
	asking.Close()
	s := <-bound
	for range n {
		select { // old may have accepted one ahead
		case ch := <-old.arrivals:
			ch.Close()
		case ch := <-s.arrivals:
			ch.Close()
		}
	}
	for _, ch := range dialed {
		ch.Close()
	}
	// Whoever asks old now is sent away, to the one that has the name.
	mine, theirs := pairOfChannels(t)
	require.NoError(t, old.HandOver(mine, func() { t.Error("retired twice") }))
	m, _, err := theirs.Receive()
	require.NoError(t, err)
	require.EqualValues(t, syscall.ESTALE, m.Errno)
	old.Close()
	meet(t, s, key)
	s.Close()
	require.False(t, NewLookup(key).Present())
}

// pairOfChannels returns the two ends of a channel.
func pairOfChannels(t *testing.T) (a, b Channel) {
	t.Helper()
	a, fd := socketPair(t)
	b, err := channelOf(fd)
	require.NoError(t, err)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// TestStale binds where a dead process has left its file.
func TestStale(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	abandon(t, s) // its file stays
	require.True(t, NewLookup("k").Present())
	_, _, err := Dial(t.Context(), "k", Trusted)
	require.Equal(t, ErrNobody, err)
	again := bind(t, "k")
	meet(t, again, "k")
	again.Close()
	require.False(t, NewLookup("k").Present())
}

// TestBindAtOnce binds one key many times at once: one socket at a time has the key, and there is
// a socket at any moment from the first to the last.
func TestBindAtOnce(t *testing.T) {
	inPlaces(t, func(t *testing.T, key string) {
		var owners atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					s, err := Bind(t.Context(), key, false)
					if err == ErrInUse {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					if n := owners.Add(1); n != 1 {
						t.Errorf("%d have it", n)
					}
					runtime.Gosched()
					owners.Add(-1)
					s.Close()
				}
			})
		}
		wg.Wait()
		require.False(t, NewLookup(key).Present())
	})
}

// TestLocked binds while another process has the directory's lock.
func TestLocked(t *testing.T) {
	dir := useDir(t)
	s := bind(t, "k")
	unlock, err := lockDir(t.Context(), dir)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Bind(ctx, "l", false)
	require.Equal(t, context.Canceled, err)
	s.Close() // does not wait
	require.True(t, NewLookup("k").Present())
	unlock()
	require.Eventually(t, func() bool { return !NewLookup("k").Present() }, leakcheck.Patience, time.Millisecond)
}

// TestSweep makes many files of dead processes, which are removed in time, and one of a live
// process, which stays.
func TestSweep(t *testing.T) {
	dir := useDir(t)
	live := bind(t, "live")
	defer live.Close()
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		abandon(t, bind(t, name))
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	old := time.Now().Add(-2 * sweepAge)
	for _, f := range files {
		require.NoError(t, os.Chtimes(filepath.Join(dir, f.Name()), old, old))
	}
	abandon(t, bind(t, "young"))
	require.Eventually(t, func() bool {
		bind(t, "x").Close()
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(files) == 3 // the live one's, the young one's, and the lock
	}, leakcheck.Patience, time.Microsecond)
	meet(t, live, "live")
	require.True(t, NewLookup("young").Present())
}

// TestUnfitDir uses what is no directory, and directories that other users may change.
func TestUnfitDir(t *testing.T) {
	dir := useDir(t)
	for _, mode := range []fs.FileMode{0o700, 0o755, 0o770, 0o777, 0o770 | fs.ModeSetgid, 0o777 | fs.ModeSticky} {
		require.NoError(t, os.Chmod(dir, mode))
		require.NoError(t, checkDir(dir), "%v", mode)
	}
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	require.ErrorIs(t, checkDir(link), syscall.ENOTDIR)
	require.ErrorIs(t, checkDir(link+"/none"), fs.ErrNotExist)
	require.ErrorIs(t, checkDir("relative"), syscall.EINVAL)
	require.ErrorIs(t, makeDir("relative"), syscall.EINVAL)
	require.NoDirExists(t, "relative")
	require.NoError(t, checkDir("/proc"), "of root")
}

// TestStrangers dials sockets of another user.
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have a socket of another user")
	}
	const stranger = 12345
	inPlaces(t, func(t *testing.T, key string) {
		squatters := func(n int) (all []door) {
			for seat := range n {
				name, err := place{Dir()}.name(key, seat)
				require.NoError(t, err)
				asuser.Do(t, stranger, func() {
					if Dir() == "" {
						d, err := occupy(name)
						require.NoError(t, err)
						all = append(all, d)
						return
					}
					ln, err := listenPacket(name)
					require.NoError(t, err)
					d, err := newFileDoor(ln, name)
					require.NoError(t, err)
					all = append(all, d)
				})
			}
			return all
		}
		leave := func(all []door) {
			for _, d := range all {
				d.close(place{Dir()})
			}
		}

		theirs := squatters(2)
		_, _, err := Dial(t.Context(), key, Trusted)
		var s *Stranger
		require.ErrorAs(t, err, &s)
		require.Equal(t, stranger, s.Cred.UID)
		require.ErrorIs(t, err, syscall.EACCES)
		require.ErrorContains(t, err, "belongs to user 12345")
		t.Setenv("CTNET_ALLOW", "1, 12345")
		ch, cred, err := Dial(t.Context(), key, Trusted)
		require.NoError(t, err)
		require.Equal(t, stranger, cred.UID)
		ch.Close()
		t.Setenv("CTNET_ALLOW", "")

		// They keep nobody from the key, and a dialer goes past them.
		for _, takeover := range []bool{false, true} {
			own, err := Bind(t.Context(), key, takeover)
			require.NoError(t, err)
			require.Equal(t, 2, own.doors[0].seat)
			meet(t, own, key)
			_, err = Bind(t.Context(), key, false)
			require.Equal(t, ErrInUse, err)
			own.Close()
		}

		// When they go, the listener moves to where dialers look first.
		own := bind(t, key)
		leave(theirs)
		own.repair()
		require.Equal(t, 0, own.doors[len(own.doors)-1].seat)
		meet(t, own, key)
		own.repair()
		require.Len(t, own.doors, 1)
		meet(t, own, key)
		own.Close()
		require.False(t, NewLookup(key).Present())

		// Those that nobody can ask, as their queues are full, count as strangers.
		theirs = squatters(1)
		var queued []int
		for {
			fd, err := connect(theirs[0].name)
			if err == unix.EAGAIN {
				break
			}
			require.NoError(t, err)
			queued = append(queued, fd)
		}
		own = bind(t, key)
		require.Equal(t, 1, own.doors[0].seat)
		meet(t, own, key)
		own.Close()
		leave(theirs)
		closeAll(queued)

		// All names can be occupied.
		theirs = squatters(maxSeats)
		_, err = Bind(t.Context(), key, false)
		require.Equal(t, ErrNamesTaken, err)
		leave(theirs)
		bind(t, key).Close()
	})
}

// TestKept removes a listener's file, and the directory: there are others when the listener has
// looked after them.
func TestKept(t *testing.T) {
	dir := useDir(t)
	s := bind(t, "k")
	s.repair()
	require.Len(t, s.doors, 1)
	for _, remove := range []func(string) error{func(string) error { return os.Remove(s.doors[0].name) }, os.RemoveAll} {
		require.NoError(t, remove(dir))
		require.False(t, NewLookup("k").Present())
		s.repair()
		require.Len(t, s.doors, 2)
		meet(t, s, "k")
		s.repair()
		require.Len(t, s.doors, 1)
		meet(t, s, "k")
	}
	s.Close()
	require.False(t, NewLookup("k").Present())
	s.repair()
	require.False(t, NewLookup("k").Present())
}

// TestKeeps is TestKept without calling repair.
func TestKeeps(t *testing.T) {
	dir := useDir(t)
	s := bind(t, "k")
	require.NoError(t, os.RemoveAll(dir))
	require.Eventually(t, func() bool { return NewLookup("k").Present() }, leakcheck.Patience, time.Millisecond)
	meet(t, s, "k")
	s.Close()
}

// TestForeignLock has another user's file in the place of the lock, and binds without it.
func TestForeignLock(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have a file of another user")
	}
	dir := useDir(t)
	require.NoError(t, os.WriteFile(lockPath(dir), nil, 0o600))
	require.NoError(t, os.Chown(lockPath(dir), 12345, -1))
	f, err := os.Open(lockPath(dir))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	s := bind(t, "k")
	meet(t, s, "k")
	s.Close()
	require.False(t, NewLookup("k").Present())
}

// TestTrusted lists users in the environment.
func TestTrusted(t *testing.T) {
	own, other := os.Geteuid(), os.Geteuid()+1
	require.True(t, Trusted(Cred{UID: own}))
	require.True(t, Trusted(Cred{UID: 0}))
	require.False(t, Trusted(Cred{UID: other}))
	for list, want := range map[string]bool{
		fmt.Sprint(other): true, fmt.Sprintf("7, %d ,8", other): true, "": false, "x": false, fmt.Sprint(other + 1): false,
	} {
		t.Setenv("CTNET_ALLOW", list)
		require.Equal(t, want, Trusted(Cred{UID: other}), "%q", list)
		require.False(t, Ours(Cred{UID: other}))
		require.Equal(t, list == "x", CheckAllowed() != nil, "%q", list)
	}
}

// TestSilent dials a socket whose queue is full, and which does not accept.
func TestSilent(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	defer s.Close()
	for {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: s.doors[0].name, Net: "unixpacket"})
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		require.NoError(t, err)
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _, err := Dial(ctx, "k", Trusted)
	require.Equal(t, context.DeadlineExceeded, err)
}

// TestMessages sends one of each field, with descriptors, both ways.
func TestMessages(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	defer s.Close()
	a, b := meet(t, s, "k")
	sent := Message{Magic: Magic, Version: Version, Kind: KindHello, App: 1<<63 + 1, Worker: 2, Segment: 3,
		ToServer: 4, ToClient: 5, Size: 7, NameLen: 8}
	copy(sent.Name[:], "name")
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	for _, c := range [][2]Channel{{a, b}, {b, a}} {
		require.NoError(t, c[0].Send(sent, int(null.Fd()), int(null.Fd())))
		m, fds, err := c[1].Expect(KindHello, 2)
		require.NoError(t, err)
		require.Equal(t, sent, m)
		require.Len(t, fds, 2)
		fds.Close()
	}
	// What was not expected is closed.
	for _, nfds := range []int{0, 1, 3} {
		require.NoError(t, a.Send(sent, int(null.Fd()), int(null.Fd())))
		_, fds, err := b.Expect(KindHello, nfds)
		fds.Close()
		require.Equal(t, ErrProtocol, err)
	}
	require.NoError(t, a.Send(sent))
	_, _, err = b.Expect(KindWelcome, 0)
	require.Equal(t, ErrProtocol, err)
	sent.Errno = uint32(syscall.ENOBUFS)
	require.NoError(t, a.Send(sent, int(null.Fd())))
	_, fds, err := b.Expect(KindHello, 1)
	fds.Close()
	require.Equal(t, syscall.ENOBUFS, err)
	require.NoError(t, a.Close())
	_, _, err = b.Receive()
	require.ErrorIs(t, err, io.EOF)
}

// TestGarbage receives packets that Send never sends, with descriptors. Receive fails, and closes
// the descriptors.
func TestGarbage(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	defer s.Close()
	a, b := meet(t, s, "k")
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	raw, err := a.SyscallConn()
	require.NoError(t, err)
	var good bytes.Buffer
	binary.Write(&good, binary.LittleEndian, &Message{Magic: Magic, Version: Version, Kind: KindHello})
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		p := bytes.Clone(good.Bytes())
		p[rnd.IntN(6)] ^= 1 << rnd.IntN(8)
		want := ErrProtocol
		switch i % 3 {
		case 1:
			p = p[:1+rnd.IntN(len(p)-1)] // to nothing is to close
		case 2:
			p = append(p, make([]byte, 1+rnd.IntN(1<<16))...)
		}
		if len(p) >= 8 && binary.LittleEndian.Uint32(p) == Magic {
			if binary.LittleEndian.Uint16(p[4:]) != Version {
				want = nil // another version's
			}
		}
		fds := make([]int, rnd.IntN(6))
		for i := range fds {
			fds[i] = int(null.Fd())
		}
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		var sendErr error
		raw.Write(func(fd uintptr) bool {
			sendErr = unix.Sendmsg(int(fd), p, oob, nil, unix.MSG_DONTWAIT)
			return sendErr != unix.EAGAIN
		})
		require.NoError(t, sendErr)
		_, got, err := b.Receive()
		got.Close()
		if want == nil {
			require.ErrorIs(t, err, syscall.EPROTONOSUPPORT)
			require.ErrorContains(t, err, "build both with the same ctnet")
		} else {
			require.Equal(t, want, err)
		}
	}
}

// TestLimitHandshake ends a handshake by its context.
func TestLimitHandshake(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	defer s.Close()
	a, b := meet(t, s, "k")
	ctx, cancel := context.WithCancel(t.Context())
	done := a.LimitHandshake(ctx)
	time.AfterFunc(time.Millisecond, cancel)
	_, _, err := a.Receive()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.False(t, done())

	ctx, cancel = context.WithCancel(t.Context())
	done = b.LimitHandshake(ctx)
	require.True(t, done())
	cancel()
	require.NoError(t, a.SetDeadline(time.Time{}))
	require.NoError(t, a.Send(Message{Kind: KindTaken}))
	_, _, err = b.Expect(KindTaken, 0)
	require.NoError(t, err)
}

// TestAbsences opens and closes listeners, and checks what is remembered in between.
func TestAbsences(t *testing.T) {
	dir := useDir(t)
	var a Absences
	opened := uint64(0)
	old := func() { // as if nothing had happened for long
		long := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(dir, long, long))
	}
	known := func(want bool) Stamp {
		t.Helper()
		stamp, cause := a.Absent("x", opened)
		require.Equal(t, want, cause != nil)
		return stamp
	}
	for range 3 {
		old()
		a.Remember("x", known(false))
		known(true)

		// A listener of another application comes.
		s := bind(t, "k")
		stamp := known(false)
		a.Distrust("x", stamp, ErrSilent)
		known(true)
		a.known["x"] = absence{ErrSilent, time.Now().Add(-time.Second)}
		known(false)
		a.Distrust("x", stamp, ErrSilent)
		known(true)
		// Another one comes in its place.
		s.Close()
		s = bind(t, "k")
		known(false)
		a.Distrust("x", stamp, ErrSilent) // by a Dial that knows the other one only
		known(false)
		s.Close()

		// One of this application.
		old()
		a.Remember("x", known(false))
		known(true)
		opened++
		known(false)
	}
	// An absence that was found just after a change is not remembered.
	now := time.Now()
	require.NoError(t, os.Chtimes(dir, now, now))
	a.Remember("x", known(false))
	known(false)

	t.Setenv("CTNET_DIR", dir+"/none")
	require.False(t, NewLookup("k").Present())
	known(false)
}

// TestExpectFrom receives messages from this process, which is or is not the one expected.
func TestExpectFrom(t *testing.T) {
	a, b := pairOfChannels(t)
	own := Cred{PID: os.Getpid()}
	require.NoError(t, a.AskSender())
	require.NoError(t, b.Send(Message{Kind: KindWelcome}))
	_, _, err := a.ExpectFrom(own, KindWelcome, 0)
	require.NoError(t, err)
	// Nobody says it any more.
	require.NoError(t, b.Send(Message{Kind: KindAdded}))
	_, _, err = a.Expect(KindAdded, 0)
	require.NoError(t, err)

	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	for _, c := range []Cred{{PID: os.Getpid() + 1}, {}} {
		require.NoError(t, a.AskSender())
		require.NoError(t, b.Send(Message{Kind: KindWelcome}, int(null.Fd())))
		_, fds, err := a.ExpectFrom(c, KindWelcome, 1)
		require.Equal(t, syscall.ESTALE, err)
		require.Len(t, fds, 1)
		fds.Close()
	}
	require.NoError(t, b.Send(Message{Kind: KindWelcome, Errno: uint32(syscall.EACCES)}))
	_, _, err = a.ExpectFrom(own, KindWelcome, 2)
	require.Equal(t, syscall.EACCES, err)
}
