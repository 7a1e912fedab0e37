package ctnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What a hostile peer sends in place of a correct message.
type parts struct {
	sleep, block, bell int // as it should be

	segment    int // of the default geometry
	unsealed   int // of the size of sleep words, as all below
	shrinkable int
	short      int
	long       int
	readOnly   int // the size of a block
	pipe       int
	eventfd    int
	file       int
	socket     int
}

// Sizes of what is shared, as docs/protocol.md has them.
const (
	sleepPageSize = 4096
	blockSize     = 2 * 12288
)

const (
	maxHandshakes = 128         // at a time, with one process
	helloTimeout  = time.Second // for a client's first words
)

var defaultGeometry = func() segpool.Geometry {
	g, err := segpool.NewGeometry(DefaultBuffer, DefaultBuffer)
	if err != nil {
		panic(err)
	}
	return g
}()

const everySeal = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

func newParts(t *testing.T) parts {
	t.Helper()
	keep := func(fd int, err error) int {
		t.Helper()
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	memfd := func(size, seals int) int {
		t.Helper()
		fd := keep(unix.MemfdCreate("ctnet test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))
		require.NoError(t, unix.Ftruncate(fd, int64(size)))
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		return fd
	}
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	keep(pipe[0], nil)
	bell, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	keep(bell[0], nil)
	file, err := os.CreateTemp(shortDir(t), "")
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	require.NoError(t, file.Truncate(sleepPageSize))
	return parts{
		sleep:      memfd(sleepPageSize, everySeal|unix.F_SEAL_FUTURE_WRITE),
		block:      memfd(blockSize, everySeal),
		bell:       keep(bell[1], nil),
		eventfd:    keep(unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)),
		segment:    memfd(defaultGeometry.Size(), everySeal),
		unsealed:   memfd(sleepPageSize, 0),
		shrinkable: memfd(sleepPageSize, everySeal&^unix.F_SEAL_SHRINK),
		short:      memfd(sleepPageSize-1, everySeal),
		long:       memfd(sleepPageSize+4096, everySeal),
		readOnly:   memfd(blockSize, everySeal|unix.F_SEAL_WRITE),
		pipe:       keep(pipe[1], nil),
		file:       int(file.Fd()),
		socket:     keep(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)),
	}
}

// packet returns a message as it goes over the wire.
func packet(kind uint16, changes ...func(*rendezvous.Message)) []byte {
	m := rendezvous.Message{Magic: rendezvous.Magic, Version: rendezvous.Version, Kind: kind}
	if kind == rendezvous.KindWelcome {
		m.ToServer, m.ToClient = DefaultBuffer, DefaultBuffer
	}
	for _, change := range changes {
		change(&m)
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, &m)
	return b.Bytes()
}

// hello returns the packet of a client that dials name.
func hello(name string, changes ...func(*rendezvous.Message)) []byte {
	named := func(m *rendezvous.Message) { m.NameLen = uint32(copy(m.Name[:], "ct:"+name)) }
	return packet(rendezvous.KindHello, append([]func(*rendezvous.Message){named}, changes...)...)
}

// expectEnd returns an error if the peer does anything but close.
func expectEnd(ch rendezvous.Channel) error {
	m, fds, err := ch.Receive()
	fds.Close()
	// It is a reset if the peer has not read everything.
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the peer should close, but: message %v, error %v", m.Kind, err)
	}
	return nil
}

// A fakeServer listens at the place of a listener's socket.
type fakeServer struct {
	ln    *net.UnixListener
	conns atomic.Int32 // that were accepted
	wg    sync.WaitGroup
}

