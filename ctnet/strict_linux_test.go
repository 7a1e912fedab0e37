package ctnet

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// beStrict has vm.overcommit_memory be 2, as far as ctnet knows.
func beStrict(t *testing.T) {
	t.Cleanup(segpool.PretendStrict(true))
}

// punch removes the last page, which nobody touches.
func punch(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, st.Size-4096, 4096)
}

func seal(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL)
	return err
}

// missing returns how many bytes of a file have no page.
func missing(fd int) int64 {
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	return st.Size - st.Blocks*512
}

// secured reports whether all pages of a file are there and stay, after a while.
func secured(fd int) error {
	for end := time.Now().Add(patience); missing(fd) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("pages are missing")
		}
	}
	if err := punch(fd); err != unix.EPERM {
		return errors.New("pages can be removed")
	}
	return nil
}

// TestStrictBadServer has a server remove pages of the client's memory, or forbid the client to
// seal it, as long as it can.
func TestStrictBadServer(t *testing.T) {
	useRunDir(t)
	beStrict(t)
	nothing := func(int) error { return nil }
	for _, c := range []struct {
		name           string
		block, segment func(fd int) error
		want           error
	}{
		{"removes", punch, punch, nil},
		{"seals the events", seal, nothing, syscall.EPERM},
		{"seals the segment", nothing, seal, syscall.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newParts(t)
			require.NoError(t, unix.Fallocate(p.sleep, 0, 0, sleepPageSize))
			a := newTestApp(t, AppConfig{})
			s := fakeListen(t, "bad", func(ch rendezvous.Channel) error {
				_, fds, err := ch.Expect(rendezvous.KindHello, 3)
				defer fds.Close()
				if err != nil {
					return err
				}
				if err := c.block(fds[0]); err != nil {
					return err
				}
				if err := rawpacket.SendOn(ch, packet(rendezvous.KindWelcome), p.sleep, p.bell); err != nil {
					return err
				}
				_, added, err := ch.Expect(rendezvous.KindAdd, 1)
				defer added.Close()
				if err != nil { // the client may have gone
					if c.want != nil {
						return nil
					}
					return err
				}
				if missing(added[0]) != 0 {
					return errors.New("the client has not allocated all pages")
				}
				if err := c.segment(added[0]); err != nil {
					return err
				}
				if err := rawpacket.SendOn(ch, packet(rendezvous.KindAdded)); err != nil || c.want != nil {
					return err
				}
				return errors.Join(secured(fds[0]), secured(added[0]))
			})
			start := time.Now()
			_, err := dialAs(a, "bad")
			require.Less(t, time.Since(start), patience)
			want := c.want
			if want == nil {
				want = syscall.ECONNREFUSED // it has gone
			}
			requireOpError(t, err, "dial", "bad", want)
			s.stop()
		})
	}
}

// TestStrictBadClient has a client pass memory of which pages are missing, or that can't be sealed.
func TestStrictBadClient(t *testing.T) {
	useRunDir(t)
	beStrict(t)
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	attachAndEcho(t, "echo")
	p := newParts(t) // made for another mode, without pages
	g, err := segpool.SharedGeometry(DefaultBuffer, DefaultBuffer)
	require.NoError(t, err)
	file := func(size int, written segpool.Writer) int {
		m, fd, err := segpool.CreateShared("ctnet test", size, written)
		require.NoError(t, err)
		m.Free()
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	good := parts{block: file(blockSize, segpool.ByBoth), sleep: file(sleepPageSize, segpool.ByMaker), bell: p.bell}
	punched := file(blockSize, segpool.ByBoth)
	require.NoError(t, punch(punched))
	for _, fds := range [][]int{
		{p.block, good.sleep, good.bell},
		{punched, good.sleep, good.bell},
		{file(blockSize, segpool.ByBoth), p.sleep, good.bell},
	} {
		ch := fakeDial(t, "echo")
		require.NoError(t, rawpacket.SendOn(ch, hello("echo"), fds...))
		requireRefused(t, ch, syscall.EPROTO)
	}

	ch := fakeAttach(t, "echo", good)
	segment := file(g.Size(), segpool.ByBoth)
	require.NoError(t, punch(segment))
	for _, fd := range []int{p.segment, segment} {
		require.NoError(t, rawpacket.SendOn(ch, packet(rendezvous.KindAdd), fd))
		m, _, err := ch.Receive()
		require.NoError(t, err)
		require.EqualValues(t, syscall.EPROTO, m.Errno)
	}
	segment = file(g.Size(), segpool.ByBoth)
	require.NoError(t, rawpacket.SendOn(ch, packet(rendezvous.KindAdd), segment))
	m, _, err := ch.Receive()
	require.NoError(t, err)
	require.Zero(t, m.Errno)
	require.NoError(t, secured(segment))
}
