package ctnet

import (
	"net"
	"sync"
	"sync/atomic"

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
	all     map[*pair]struct{}    // with a control channel or connections
	// attaching has a channel for each handshake under way, closed at its end.
	attaching map[clientKey]chan struct{}
	servers   map[*server]struct{}
	readers   sync.WaitGroup
}

func (r *remotes) init(a *app) {
	r.app = a
	r.clients = make(map[clientKey]*client)
	r.all = make(map[*pair]struct{})
	r.attaching = make(map[clientKey]chan struct{})
	r.servers = make(map[*server]struct{})
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

// register counts a pair, which calls unregister when the goroutine that reads
// its control channel ends. It fails if the application is closed.
func (r *remotes) register(p *pair, add func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	add()
	r.all[p] = struct{}{}
	r.readers.Add(1)
	return nil
}

// remove forgets a pair that has no reference left.
func (r *remotes) remove(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, p)
}

func (r *remotes) unregister(remove func()) {
	r.mu.Lock()
	remove()
	r.mu.Unlock()
	r.readers.Done()
}

// conns returns the connections with other applications.
func (r *remotes) conns() (conns []*Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.all {
		conns = p.conns.appendTo(conns)
	}
	return conns
}

// close ends all pairs, resets their connections, and waits until what belongs
// to them is gone.
func (r *remotes) close() {
	r.mu.Lock()
	r.closed = true
	var all []*pair
	for p := range r.all {
		all = append(all, p)
	}
	r.mu.Unlock()
	for _, p := range all {
		for _, c := range p.conns.appendTo(nil) {
			c.abort()
		}
		p.ch.Close()
	}
	r.readers.Wait()
	if r.group != nil {
		r.group.Wait()
		r.sleep.Free()
		unix.Close(r.sleepFD)
	}
}
