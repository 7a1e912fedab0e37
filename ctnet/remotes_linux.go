package ctnet

import (
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"golang.org/x/sys/unix"
)

// remotes is what an application has with others. It costs nothing until the
// first of them is there.
type remotes struct {
	app *app

	mu      sync.Mutex
	closed  bool
	sleep   *segpool.Memory // the workers' sleep words; others can only read them
	sleepFD int
	group   *sched.Group
	clients map[clientKey]*client // that take Dials
	servers map[*server]struct{}
	all     map[member]struct{} // with a control channel or connections
	// attaching are the client's handshakes under way.
	attaching map[clientKey]*attachment

	channels map[rendezvous.Channel]struct{} // open ones, also of handshakes
	users    sync.WaitGroup                  // a goroutine for each of these

	absences rendezvous.Absences
}

// maxServers is the most pairs that an application has as the server.
const maxServers = 4096

func (r *remotes) init(a *app) {
	r.app = a
	r.clients = make(map[clientKey]*client)
	r.all = make(map[member]struct{})
	r.attaching = make(map[clientKey]*attachment)
	r.channels = make(map[rendezvous.Channel]struct{})
	r.servers = make(map[*server]struct{})
}

// begin counts a channel on which a handshake begins, until end. It fails if the
// application is closed. Between the two the application's workers stay.
func (r *remotes) begin(ch rendezvous.Channel) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.channels[ch] = struct{}{}
	r.users.Add(1)
	return nil
}

// end closes a channel.
func (r *remotes) end(ch rendezvous.Channel) {
	r.mu.Lock()
	delete(r.channels, ch)
	r.mu.Unlock()
	ch.Close()
	r.users.Done()
}

// worker returns the worker that serves the next pair, its number, and the
// descriptor of the sleep words.
func (r *remotes) worker() (w *sched.Worker, number, sleepFD int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, 0, 0, net.ErrClosed
	}
	if r.group == nil {
		m, fd, err := segpool.CreateShared("ctnet sleep words", sleepPageSize, true)
		if err != nil {
			return nil, 0, 0, err
		}
		r.sleep, r.sleepFD = m, fd
		r.group = sched.NewGroup(func(i int) *atomic.Uint32 { return sleepWord(m, i) })
	}
	w, number = r.group.Next()
	return w, number, r.sleepFD, nil
}

// register adds a pair, unless the application is closed.
func (r *remotes) register(p *pair, add func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	if len(r.servers) >= maxServers {
		return &segpool.LimitError{What: "applications that have dialed this one", Limit: maxServers}
	}
	add()
	r.all[p.self] = struct{}{}
	return nil
}

// remove forgets a pair that has no reference left.
func (r *remotes) remove(m member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, m)
}

// unregister undoes what register's add has done.
func (r *remotes) unregister(remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	remove()
}

// conns returns the connections with other applications.
func (r *remotes) conns() (conns []seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.all {
		conns = m.appendConns(conns)
	}
	return conns
}

func (r *remotes) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// close ends all pairs, resets their connections, and waits until what belongs
// to them is gone.
func (r *remotes) close() {
	r.mu.Lock()
	r.closed = true
	all := slices.Collect(maps.Keys(r.all))
	channels := slices.Collect(maps.Keys(r.channels))
	r.mu.Unlock()
	for _, m := range all {
		for _, c := range m.appendConns(nil) {
			c.end.Abort()
		}
	}
	for _, ch := range channels {
		ch.Close()
	}
	r.users.Wait()
	if r.group != nil {
		r.group.Wait()
		r.sleep.Free()
		unix.Close(r.sleepFD)
	}
}
