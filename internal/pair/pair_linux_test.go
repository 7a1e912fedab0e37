package pair

import (
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// An app is a Host with its own account.
type app struct {
	Host
	numbers atomic.Uint64
	account *segpool.Account
}

func newApp(t *testing.T, id uint64) *app {
	a := &app{account: segpool.NewAccount(segpool.Limits{Conns: 1000, Segments: 100, Bytes: 1 << 40, Memory: 1 << 40})}
	a.Init(Config{ID: id, Numbers: &a.numbers, Account: a.account, Janitor: &stream.Janitor{Memory: a.account}, Counts: new(Counts), Inspect: func(id string) ([]byte, error) { return []byte("inspected " + id), nil }, Reset: func(id string) bool { return id == "1.2" }})
	return a
}

// useDir gives a test a rendezvous directory of its own.
func useDir(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctnet")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CTNET_DIR", dir)
	leakcheck.Check(t)
}

// A dialing is the dialing end of a connection.
type dialing struct {
	stream.End
	link        Dialed
	app, number uint64
	origin      uint64
	peer        *rendezvous.Cred
	remote      net.Addr
}

func (d *dialing) end() *stream.End { return &d.End }

// A dialingOwner is a dialing as the package sees it.
type dialingOwner struct{ *dialing }

func (d dialingOwner) End() *stream.End                             { return d.end() }
func (d dialingOwner) Link() *Dialed                                { return &d.link }
func (d dialingOwner) Options() stream.Options                      { return stream.Options{} }
func (d dialingOwner) Begin(peer *rendezvous.Cred, remote net.Addr) { d.peer, d.remote = peer, remote }
func (d dialingOwner) Connected(app, number, origin uint64) {
	d.dialing.app, d.number, d.origin = app, number, origin
}

func (a *app) dial(t *testing.T, key, name string) (*dialing, error) {
	d := new(dialing)
	return d, a.Dial(t.Context(), Target{Key: key, Name: name, Remote: new(net.UnixAddr)}, dialingOwner{d})
}

// An accepting is the accepting end of a connection.
type accepting struct {
	end       stream.End
	link      Accepted
	from      Dialer
	forgotten atomic.Int32
}

func (a *accepting) End() *stream.End { return &a.end }
func (a *accepting) Link() *Accepted  { return &a.link }

// A listener serves connections as soon as they come.
type listener struct {
	name    string
	errno   syscall.Errno // for all Dials
	serve   func(a *accepting)
	users   sync.WaitGroup
	retired atomic.Bool

	mu        sync.Mutex
	made      []*accepting
	withdrawn int
}

func (l *listener) Allows(c rendezvous.Cred) bool { return rendezvous.Trusted(c) }
func (l *listener) Shared() bool                  { return false }
func (l *listener) PeerLimits() PeerLimits {
	return PeerLimits{Attached: 10, HalfOpens: 100, Conns: 1000, Segments: 100, Bytes: 1 << 40, Memory: 1 << 40}
}
func (l *listener) Retire() { l.retired.Store(true) }

func (l *listener) Withdraw(a Accepting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.withdrawn++
	a.Link().Drop()
}

func (l *listener) Place(name string) Place {
	if name != l.name || l.retired.Load() {
		return nil
	}
	return l
}

func (l *listener) Sizes(Sizes) (Sizes, error) { return Sizes{ring.MinSize, ring.MinSize}, nil }

func (l *listener) Make(from Dialer) (Accepting, stream.Options, uint64, syscall.Errno) {
	if l.errno != 0 {
		return nil, stream.Options{}, 0, l.errno
	}
	a := &accepting{from: from}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = append(l.made, a)
	return a, stream.Options{}, 42, 0
}

func (l *listener) Forget(a Accepting) { a.(*accepting).forgotten.Add(1) }

func (l *listener) Offer(a Accepting) {
	l.users.Go(func() {
		if a.Link().Accept() {
			l.serve(a.(*accepting))
		}
	})
}

func echo(a *accepting) {
	for b := make([]byte, 1000); ; {
		n, err := a.end.Read(b)
		if err == nil {
			_, err = a.end.Write(b[:n])
		}
		if err != nil {
			a.end.Close()
			return
		}
	}
}

// open lets applications attach to l.
func (a *app) open(t *testing.T, key string, l *listener) *Door {
	d, err := a.Open(t.Context(), l, key)
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(d.Serve)
	t.Cleanup(func() {
		d.Close()
		serving.Wait()
	})
	return d
}