// fakeListen calls serve with each connection to name. An error of serve fails the test, and so
// does a peer for which serve waits too long.
func fakeListen(t *testing.T, name string, serve func(ch rendezvous.Channel) error) *fakeServer {
	t.Helper()
	s := &fakeServer{ln: rawListen(t, name)}
	s.wg.Go(func() {
		for {
			c, err := s.ln.AcceptUnix()
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(rendezvous.HandshakeTimeout + patience))
				if err := serve(rendezvous.Channel{UnixConn: c}); err != nil {
					t.Errorf("fake server: %v", err)
				}
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

// stop returns when all connections have been served.
func (s *fakeServer) stop() {
	s.ln.Close()
	s.wg.Wait()
}

// takeHello receives a client's hello, and checks it.
func takeHello(ch rendezvous.Channel, name string) (rendezvous.Message, error) {
	m, fds, err := ch.Expect(rendezvous.KindHello, 3)
	if err != nil {
		return m, err
	}
	defer fds.Close()
	if got := string(m.Name[:m.NameLen]); got != "ct:"+name {
		err = fmt.Errorf("hello is for %q", got)
	}
	for i, size := range []int{blockSize, sleepPageSize} {
		mem, openErr := segpool.OpenShared(fds[i], size, []segpool.Writer{segpool.ByBoth, segpool.ByMaker}[i])
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		mem.Free()
	}
	return m, err
}

// warm makes an application's sleep words, which it keeps from its first handshake on. Nothing
// else may stay when its pairs have ended.
func warm(t *testing.T, a *App) {
	t.Helper()
	other := newTestApp(t, AppConfig{})
	ln, err := listenAs(other, "warm")
	require.NoError(t, err)
	requireDials(t, a, ln)
	require.NoError(t, other.Close())
	require.Eventually(t, func() bool { return leakcheck.Mappings("ctnet events") == 0 }, leakcheck.Patience, time.Millisecond)
}

// TestHandshakeBadServer answers hello with all kinds of nonsense. The Dial fails at once, with
// the right error, and leaves nothing behind.
func TestHandshakeBadServer(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	good := packet(rendezvous.KindWelcome)
	worker := func(n uint32) []byte {
		return packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Worker = n })
	}
	fifos := func(toServer, toClient uint32) []byte {
		return packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.ToServer, m.ToClient = toServer, toClient })
	}
	errno := func(e syscall.Errno) []byte {
		return packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Errno = uint32(e) })
	}
	version := func(v uint16) []byte {
		return packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Version = v })
	}
	magic := func(v uint32) []byte {
		return packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Magic = v })
	}
	fds := []int{p.sleep, p.bell}
	type testCase struct {
		name   string
		packet []byte
		fds    []int
		want   error
	}
	cases := []testCase{
		{"next version", version(rendezvous.Version + 1), fds, syscall.EPROTONOSUPPORT},
		{"version 0", version(0), nil, syscall.EPROTONOSUPPORT},
		{"next version with errno", packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Version, m.Errno = rendezvous.Version+1, 1 }), nil, syscall.EPROTONOSUPPORT},
		{"magic", magic(rendezvous.Magic + 1), fds, syscall.EPROTO},
		{"big-endian magic", magic(0x746e6574), fds, syscall.EPROTO},
		{"zeros", make([]byte, rendezvous.MessageSize), fds, syscall.EPROTO},
		{"hello", packet(rendezvous.KindHello), fds, syscall.EPROTO},
		{"added", packet(rendezvous.KindAdded), fds, syscall.EPROTO},
		{"added with errno", packet(rendezvous.KindAdded, func(m *rendezvous.Message) { m.Errno = uint32(syscall.EPERM) }), nil, syscall.EPROTO},
		{"retire", packet(rendezvous.KindRetire), nil, syscall.EPROTO},
		{"kind 0", packet(0), fds, syscall.EPROTO},
		{"kind 65535", packet(65535), fds, syscall.EPROTO},
		{"one byte", good[:1], fds, syscall.EPROTO},
		{"one byte less", good[:len(good)-1], fds, syscall.EPROTO},
		{"one byte more", append(good[:len(good):len(good)], 0), fds, syscall.EPROTO},
		{"64 KiB more", append(good[:len(good):len(good)], make([]byte, 64<<10)...), fds, syscall.EPROTO},
		{"no descriptors", good, nil, syscall.EPROTO},
		{"one descriptor", good, fds[:1], syscall.EPROTO},
		{"three descriptors", good, []int{p.sleep, p.bell, p.bell}, syscall.EPROTO},
		{"four descriptors", good, []int{p.sleep, p.bell, p.bell, p.bell}, syscall.EPROTO},
		{"a hundred descriptors", good, repeated(p.bell, 100), syscall.EPROTO},
		{"worker 64", worker(64), fds, syscall.EPROTO},
		{"worker 2^31", worker(1 << 31), fds, syscall.EPROTO},
		{"worker 2^32-1", worker(1<<32 - 1), fds, syscall.EPROTO},
		{"fifos of 0", fifos(0, 0), fds, syscall.EPROTO},
		{"fifo of 0", fifos(DefaultBuffer, 0), fds, syscall.EPROTO},
		{"fifo too small", fifos(MinBuffer/2, DefaultBuffer), fds, syscall.EPROTO},
		{"fifo not a power of two", fifos(DefaultBuffer, MinBuffer+4096/2), fds, syscall.EPROTO},
		{"fifo too large", fifos(MaxBuffer*2, DefaultBuffer), fds, syscall.EPROTO},
		{"fifo of 2^31", fifos(DefaultBuffer, 1<<31), fds, syscall.EPROTO},
		{"fifo of 2^32-1", fifos(1<<32-1, 1<<32-1), fds, syscall.EPROTO},
		{"ENOBUFS", errno(syscall.ENOBUFS), nil, syscall.ENOBUFS},
		{"EACCES", errno(syscall.EACCES), nil, syscall.EACCES},
		{"ECONNREFUSED", errno(syscall.ECONNREFUSED), nil, syscall.ECONNREFUSED},
		{"EPROTONOSUPPORT", errno(syscall.EPROTONOSUPPORT), nil, syscall.EPROTONOSUPPORT},
		{"ENOBUFS with descriptors", errno(syscall.ENOBUFS), fds, syscall.ENOBUFS},
		{"no such errno", errno(1<<32 - 1), nil, syscall.Errno(1<<32 - 1)},
	}
	for _, c := range []struct {
		name        string
		sleep, bell int
	}{
		{"a pipe for the doorbell", p.sleep, p.pipe},
		{"a socket of another kind for the doorbell", p.sleep, p.socket},
		{"an eventfd for the doorbell", p.sleep, p.eventfd},
		{"a file for the doorbell", p.sleep, p.file},
		{"sleep words for the doorbell", p.sleep, p.sleep},
		{"in the wrong order", p.bell, p.sleep},
		{"a doorbell for the sleep words", p.bell, p.bell},
		{"a pipe for the sleep words", p.pipe, p.bell},
		{"a file for the sleep words", p.file, p.bell},
		{"a socket for the sleep words", p.socket, p.bell},
		{"unsealed sleep words", p.unsealed, p.bell},
		{"sleep words that can shrink", p.shrinkable, p.bell},
		{"sleep words too short", p.short, p.bell},
		{"sleep words too long", p.long, p.bell},
		{"an event block for the sleep words", p.block, p.bell},
	} {
		cases = append(cases, testCase{c.name, good, []int{c.sleep, c.bell}, syscall.EPROTO})
	}
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			s := fakeListen(t, "fake", func(ch rendezvous.Channel) error {
				if _, err := takeHello(ch, "fake"); err != nil {
					return err
				}
				if err := rawpacket.SendOn(ch, c.packet, c.fds...); err != nil {
					return err
				}
				return expectEnd(ch)
			})
			start := time.Now()
			_, err := dialAs(a, "fake")
			require.Less(t, time.Since(start), patience)
			s.stop()
			leakcheck.RequireBack(t, before)
			require.EqualValues(t, 1, s.conns.Load())
			requireOpError(t, err, "dial", "fake", c.want)
			if c.want == syscall.EPROTONOSUPPORT && len(c.packet) == rendezvous.MessageSize {
				if v := binary.LittleEndian.Uint16(c.packet[4:]); v != rendezvous.Version {
					require.ErrorContains(t, err, fmt.Sprintf("version %d", v))
					require.ErrorContains(t, err, fmt.Sprintf("version %d", rendezvous.Version))
				}
			}
		})
	}
}

