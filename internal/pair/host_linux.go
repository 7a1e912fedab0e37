package pair

import (
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"golang.org/x/sys/unix"
)

// A Host is an application's side of all its pairs. It allocates its sleep words and workers
// with the first pair.
type Host struct {
	Config

	mu      sync.Mutex
	closed  bool
	sleep   *segpool.Memory // the workers' sleep words; others can only read them
	sleepFD int
	group   *sched.Group
	clients map[clientKey]*client // the pairs that Dials find
	servers map[*server]struct{}
	doors   map[*Door]struct{}  // open ones
	all     map[member]struct{} // the pairs with a reference left
	// attaching are the client's handshakes under way.
	attaching map[clientKey]*flight

	channels map[rendezvous.Channel]struct{} // open ones, also of handshakes; not of captures
	users    sync.WaitGroup                  // counts open channels; each has a goroutine

	captures map[string]*capture // by the connections' IDs; guarded by mu

	shown atomic.Bool // see Show
	own   *Door       // what Show has made, or nil; guarded by mu
	stay  bool        // own stays until Close; guarded by mu

	complaints complaints
	violations [violations]atomic.Uint64
	pairs      atomic.Uint64 // so far

	// Absences are the targets at which there was no listener.
	Absences rendezvous.Absences
}

// closePatience is how long Close waits at most. It waits that long only if a peer has sent a
// descriptor whose close blocks.
const closePatience = 2 * time.Second

// maxServers is about the most pairs that an application has as the server. Handshakes under
// way are not counted, so there can be some more.
const maxServers = 4096

// Init must be called before anything else.
func (h *Host) Init(c Config) {
	h.Config = c
	h.clients = make(map[clientKey]*client)
	h.all = make(map[member]struct{})
	h.attaching = make(map[clientKey]*flight)
	h.channels = make(map[rendezvous.Channel]struct{})
	h.captures = make(map[string]*capture)
	h.servers = make(map[*server]struct{})
	h.doors = make(map[*Door]struct{})
}

// begin counts a channel on which a handshake begins, until end. It fails if the application
// is closed. [Host.Close] waits for the end of all channels before it frees the sleep words.
func (h *Host) begin(ch rendezvous.Channel) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return net.ErrClosed
	}
	h.channels[ch] = struct{}{}
	h.users.Add(1)
	return nil
}

// end closes a channel.
func (h *Host) end(ch rendezvous.Channel) {
	h.mu.Lock()
	delete(h.channels, ch)
	h.mu.Unlock()
	ch.Close()
	h.users.Done()
}

// worker returns the worker that serves the next pair, its number, and the
// descriptor of the sleep words.
func (h *Host) worker() (w *sched.Worker, number, sleepFD int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, 0, 0, net.ErrClosed
	}
	if h.group == nil {
		m, fd, err := segpool.CreateShared("ctnet sleep words", sleepPageSize, segpool.ByMaker)
		if err != nil {
			return nil, 0, 0, err
		}
		h.sleep, h.sleepFD = m, fd
		h.group = sched.NewGroup(func(i int) *atomic.Uint32 { return sleepWord(m, i) })
	}
	w, number = h.group.Next()
	return w, number, h.sleepFD, nil
}

// register adds a pair, unless the application is closed.
func (h *Host) register(m member, add func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return net.ErrClosed
	}
	add()
	h.all[m] = struct{}{}
	return nil
}

// Violations returns how often pairs were ended because the peer had broken the protocol.
func (h *Host) Violations() Violations {
	return Violations{
		Fifo:     h.violations[corruptFifo].Load(),
		Message:  h.violations[badMessage].Load(),
		Doorbell: h.violations[ringsTooOften].Load(),
	}
}

// full reports whether the limit of attached applications is reached.
func (h *Host) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.servers) >= maxServers
}

// remove forgets a pair that has no reference left.
func (h *Host) remove(m member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, m)
}

// unregister undoes what register's add has done.
func (h *Host) unregister(remove func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	remove()
}

// Each calls f with each end of a connection that the application has with another one. owner
// is its Dialing or Accepting; halfOpen says that the dialer was not answered yet.
func (h *Host) Each(f func(owner any, at Spot, halfOpen bool)) {
	for _, m := range h.members() {
		m.each(func(_ *stream.End, owner any, at Spot, halfOpen bool) { f(owner, at, halfOpen) })
	}
}

// Infos describes the pairs. Pages are counted until the given time.
func (h *Host) Infos(until time.Time) (all []Info) {
	for _, m := range h.members() {
		all = append(all, m.info(until))
	}
	return all
}

func (h *Host) members() []member {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.all))
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// Close ends all pairs, resets their connections, and waits until all channels are closed and
// all workers are stopped.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	all := slices.Collect(maps.Keys(h.all))
	channels := slices.Collect(maps.Keys(h.channels))
	captures := slices.Collect(maps.Values(h.captures))
	h.mu.Unlock()
	h.hide()
	for _, m := range all {
		m.each(func(e *stream.End, _ any, _ Spot, _ bool) { e.Abort() })
	}
	for _, c := range captures {
		c.tap.Close() // the connection may not have ended yet, as code of others uses its memory
	}
	for _, ch := range channels {
		ch.HangUp()
	}
	gone := make(chan struct{})
	go func() {
		h.users.Wait()
		if h.group != nil {
			h.group.Wait()
			h.sleep.Free()
			unix.Close(h.sleepFD)
		}
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(closePatience):
	}
}