// TestPair dials a listener, which accepts or refuses.
func TestPair(t *testing.T) {
	useDir(t)
	serverApp, clientApp := newApp(t, 1), newApp(t, 2)
	defer serverApp.Close()
	defer clientApp.Close()
	l := &listener{name: "it", serve: echo}
	serverApp.open(t, "k", l)
	_, err := clientApp.dial(t, "none", "it")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = clientApp.dial(t, "k", "another")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	var last *dialing
	for i := range 100 {
		d, err := clientApp.dial(t, "k", "it")
		require.NoError(t, err)
		require.EqualValues(t, 2, d.app)
		require.EqualValues(t, 42, d.origin)
		require.Equal(t, os.Getpid(), d.peer.PID)
		require.NotNil(t, d.remote)
		if i > 0 {
			require.Same(t, last.remote, d.remote, "one address for all")
		}
		last = d
		var writing sync.WaitGroup
		writing.Go(func() { d.Write(make([]byte, 10_000)) })
		_, err = io.ReadFull(d, make([]byte, 10_000))
		require.NoError(t, err)
		writing.Wait()
		l.mu.Lock()
		a := l.made[i]
		l.mu.Unlock()
		require.Equal(t, Dialer{App: 2, Number: d.number, Cred: a.from.Cred}, a.from)
		open := 0
		clientApp.Each(func(owner any, _ Spot, halfOpen bool) {
			require.Same(t, d, owner.(dialingOwner).dialing)
			require.False(t, halfOpen)
			open++
		})
		require.Equal(t, 1, open)
		require.NoError(t, d.Close())
		require.Eventually(t, func() bool { return a.forgotten.Load() == 1 }, leakcheck.Patience, time.Microsecond)
	}
	require.Zero(t, clientApp.account.Usage().Conns)
	require.Eventually(t, func() bool { return serverApp.account.Usage().Conns == 0 }, leakcheck.Patience, time.Millisecond)
	path, err := rendezvous.List()
	require.NoError(t, err)
	ask := func() *Inspection {
		i, err := Reach(t.Context(), path[0])
		require.NoError(t, err)
		t.Cleanup(i.Close)
		return i
	}
	for _, id := range []string{"", "1.2", strings.Repeat("9", rendezvous.MaxTarget)} {
		b, err := ask().Snapshot(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "inspected "+id, string(b))
	}
	_, err = ask().Snapshot(t.Context(), strings.Repeat("9", rendezvous.MaxTarget+1))
	require.Equal(t, syscall.ESRCH, err)
	require.NoError(t, ask().Reset(t.Context(), "1.2"))
	require.Equal(t, syscall.ESRCH, ask().Reset(t.Context(), "1.3"))
	serverApp.open(t, "full", &listener{name: "it", errno: syscall.ENOBUFS})
	_, err = clientApp.dial(t, "full", "it")
	require.Equal(t, syscall.ENOBUFS, err)
}

// TestTwoUsesOfASlot lets a client ask for a second connection in a slot before the worker has
// handled the first one. One of them is made, and none is left when the client is gone.
func TestTwoUsesOfASlot(t *testing.T) {
	useDir(t)
	serverApp, clientApp := newApp(t, 1), newApp(t, 2)
	defer serverApp.Close()
	defer clientApp.Close()
	l := &listener{name: "it", serve: func(a *accepting) {
		a.end.Read(make([]byte, 1))
		a.end.Close()
	}}
	serverApp.open(t, "k", l)
	_, err := clientApp.dial(t, "k", "it")
	require.NoError(t, err)
	var p *client
	for _, m := range clientApp.members() {
		p = m.(*client)
	}
	var s *server
	for _, m := range serverApp.members() {
		s = m.(*server)
	}
	block, blocked := make(chan struct{}), make(chan struct{})
	bell, ringerFD, err := sched.NewDoorbell()
	require.NoError(t, err)
	defer bell.Close()
	defer unix.Close(ringerFD)
	other := &sched.Source{Events: sched.NewBitmap(make([]byte, sched.BitmapSize)), Bell: bell, Process: -1, Work: func() bool {
		close(blocked)
		<-block
		return false
	}}
	require.NoError(t, s.worker.Add(other))
	defer s.worker.Remove(other)
	s.worker.Schedule(other)
	<-blocked
	var slots []segpool.Slot
	for range 10 {
		slot, err := p.pool.Alloc()
		require.NoError(t, err)
		slots = append(slots, slot)
		for range 2 {
			slot.Use++
			slot.SayClient(segpool.Connect)
			s.handle(slot.ID) // as by a goroutine that delivers events for the worker
		}
		slot.Use--
		slot.SayClient(segpool.Connect)
	}
	close(block)
	p.ch.Close() // as when its process dies
	require.Eventually(t, func() bool { return serverApp.account.Usage().Conns == 0 }, leakcheck.Patience, time.Millisecond)
	l.users.Wait()
	for _, a := range l.made {
		require.EqualValues(t, 1, a.forgotten.Load())
	}
	for _, slot := range slots {
		p.pool.Free(slot, segpool.Done, segpool.Used{})
	}
}

// TestRetired dials a listener that has retired, as it does between handing its address over and
// closing. The Dial is told to look for another one.
func TestRetired(t *testing.T) {
	useDir(t)
	serverApp, clientApp := newApp(t, 1), newApp(t, 2)
	defer serverApp.Close()
	defer clientApp.Close()
	l := &listener{name: "it"}
	d := serverApp.open(t, "key", l)
	_, err := clientApp.dial(t, "key", "another")
	require.Equal(t, syscall.ECONNREFUSED, err)
	d.retire()
	require.True(t, l.retired.Load())
	_, err = clientApp.dial(t, "key", "it")
	require.Equal(t, ErrRetired, err)
}