func repeated(fd, n int) []int {
	fds := make([]int, n)
	for i := range fds {
		fds[i] = fd
	}
	return fds
}

// TestHandshakeServerGoes lets a server go away, or send something that is no message.
func TestHandshakeServerGoes(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	for _, c := range []struct {
		name  string
		serve func(ch rendezvous.Channel) error
	}{
		{"at once", func(ch rendezvous.Channel) error { return nil }},
		{"when it has read hello", func(ch rendezvous.Channel) error {
			_, err := takeHello(ch, "fake")
			return err
		}},
		{"after an empty packet", func(ch rendezvous.Channel) error {
			if _, err := takeHello(ch, "fake"); err != nil {
				return err
			}
			return rawpacket.SendOn(ch, nil)
		}},
		{"after an empty packet with descriptors", func(ch rendezvous.Channel) error {
			if _, err := takeHello(ch, "fake"); err != nil {
				return err
			}
			return rawpacket.SendOn(ch, nil, p.sleep, p.bell)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			for range 5 {
				s := fakeListen(t, "fake", c.serve)
				start := time.Now()
				_, err := dialAs(a, "fake")
				require.Less(t, time.Since(start), patience)
				s.stop()
				requireOpError(t, err, "dial", "fake", syscall.ECONNREFUSED)
			}
			leakcheck.RequireBack(t, before)
		})
	}
}

// TestHandshakeForeignServer has a listener that belongs to another user.
func TestHandshakeForeignServer(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	before := leakcheck.Now()
	uid, distrusted := nobody()
	// The listener's user is the user that calls listen.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: socketFile(t, "foreign")}))
	asuser.Do(t, uid, func() { err = unix.Listen(fd, 1) })
	require.NoError(t, err)

	d := Dialer{App: a, Timeout: 20 * time.Millisecond}
	_, err = d.Dial(networkCT, "foreign")
	if distrusted == nil {
		distrusted = os.ErrDeadlineExceeded // the server does not answer
	}
	requireOpError(t, err, "dial", "foreign", distrusted)
	file.Close()
	leakcheck.RequireBack(t, before)
}

// TestHandshakeContext lets a server stay silent. Dial returns when its context ends.
func TestHandshakeContext(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	for _, accepts := range []bool{true, false} {
		for _, c := range []struct {
			name string
			end  func(d *Dialer, said <-chan struct{}) (context.Context, context.CancelFunc)
			want error
		}{
			{"cancel", func(_ *Dialer, said <-chan struct{}) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					<-said
					cancel()
				}()
				return ctx, cancel
			}, context.Canceled},
			{"deadline", func(*Dialer, <-chan struct{}) (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 20*time.Millisecond)
			}, os.ErrDeadlineExceeded},
			{"timeout", func(d *Dialer, _ <-chan struct{}) (context.Context, context.CancelFunc) {
				d.Timeout = 20 * time.Millisecond
				return context.WithCancel(t.Context())
			}, os.ErrDeadlineExceeded},
			{"canceled before", func(*Dialer, <-chan struct{}) (context.Context, context.CancelFunc) {
				return canceledContext(), func() {}
			}, context.Canceled},
		} {
			t.Run(fmt.Sprintf("%s, accepts=%v", c.name, accepts), func(t *testing.T) {
				before := leakcheck.Now()
				said := make(chan struct{})
				var s *fakeServer
				if accepts {
					s = fakeListen(t, "silent", func(ch rendezvous.Channel) error {
						_, err := takeHello(ch, "silent")
						close(said)
						return errors.Join(err, expectEnd(ch))
					})
				} else {
					s = &fakeServer{ln: rawListen(t, "silent")}
					close(said)
				}
				d := Dialer{App: a}
				ctx, cancel := c.end(&d, said)
				defer cancel()
				start := time.Now()
				_, err := d.DialContext(ctx, networkCT, "silent")
				require.Less(t, time.Since(start), patience)
				requireOpError(t, err, "dial", "silent", c.want)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.Equal(t, c.want == os.ErrDeadlineExceeded, timeout.Timeout())
				s.stop()
				cancel()
				leakcheck.RequireBack(t, before)
			})
		}
	}
}

