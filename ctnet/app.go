package ctnet

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"cutthrough.example/internal/syserr"
	"cutthrough.example/internal/wait"
)

// An App is an application: it listens, dials, shares memory with other applications, and
// has limits. A process has one of its own; a nil *App and the zero App stand for it. Further
// Apps isolate parts of a program from each other: they connect through shared memory as
// separate processes do.
type App struct {
	a *app
}

// An AppConfig holds an application's limits. A Dial that exceeds one, on either side, fails
// with ENOBUFS. 0 means the default, which stops a program that leaks connections but does
// not limit a busy one.
type AppConfig struct {
	MaxConns    int   // connections; 100,000
	MaxSegments int   // mappings of shared memory; 8,192
	MaxBytes    int64 // address space of these; 256 GiB, on 32-bit systems 1 GiB

	// MaxMemory is how many bytes the application's fifos may come to take of memory. The
	// default is a quarter of what the process may have: the limit of its control group,
	// where there is one, or else the machine's memory. A fifo begins with 4 KiB, grows as
	// that is needed, and gives its memory back when the connection is quiet. From half of
	// MaxMemory on it grows beyond 64 KiB only if its reader keeps up, and from three quarters
	// on not at all. Only a Peek or Reserve of more than a fifo holds still makes it larger.
	MaxMemory int64

	// Logger is told of faults: peers that break the protocol, and, once for each reason and
	// address, why connections use the kernel's socket: with level Warn if other settings, or a
	// peer that behaves, would let them use shared memory, and otherwise Debug. With level Info it
	// is told when another process begins and ends to capture a connection. nil is slog.Default().
	Logger *slog.Logger
}

// defaultBytes is the default of AppConfig.MaxBytes.
const defaultBytes = 1 << (30 + 8*(^uint(0)>>63))

// NewApp makes an application.
func NewApp(c AppConfig) (*App, error) {
	limits := segpool.Limits{Conns: int64(c.MaxConns), Segments: int64(c.MaxSegments), Bytes: c.MaxBytes, Memory: c.MaxMemory}
	if !setDefault(&limits.Conns, 100_000) || !setDefault(&limits.Segments, 8_192) ||
		!setDefault(&limits.Bytes, defaultBytes) || !setDefault(&limits.Memory, defaultMemory()) {
		return nil, errors.New("ctnet: negative limit in AppConfig")
	}
	return &App{newApp(limits, c.Logger)}, nil
}

// setDefault replaces a limit of 0 by its default. It returns false if the limit is negative.
func setDefault[T int | int64](limit *T, def T) (ok bool) {
	if *limit == 0 {
		*limit = def
	}
	return *limit >= 0
}

// Close closes the application's listeners and resets its connections. The
// process's own application is not closed.
func (a *App) Close() error {
	if a == nil || a.a == nil {
		return errors.New("ctnet: the process's own application can't be closed")
	}
	return a.a.close()
}

// app returns the application that a stands for.
func (a *App) app() *app {
	if a == nil || a.a == nil {
		return processApp()
	}
	return a.a
}

var processApp = sync.OnceValue(func() *app {
	a, err := NewApp(AppConfig{})
	if err != nil {
		panic(err) // the zero config is valid
	}
	if err := rendezvous.CheckAllowed(); err != nil {
		slog.Warn("ctnet: a part of CTNET_ALLOW has no effect", "error", err)
	}
	err = rendezvous.Check()
	if err == nil {
		err = segpool.CheckShared()
	}
	if err != nil && !kernelOnly() && a.a.sayUnusable() {
		a.a.log().Warn("ctnet: no cut-through, connections take the kernel's socket", "error", err)
	}
	return a.a
})

type app struct {
	id      uint64
	account *segpool.Account
	logger  *slog.Logger // nil is the default
	janitor stream.Janitor
	number  atomic.Uint64 // of the last connection dialed
	opened  atomic.Uint64 // listeners so far
	counts  pair.Counts

	mu        sync.Mutex
	closed    bool
	listeners map[place]*Listener // the latest at each place
	open      map[*Listener]struct{}
	local     map[*localPair]struct{}

	poolMu sync.Mutex
	pools  map[segpool.Geometry]*localPool // of connections inside the application

	fallbacks fallbackTable

	remote pair.Host // connections with other applications
}

// A place is where a listener is found inside its application.
type place struct {
	key    string
	bubble int
}

func newApp(l segpool.Limits, logger *slog.Logger) *app {
	a := &app{
		id:        rand.Uint64(),
		logger:    logger,
		account:   segpool.NewAccount(l),
		listeners: make(map[place]*Listener),
		open:      make(map[*Listener]struct{}),
		local:     make(map[*localPair]struct{}),
		pools:     make(map[segpool.Geometry]*localPool),
	}
	a.janitor.Memory = a.account
	a.remote.Init(pair.Config{ID: a.id, Numbers: &a.number, Account: a.account, Janitor: &a.janitor, Counts: &a.counts, Inspect: a.inspect, Reset: a.reset, Capture: a.capture, Log: a.log})
	return a
}

var errInUse = syserr.New(syscall.EADDRINUSE, "another listener is there; close it, or choose another name")

func (a *app) addListener(l *Listener) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return net.ErrClosed
	}
	at := place{l.key, l.bubble}
	if a.listeners[at] != nil && l.kernel == nil {
		return errInUse // on other networks the kernel has granted it the address
	}
	a.listeners[at] = l
	a.open[l] = struct{}{}
	a.opened.Add(1)
	return nil
}

func (a *app) removeListener(l *Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, l)
	if at := (place{l.key, l.bubble}); a.listeners[at] == l {
		delete(a.listeners, at)
	}
}

func (a *app) listener(key string, bubble int) *Listener {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listeners[place{key, bubble}]
}

// absent returns the cause if a recent Dial has found no listener at the target with this name, or
// none that it can use, see [rendezvous.Absences].
func (a *app) absent(name string) (rendezvous.Stamp, error) {
	return a.remote.Absences.Absent(name, a.opened.Load())
}

// show lets [Inspect] find the application, also if it only dials: while it is connected with another
// application or, with stay, from now on.
func (a *app) show(stay bool) {
	if !wait.InBubble() { // the goroutine would belong to the bubble
		a.remote.Show(stay)
	}
}

// addLocal returns false if the application is closed.
func (a *app) addLocal(p *localPair) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.local[p] = struct{}{}
	return true
}

func (a *app) removeLocal(p *localPair) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.local, p)
}

func (a *app) close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return net.ErrClosed
	}
	a.closed = true
	listeners := slices.Collect(maps.Keys(a.open))
	var local []*localPair
	for p := range a.local {
		local = append(local, p)
	}
	a.mu.Unlock()

	for _, l := range listeners {
		l.Close()
	}
	for _, p := range local {
		p.client.end.Abort()
		p.server.end.Abort()
	}
	a.remote.Close()
	a.janitor.Close()
	a.poolMu.Lock()
	defer a.poolMu.Unlock()
	for _, p := range a.pools {
		p.Close()
	}
	a.pools = nil
	return nil
}
