package rendezvous

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
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

func bind(t *testing.T, key string) *Socket {
	t.Helper()
	s, err := Bind(t.Context(), key, false)
	require.NoError(t, err)
	return s
}

// meet dials a socket and accepts.
func meet(t *testing.T, s *Socket, key string) (dialed, accepted Channel) {
	t.Helper()
	dialed, cred, err := Dial(t.Context(), key)
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
	dir := useDir(t)
	_, _, err := Dial(t.Context(), "k")
	require.Equal(t, ErrNobody, err)
	paths, err := List()
	require.NoError(t, err)
	require.Empty(t, paths)

	s := bind(t, "k")
	require.True(t, Present("k"))
	require.False(t, Present("l"))
	meet(t, s, "k")
	paths, err = List()
	require.NoError(t, err)
	require.Equal(t, []string{s.path}, paths)
	_, err = Bind(t.Context(), "k", false)
	require.Equal(t, ErrInUse, err)
	other := bind(t, "l")
	other.Close()

	s.Close()
	_, err = s.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, _, err = Dial(t.Context(), "k")
	require.Equal(t, ErrNobody, err)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, "lock", left[0].Name())
}

// TestTakeover lets another socket take over a key. The first socket is told, and its Close leaves
// the other's file.
func TestTakeover(t *testing.T) {
	useDir(t)
	for _, answers := range []bool{true, false} {
		old := bind(t, "k")
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
				ch.Send(Message{Kind: KindTaken})
			} else {
				io.Copy(io.Discard, ch) // until it is left alone
			}
		})
		s, err := Bind(t.Context(), "k", true)
		require.NoError(t, err)
		told.Wait()
		old.Close()
		meet(t, s, "k")
		s.Close()
		require.False(t, Present("k"))
	}
}

// TestStale binds where a dead process has left its file.
func TestStale(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	require.NoError(t, s.ln.Close()) // its file stays
	require.True(t, Present("k"))
	_, _, err := Dial(t.Context(), "k")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	again := bind(t, "k")
	meet(t, again, "k")
	s.remove(0) // it is another's now
	require.True(t, Present("k"))
	again.Close()
	require.False(t, Present("k"))
}

// TestBindAtOnce binds one key many times at once: one socket at a time has the key, and there is
// a socket at any moment from the first to the last.
func TestBindAtOnce(t *testing.T) {
	useDir(t)
	var owners atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				s, err := Bind(t.Context(), "k", false)
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
	require.False(t, Present("k"))
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
	require.True(t, Present("k"))
	unlock()
	require.Eventually(t, func() bool { return !Present("k") }, leakcheck.Patience, time.Millisecond)
}

// TestSweep makes many files of dead processes, which are removed in time, and one of a live
// process, which stays.
func TestSweep(t *testing.T) {
	dir := useDir(t)
	live := bind(t, "live")
	defer live.Close()
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		require.NoError(t, bind(t, name).ln.Close())
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	old := time.Now().Add(-2 * sweepAge)
	for _, f := range files {
		require.NoError(t, os.Chtimes(filepath.Join(dir, f.Name()), old, old))
	}
	require.NoError(t, bind(t, "young").ln.Close())
	require.Eventually(t, func() bool {
		bind(t, "x").Close()
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(files) == 3 // the live one's, the young one's, and the lock
	}, leakcheck.Patience, time.Microsecond)
	meet(t, live, "live")
	require.True(t, Present("young"))
}

// TestUnfitDir uses a directory that other users could change, or a file that is no directory.
func TestUnfitDir(t *testing.T) {
	dir := useDir(t)
	for mode, want := range map[fs.FileMode]error{
		0o700: nil, 0o755: nil, 0o720: syscall.EPERM, 0o702: syscall.EPERM, 0o777 | fs.ModeSticky: syscall.EPERM,
	} {
		require.NoError(t, os.Chmod(dir, mode))
		require.ErrorIs(t, checkDir(dir), want, "%v", mode)
	}
	require.NoError(t, os.Chmod(dir, 0o700))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	require.ErrorIs(t, checkDir(link), syscall.ENOTDIR)
	require.ErrorIs(t, checkDir(link+"/none"), fs.ErrNotExist)

	if os.Geteuid() != 0 {
		require.NoError(t, checkDir("/proc"), "of root")
		return
	}
	for _, c := range []struct {
		owner, user int
		want        error
	}{
		{0, 0, nil},
		{65534, 0, syscall.EPERM},
		{0, 65534, nil},
		{65534, 65534, nil},
		{65533, 65534, syscall.EPERM},
	} {
		require.NoError(t, os.Chown(dir, c.owner, -1))
		var err error
		asuser.Do(t, c.user, func() { err = checkDir(dir) })
		require.ErrorIs(t, err, c.want, "user %d, directory of user %d", c.user, c.owner)
	}
	require.NoError(t, os.Chown(dir, 0, -1))
}

// TestDialsTrusted dials a socket of another user.
func TestDialsTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		require.True(t, Trusted(Cred{UID: os.Geteuid()}))
		require.True(t, Trusted(Cred{UID: 0}))
		require.False(t, Trusted(Cred{UID: os.Geteuid() + 1}))
		return
	}
	useDir(t)
	var ln *net.UnixListener
	var err error
	path, err := socketPath(Dir(), "k")
	require.NoError(t, err)
	asuser.Do(t, 65534, func() { ln, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"}) })
	require.NoError(t, err)
	defer ln.Close()
	_, _, err = Dial(t.Context(), "k")
	require.ErrorIs(t, err, syscall.EACCES)
}

// TestSilent dials a socket whose queue is full, and which does not accept.
func TestSilent(t *testing.T) {
	useDir(t)
	s := bind(t, "k")
	defer s.Close()
	for {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: s.path, Net: "unixpacket"})
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		require.NoError(t, err)
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _, err := Dial(ctx, "k")
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
		absent, stamp := a.Absent("x", opened)
		require.Equal(t, want, absent)
		return stamp
	}
	for range 3 {
		old()
		a.Remember("x", known(false))
		known(true)

		// A listener of another application comes.
		s := bind(t, "k")
		stamp := known(false)
		a.Distrust("x", stamp)
		known(true)
		a.until["x"] = time.Now().Add(-time.Second)
		known(false)
		a.Distrust("x", stamp)
		known(true)
		// Another one comes in its place.
		s.Close()
		s = bind(t, "k")
		known(false)
		a.Distrust("x", stamp) // by a Dial that knows the other one only
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
	require.False(t, Present("k"))
	known(false)
}