// TestHandshakeShared lets Dials wait for the handshake of another Dial. Each waits only as long
// as its own context lasts, and the handshake goes on without them.
func TestHandshakeShared(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	said, answer := make(chan struct{}), make(chan struct{})
	s := fakeListen(t, "shared", func(ch rendezvous.Channel) error {
		if _, err := takeHello(ch, "shared"); err != nil {
			return err
		}
		close(said)
		<-answer
		// The last Dial attaches anew, so it must be answered like this.
		return rawpacket.SendOn(ch, packet(rendezvous.KindWelcome, func(m *rendezvous.Message) { m.Errno = uint32(syscall.ENOBUFS) }), p.bell)
	})
	first := make(chan error, 1)
	go func() {
		_, err := dialAs(a, "shared")
		first <- err
	}()
	receive(t, said)
	for range 3 {
		d := Dialer{App: a, Timeout: 10 * time.Millisecond}
		start := time.Now()
		_, err := d.Dial(networkCT, "shared")
		require.Less(t, time.Since(start), patience)
		requireOpError(t, err, "dial", "shared", os.ErrDeadlineExceeded)
	}
	select {
	case err := <-first:
		t.Fatalf("the first Dial was disturbed: %v", err)
	default:
	}
	close(answer)
	requireOpError(t, receive(t, first), "dial", "shared", syscall.ENOBUFS)
	s.stop()
	require.EqualValues(t, 1, s.conns.Load())
}

// welcome answers hello as it should be.
func welcome(ch rendezvous.Channel, name string, p parts) error {
	if _, err := takeHello(ch, name); err != nil {
		return err
	}
	return rawpacket.SendOn(ch, packet(rendezvous.KindWelcome), p.sleep, p.bell)
}

// takeAdd receives a segment, and checks it.
func takeAdd(ch rendezvous.Channel, k uint32) error {
	m, fds, err := ch.Expect(rendezvous.KindAdd, 1)
	defer fds.Close()
	if err != nil {
		return err
	}
	if m.Segment != k {
		err = fmt.Errorf("segment %d was added, not %d", m.Segment, k)
	}
	mem, openErr := segpool.OpenShared(fds[0], defaultGeometry.Size(), segpool.ByBoth)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	mem.Free()
	return err
}

// TestHandshakeAddedErrno lets a server answer that it can't map the client's segment. The pair
// stays as it was before.
func TestHandshakeAddedErrno(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	a := newTestApp(t, AppConfig{})
	errnos := []syscall.Errno{syscall.ENOBUFS, syscall.EPROTO, syscall.EMFILE}
	s := fakeListen(t, "full", func(ch rendezvous.Channel) error {
		if err := welcome(ch, "full", p); err != nil {
			return err
		}
		for _, errno := range errnos {
			if err := takeAdd(ch, 0); err != nil {
				return err
			}
			added := packet(rendezvous.KindAdded, func(m *rendezvous.Message) { m.Errno = uint32(errno) })
			if err := rawpacket.SendOn(ch, added); err != nil {
				return err
			}
		}
		return expectEnd(ch)
	})
	var before leakcheck.Usage
	for i, errno := range errnos {
		start := time.Now()
		_, err := dialAs(a, "full")
		require.Less(t, time.Since(start), patience)
		requireOpError(t, err, "dial", "full", errno)
		if i == 0 {
			before = leakcheck.Now() // with the pair
		}
		leakcheck.RequireBack(t, before)
	}
	require.Zero(t, a.a.account.Usage())
	require.NoError(t, a.Close())
	s.stop()
	require.EqualValues(t, 1, s.conns.Load(), "one handshake is enough")
}

// TestHandshakeServerGoesAtAdd lets a server go away when the client adds its first segment. Dial
// tries twice more.
func TestHandshakeServerGoesAtAdd(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	for _, reads := range []bool{true, false} {
		before := leakcheck.Now()
		s := fakeListen(t, "gone", func(ch rendezvous.Channel) error {
			if err := welcome(ch, "gone", p); err != nil || !reads {
				return err
			}
			return takeAdd(ch, 0)
		})
		start := time.Now()
		_, err := dialAs(a, "gone")
		require.Less(t, time.Since(start), patience)
		requireOpError(t, err, "dial", "gone", syscall.ECONNREFUSED)
		s.stop()
		require.EqualValues(t, 3, s.conns.Load())
		leakcheck.RequireBack(t, before)
		require.Zero(t, a.a.account.Usage())
	}
}

// TestHandshakeNoise lets a server send what is not of the protocol to a client that has
// attached. That ends the pair, and the descriptors are closed.
func TestHandshakeNoise(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	a := newTestApp(t, AppConfig{})
	warm(t, a)
	before := leakcheck.Now()
	type noise struct {
		packet []byte
		fds    []int
	}
	var noises []noise
	for _, b := range [][]byte{packet(rendezvous.KindHello), packet(rendezvous.KindAdd), packet(rendezvous.KindDrop),
		packet(0), packet(100), packet(rendezvous.KindWelcome), make([]byte, 10), packet(rendezvous.KindRetire)} {
		noises = append(noises, noise{b, nil}, noise{b, []int{p.pipe, p.segment, p.socket}})
	}
	noises = append(noises, noise{packet(rendezvous.KindAdded), []int{p.pipe}})
	for i, n := range noises {
		if n.fds == nil && bytes.Equal(n.packet, packet(rendezvous.KindRetire)) {
			continue // that is of the protocol
		}
		name := fmt.Sprintf("noise %d", i)
		s := fakeListen(t, name, func(ch rendezvous.Channel) error {
			return errors.Join(welcome(ch, name, p), takeAdd(ch, 0), rawpacket.SendOn(ch, n.packet, n.fds...), expectEnd(ch))
		})
		_, err := dialAs(a, name)
		requireOpError(t, err, "dial", name, syscall.ECONNREFUSED)
		s.stop()
		require.EqualValues(t, 3, s.conns.Load()) // Dial tries twice more
	}
	require.NoError(t, a.Close())
	leakcheck.RequireBack(t, before)
	require.Zero(t, a.a.account.Usage())
}

// TestHandshakeCanceledAnywhere cancels Dials in the middle of their handshakes,
// sooner and later. The next Dial of the same application works.
func TestHandshakeCanceledAnywhere(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)
	before := leakcheck.Now()
	failed := 0
	for i := range 150 {
		a := newTestApp(t, AppConfig{})
		warm(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Microsecond)
		d := Dialer{App: a}
		c, err := d.DialContext(ctx, networkCT, "echo")
		cancel()
		if err == nil {
			require.NoError(t, c.Close())
		} else {
			failed++
			requireOpError(t, err, "dial", "echo", os.ErrDeadlineExceeded)
		}
		echo(t, a, "echo")
		require.NoError(t, a.Close())
	}
	require.Positive(t, failed)
	leakcheck.RequireBack(t, before)
}

// echoServer makes a listener that returns what it reads.
func echoServer(t *testing.T, a *App, lc ListenConfig, name string) *Listener {
	t.Helper()
	ln, err := lc.Listen(t.Context(), networkCT, name)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		a.Close()
		wg.Wait()
	})
	return ln.(*Listener)
}

// attachAndEcho dials from a new application, which gets back the bytes that it sends.
func attachAndEcho(t *testing.T, name string) {
	t.Helper()
	a, err := NewApp(AppConfig{})
	require.NoError(t, err)
	defer a.Close()
	echo(t, a, name)
}

func echo(t *testing.T, a *App, name string) {
	t.Helper()
	c, err := dialAs(a, name)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	sent := []byte("is anybody there?")
	_, err = c.Write(sent)
	require.NoError(t, err)
	got := make([]byte, len(sent))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, sent, got)
}

// fakeDial connects to the socket of a listener.
func fakeDial(t *testing.T, name string) rendezvous.Channel {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketFile(t, name), Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(rendezvous.HandshakeTimeout + patience))
	return rendezvous.Channel{UnixConn: c}
}

// requireRefused checks that a server refuses with an errno, and closes.
func requireRefused(t *testing.T, ch rendezvous.Channel, want error) {
	t.Helper()
	m, fds, err := ch.Receive()
	require.NoError(t, err)
	require.Empty(t, fds)
	require.EqualValues(t, rendezvous.KindWelcome, m.Kind)
	require.EqualValues(t, rendezvous.Version, m.Version)
	require.Equal(t, want, syscall.Errno(m.Errno))
	require.NoError(t, expectEnd(ch))
}

// TestHandshakeBadClient sends all kinds of nonsense in place of a hello. The server refuses at
// once, and other clients do not notice.
func TestHandshakeBadClient(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)

	good := hello("echo")
	worker := func(n uint32) []byte { return hello("echo", func(m *rendezvous.Message) { m.Worker = n }) }
	fifos := func(toServer, toClient uint32) []byte {
		return hello("echo", func(m *rendezvous.Message) { m.ToServer, m.ToClient = toServer, toClient })
	}
	version := func(v uint16) []byte { return hello("echo", func(m *rendezvous.Message) { m.Version = v }) }
	length := func(n uint32) []byte { return hello("echo", func(m *rendezvous.Message) { m.NameLen = n }) }
	kind := func(k uint16) []byte { return hello("echo", func(m *rendezvous.Message) { m.Kind = k }) }
	fds := []int{p.block, p.sleep, p.bell}
	type testCase struct {
		name   string
		packet []byte
		fds    []int
		want   error
	}
	cases := []testCase{
		{"next version", version(rendezvous.Version + 1), fds, syscall.EPROTONOSUPPORT},
		{"next version and kind", hello("echo", func(m *rendezvous.Message) { m.Version, m.Kind = rendezvous.Version+1, 77 }), nil, syscall.EPROTONOSUPPORT},
		{"version 0", version(0), fds, syscall.EPROTONOSUPPORT},
		{"magic", hello("echo", func(m *rendezvous.Message) { m.Magic++ }), fds, syscall.EPROTO},
		{"zeros", make([]byte, rendezvous.MessageSize), fds, syscall.EPROTO},
		{"kind 0", kind(0), fds, syscall.EPROTO},
		{"welcome", kind(rendezvous.KindWelcome), fds, syscall.EPROTO},
		{"add", kind(rendezvous.KindAdd), []int{p.segment}, syscall.EPROTO},
		{"drop", kind(rendezvous.KindDrop), nil, syscall.EPROTO},
		{"kind 65535", kind(65535), fds, syscall.EPROTO},
		{"one byte", good[:1], fds, syscall.EPROTO},
		{"one byte less", good[:len(good)-1], fds, syscall.EPROTO},
		{"one byte more", append(good[:len(good):len(good)], 0), fds, syscall.EPROTO},
		{"64 KiB more", append(good[:len(good):len(good)], make([]byte, 64<<10)...), fds, syscall.EPROTO},
		{"no descriptors", good, nil, syscall.EPROTO},
		{"two descriptors", good, fds[:2], syscall.EPROTO},
		{"four descriptors", good, []int{p.block, p.sleep, p.bell, p.bell}, syscall.EPROTO},
		{"a hundred descriptors", good, repeated(p.bell, 100), syscall.EPROTO},
		{"worker 64", worker(64), fds, syscall.EPROTO},
		{"worker 2^32-1", worker(1<<32 - 1), fds, syscall.EPROTO},
		{"another name", hello("ohce"), fds, syscall.ECONNREFUSED},
		{"longer name", hello("echo1"), fds, syscall.ECONNREFUSED},
		{"no name", hello(""), fds, syscall.ECONNREFUSED},
		{"name too short", length(3), fds, syscall.ECONNREFUSED},
		{"name with NUL", length(5), fds, syscall.ECONNREFUSED},
		{"name of 200", length(200), fds, syscall.ECONNREFUSED},
		{"name of 201", length(201), fds, syscall.ECONNREFUSED},
		{"name of 2^32-1", length(1<<32 - 1), fds, syscall.ECONNREFUSED},
		{"fifo too small", fifos(MinBuffer-1, 0), fds, syscall.EINVAL},
		{"fifo of 1", fifos(0, 1), fds, syscall.EINVAL},
		{"fifo too large", fifos(MaxBuffer+1, 0), fds, syscall.EINVAL},
		{"fifo of 2^31", fifos(0, 1<<31), fds, syscall.EINVAL},
		{"fifos of 2^32-1", fifos(1<<32-1, 1<<32-1), fds, syscall.EINVAL},
	}
	for _, c := range []struct {
		name               string
		block, sleep, bell int
	}{
		{"a pipe for the doorbell", p.block, p.sleep, p.pipe},
		{"a socket for the doorbell", p.block, p.sleep, p.socket},
		{"a block for the doorbell", p.block, p.sleep, p.block},
		{"a pipe for the sleep words", p.block, p.pipe, p.bell},
		{"a doorbell for the sleep words", p.block, p.bell, p.bell},
		{"unsealed sleep words", p.block, p.unsealed, p.bell},
		{"sleep words that can shrink", p.block, p.shrinkable, p.bell},
		{"sleep words too short", p.block, p.short, p.bell},
		{"sleep words too long", p.block, p.long, p.bell},
		{"a pipe for the block", p.pipe, p.sleep, p.bell},
		{"a file for the block", p.file, p.sleep, p.bell},
		{"sleep words for the block", p.sleep, p.sleep, p.bell},
		{"a segment for the block", p.segment, p.sleep, p.bell},
		{"a block that can't be written to", p.readOnly, p.sleep, p.bell},
		{"in the wrong order", p.bell, p.sleep, p.block},
	} {
		cases = append(cases, testCase{c.name, good, []int{c.block, c.sleep, c.bell}, syscall.EPROTO})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			ch := fakeDial(t, "echo")
			start := time.Now()
			require.NoError(t, rawpacket.SendOn(ch, c.packet, c.fds...))
			requireRefused(t, ch, c.want)
			require.Less(t, time.Since(start), patience)
			ch.Close()
			leakcheck.RequireBack(t, before)
			attachAndEcho(t, "echo")
			leakcheck.RequireBack(t, before)
		})
	}
}

// TestHandshakeClientGoes has clients connect and go away.
func TestHandshakeClientGoes(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)
	for _, c := range []struct {
		name string
		say  func(ch rendezvous.Channel) error
	}{
		{"at once", func(rendezvous.Channel) error { return nil }},
		{"after one byte", func(ch rendezvous.Channel) error { return rawpacket.SendOn(ch, []byte{1}) }},
		{"after garbage", func(ch rendezvous.Channel) error {
			return rawpacket.SendOn(ch, make([]byte, rendezvous.MessageSize), p.bell)
		}},
		{"after an empty packet", func(ch rendezvous.Channel) error { return rawpacket.SendOn(ch, nil) }},
		{"after an empty packet with descriptors", func(ch rendezvous.Channel) error {
			return rawpacket.SendOn(ch, nil, p.block, p.sleep, p.bell)
		}},
		{"having shut down its sending side", func(ch rendezvous.Channel) error { return ch.CloseWrite() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			for range 10 {
				ch := fakeDial(t, "echo")
				require.NoError(t, c.say(ch))
				ch.Close()
			}
			leakcheck.RequireBack(t, before)
			attachAndEcho(t, "echo")
			leakcheck.RequireBack(t, before)
		})
	}
}

// trusts is the rule without Allow.
func trusts(c Cred) bool { return rendezvous.Trusted(rendezvous.Cred(c)) }

// TestHandshakeAllow connects as users that are not trusted, and as users that the listener
// allows.
func TestHandshakeAllow(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	server := newTestApp(t, AppConfig{})
	uid, distrusted := nobody()
	var allowed atomic.Pointer[func(Cred) bool]
	byDefault := trusts
	allowed.Store(&byDefault)
	echoServer(t, server, ListenConfig{App: server}, "default")
	echoServer(t, server, ListenConfig{App: server, Allow: func(c Cred) bool { return (*allowed.Load())(c) }}, "choosy")
	for _, c := range []struct {
		what, name string
		allow      func(Cred) bool
		want       error
	}{
		{"by default", "default", trusts, distrusted},
		{"allowed", "choosy", func(c Cred) bool { return c.UID == uid && c.PID == os.Getpid() }, nil},
		{"not allowed", "choosy", func(c Cred) bool { return false }, syscall.EACCES},
	} {
		t.Run(c.what, func(t *testing.T) {
			allowed.Store(&c.allow)
			var ch rendezvous.Channel
			asuser.Do(t, uid, func() { ch = fakeDial(t, c.name) })
			require.NoError(t, rawpacket.SendOn(ch, hello(c.name), p.block, p.sleep, p.bell))
			if c.want != nil {
				requireRefused(t, ch, c.want)
				return
			}
			_, fds, err := ch.Expect(rendezvous.KindWelcome, 2)
			require.NoError(t, err)
			fds.Close()
		})
	}
	// A real client gets the errno.
	no := func(Cred) bool { return false }
	allowed.Store(&no)
	client := newTestApp(t, AppConfig{})
	_, err := dialAs(client, "choosy")
	requireOpError(t, err, "dial", "choosy", syscall.EACCES)
}

// fakeAttach does a client's handshake.
func fakeAttach(t *testing.T, name string, p parts) rendezvous.Channel {
	t.Helper()
	ch := fakeDial(t, name)
	require.NoError(t, rawpacket.SendOn(ch, hello(name), p.block, p.sleep, p.bell))
	m, fds, err := ch.Expect(rendezvous.KindWelcome, 2)
	require.NoError(t, err)
	mem, err := segpool.OpenShared(fds[0], sleepPageSize, segpool.ByMaker)
	fds.Close()
	require.NoError(t, err)
	mem.Free()
	require.EqualValues(t, DefaultBuffer, m.ToServer)
	require.EqualValues(t, DefaultBuffer, m.ToClient)
	return ch
}

// TestHandshakeSegments attaches, and then adds and drops segments against the rules.
func TestHandshakeSegments(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	const limit = 3
	server := newTestApp(t, AppConfig{MaxSegments: limit})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)
	last := uint32(defaultGeometry.Segments() - 1)
	type step struct {
		kind    uint16
		segment uint32
		fds     []int
		want    int // the errno in the answer, silence, or the end of the pair
	}
	const silence, ended = -1, -2
	refused := int(syscall.EPROTO)
	full := int(syscall.ENOBUFS)
	segment := []int{p.segment}
	add := func(k uint32, want int) step { return step{rendezvous.KindAdd, k, segment, want} }
	drop := func(k uint32) step { return step{rendezvous.KindDrop, k, nil, silence} }
	bad := func(fd int) step { return step{rendezvous.KindAdd, 0, []int{fd}, refused} }
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"as it should be", []step{add(0, 0), add(1, 0), drop(1), add(1, 0), drop(0), drop(1)}},
		{"numbers out of range", []step{add(last+1, refused), add(1<<16, refused), add(1<<31, refused), add(1<<32-1, refused)}},
		{"the last number", []step{add(last, 0)}},
		{"twice the same", []step{add(0, 0), add(0, refused), add(1, 0), add(0, refused), drop(0), add(0, 0)}},
		{"over the limit", []step{add(0, 0), add(1, 0), add(2, 0), add(3, full), add(3, full), drop(1), add(3, 0)}},
		{"files of other kinds", []step{bad(p.pipe), bad(p.file), bad(p.socket), bad(p.bell), bad(p.sleep), bad(p.block),
			bad(p.unsealed), bad(p.shrinkable), bad(p.short), bad(p.long), bad(p.readOnly)}},
		{"without descriptor", []step{{rendezvous.KindAdd, 0, nil, ended}}},
		{"with two descriptors", []step{{rendezvous.KindAdd, 0, []int{p.segment, p.segment}, ended}}},
		{"with three descriptors", []step{{rendezvous.KindAdd, 0, []int{p.segment, p.bell, p.pipe}, ended}}},
		{"drop of unknown segments", []step{drop(0), drop(1), drop(last + 1), drop(1 << 31), drop(1<<32 - 1)}},
		{"drop twice", []step{add(0, 0), drop(0), drop(0)}},
		{"drop with descriptors", []step{add(0, 0), {rendezvous.KindDrop, 0, []int{p.pipe, p.bell}, ended}}},
		{"hello", []step{{rendezvous.KindHello, 0, []int{p.block, p.sleep, p.bell}, ended}}},
		{"welcome", []step{{rendezvous.KindWelcome, 0, nil, ended}}},
		{"added", []step{{rendezvous.KindAdded, 0, nil, ended}}},
		{"retire", []step{{rendezvous.KindRetire, 0, nil, ended}}},
		{"no kind", []step{{0, 0, nil, ended}}},
		{"an unknown kind", []step{{99, 0, segment, ended}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			ch := fakeAttach(t, "echo", p)
			held := make(map[uint32]bool)
			request := func(s step) {
				t.Helper()
				b := packet(s.kind, func(m *rendezvous.Message) { m.Segment = s.segment })
				require.NoError(t, rawpacket.SendOn(ch, b, s.fds...))
				if s.want == silence {
					delete(held, s.segment)
					return
				}
				m, fds, err := ch.Receive()
				require.NoError(t, err)
				require.Empty(t, fds)
				require.EqualValues(t, rendezvous.KindAdded, m.Kind)
				require.EqualValues(t, s.want, m.Errno, "segment %d", s.segment)
				if s.want == 0 {
					held[s.segment] = true
				}
			}
			cutOff := server.Snapshot().CutOff
			for _, s := range c.steps {
				if s.want == ended {
					require.NoError(t, rawpacket.SendOn(ch, packet(s.kind), s.fds...))
					require.NoError(t, expectEnd(ch))
					require.Equal(t, cutOff+1, server.Snapshot().CutOff)
					ch.Close()
					leakcheck.RequireBack(t, before)
					require.Eventually(t, func() bool { return server.a.account.Usage().Segments == 0 }, leakcheck.Patience, time.Millisecond)
					return
				}
				request(s)
			}
			// The pair still works, and there was no other answer.
			for k := range held {
				request(drop(k))
			}
			request(add(0, 0))
			segments := func() int64 { return server.a.account.Usage().Segments }
			require.Eventually(t, func() bool { return segments() == 1 }, leakcheck.Patience, time.Millisecond)
			attachAndEcho(t, "echo")
			ch.Close()
			leakcheck.RequireBack(t, before)
			require.Eventually(t, func() bool { return segments() == 0 }, leakcheck.Patience, time.Millisecond)
		})
	}
}

// TestHandshakeEndsAtGarbage attaches, and then sends a packet that is no message. That ends the
// pair.
func TestHandshakeEndsAtGarbage(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)
	add := packet(rendezvous.KindAdd)
	for _, c := range []struct {
		name   string
		packet []byte
		fds    []int
	}{
		{"empty", nil, nil},
		{"empty with descriptor", nil, []int{p.segment}},
		{"one byte", add[:1], []int{p.segment}},
		{"one byte less", add[:len(add)-1], []int{p.segment}},
		{"one byte more", append(add[:len(add):len(add)], 0), []int{p.segment}},
		{"magic", packet(rendezvous.KindAdd, func(m *rendezvous.Message) { m.Magic = 0 }), []int{p.segment}},
		{"ten descriptors", add, repeated(p.segment, 10)},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := leakcheck.Now()
			ch := fakeAttach(t, "echo", p)
			require.NoError(t, rawpacket.SendOn(ch, add, p.segment))
			_, _, err := ch.Expect(rendezvous.KindAdded, 0)
			require.NoError(t, err)
			require.NoError(t, rawpacket.SendOn(ch, c.packet, c.fds...))
			require.NoError(t, expectEnd(ch))
			ch.Close()
			leakcheck.RequireBack(t, before)
			require.Zero(t, server.a.account.Usage())
			attachAndEcho(t, "echo")
			leakcheck.RequireBack(t, before)
		})
	}
}

// TestHandshakeSilentClients connects more silent clients than a listener has handshakes at a
// time. The listener closes without waiting for them.
func TestHandshakeSilentClients(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	server := newTestApp(t, AppConfig{})
	ln := echoServer(t, server, ListenConfig{App: server}, "echo")
	warm(t, server)
	before := leakcheck.Now()
	silent := silentClients(t, "echo", 2*maxHandshakes)
	start := time.Now()
	require.NoError(t, ln.Close())
	require.Less(t, time.Since(start), helloTimeout)
	for _, ch := range silent {
		ch.Close()
	}
	leakcheck.RequireBack(t, before)
}

// silentClients returns clients that have connected and say nothing.
func silentClients(t *testing.T, name string, n int) []rendezvous.Channel {
	t.Helper()
	clients := make([]rendezvous.Channel, n)
	for i := range clients {
		clients[i] = fakeDial(t, name)
	}
	return clients
}

// TestHandshakeHerd attaches nearly as many applications of one process at once as may have
// handshakes under way.
func TestHandshakeHerd(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	server := newTestApp(t, AppConfig{})
	// Small segments, for the sake of 32-bit systems.
	echoServer(t, server, ListenConfig{App: server, ReadBuffer: MinBuffer, WriteBuffer: MinBuffer}, "echo")
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 3 * maxHandshakes / 4 { // more segments have no room on 32-bit systems
		a := newTestApp(t, AppConfig{})
		wg.Go(func() {
			<-start
			c, err := dialAs(a, "echo")
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	close(start)
	wg.Wait()
}

// TestHandshakeTimeouts lets peers wait for each timeout, all at the same time.
func TestHandshakeTimeouts(t *testing.T) {
	leakcheck.Check(t)
	useRunDir(t)
	p := newParts(t)
	const slack = 2 * time.Second
	var wg sync.WaitGroup
	defer wg.Wait()
	fail := func(err error, took time.Duration) { t.Errorf("after %v: %v", took, err) }

	// The server does not answer hello.
	silent := newTestApp(t, AppConfig{})
	fakeListen(t, "silent", func(ch rendezvous.Channel) error {
		_, err := takeHello(ch, "silent")
		return errors.Join(err, expectEnd(ch))
	})
	wg.Go(func() {
		start := time.Now()
		_, err := dialAs(silent, "silent")
		if took := time.Since(start); !errors.Is(err, syscall.ETIMEDOUT) || took < rendezvous.HandshakeTimeout || took > rendezvous.HandshakeTimeout+slack {
			fail(err, took)
		}
	})

	// The server does not answer add: once without a limit to Dial, and once with one.
	for name, limit := range map[string]time.Duration{"no limit": 0, "limit": 20 * time.Millisecond} {
		d := Dialer{App: newTestApp(t, AppConfig{}), Timeout: limit}
		fakeListen(t, name, func(ch rendezvous.Channel) error {
			if err := welcome(ch, name, p); err != nil {
				return err
			}
			return errors.Join(takeAdd(ch, 0), expectEnd(ch))
		})
		wg.Go(func() {
			start := time.Now()
			_, err := d.Dial(networkCT, name)
			took := time.Since(start)
			if limit == 0 && (!errors.Is(err, syscall.ETIMEDOUT) || took < rendezvous.HandshakeTimeout || took > rendezvous.HandshakeTimeout+slack) {
				fail(err, took)
			}
			if limit != 0 && (!errors.Is(err, os.ErrDeadlineExceeded) || took < limit || took > patience) {
				fail(err, took)
			}
		})
	}

	// All but one of the clients that may have handshakes under way stay silent. Each is told
	// that its time is up, and a good client does not wait for that.
	server := newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	for _, ch := range silentClients(t, "echo", maxHandshakes-1) {
		wg.Go(func() {
			start := time.Now()
			m, fds, err := ch.Receive()
			fds.Close()
			if took := time.Since(start); err != nil || m.Kind != rendezvous.KindWelcome || m.Errno != uint32(syscall.ETIMEDOUT) || took > rendezvous.HandshakeTimeout {
				fail(err, took)
			}
			if err := expectEnd(ch); err != nil {
				t.Error(err)
			}
		})
	}
	start := time.Now()
	attachAndEcho(t, "echo")
	require.Less(t, time.Since(start), helloTimeout)
}
