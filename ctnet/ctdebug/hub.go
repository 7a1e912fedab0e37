package ctdebug

import (
	"net/http"
	"sync"
	"time"
	"weak"

	"cutthrough.example/ctnet"
)

const (
	// maxClients is the most event streams at a time.
	maxClients = 8

	// queueLen is how many messages a client may be behind. One that is further behind is dropped,
	// and gets everything anew when it comes back.
	queueLen = 4

	// writeTime is how long a client may take to receive a message.
	writeTime = 10 * time.Second

	// minRest is how long the hub rests after a snapshot at least, in times of what that took: so
	// snapshots take a tenth of a CPU at most.
	minRest = 9
)

// A hub serves the event stream. While there are clients one goroutine takes a snapshot each
// interval, and sends the changes to all of them.
type hub struct {
	snapshot func() ctnet.Snapshot
	interval time.Duration

	mu      sync.Mutex
	app     identity
	table   table
	clients map[*client]struct{}
	stop    chan struct{} // ends the goroutine; nil if there is none
	servers map[weak.Pointer[http.Server]]struct{}
}

// A client is one request for the event stream.
type client struct {
	server *http.Server // or nil
	queue  chan []byte
	gone   chan struct{} // closed when the hub drops it
}

// serve answers a request with the event stream, until the client goes, is dropped, or its server
// shuts down.
func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	if err := out.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		// A client that reads nothing would keep the goroutine.
		http.Error(w, "ctdebug: this server has no deadlines for writing: "+err.Error(), http.StatusNotImplemented)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Connection", "close") // the deadline stays with the connection
	if r.Method == http.MethodHead {
		return
	}
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	c := h.join(server)
	if c == nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "ctdebug: too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer h.leave(c)
	for {
		select {
		case <-r.Context().Done():
			return
		case <-c.gone:
			return
		case b := <-c.queue:
			if out.SetWriteDeadline(time.Now().Add(writeTime)) != nil {
				return
			}
			if _, err := w.Write(b); err != nil || out.Flush() != nil {
				return
			}
		}
	}
}

// join adds a client, and returns nil if there are too many.
func (h *hub) join(server *http.Server) *client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) == maxClients {
		return nil
	}
	if h.stop == nil {
		s, now, took := h.look()
		h.app = identity{s.App, s.PID, s.UID, s.Program, s.Exe, h.interval.Milliseconds()}
		h.table.update(&s, now, took)
		h.clients = make(map[*client]struct{})
		h.stop = make(chan struct{})
		go h.run(h.stop, h.rest(took))
	}
	c := &client{server: server, queue: make(chan []byte, queueLen), gone: make(chan struct{})}
	c.queue <- event("full", h.table.full(&h.app))
	h.clients[c] = struct{}{}
	h.watch(server)
	return c
}

// leave removes a client. The last one ends the goroutine.
func (h *hub) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(c)
}

func (h *hub) remove(c *client) {
	if _, ok := h.clients[c]; !ok {
		return
	}
	delete(h.clients, c)
	close(c.gone)
	if len(h.clients) == 0 {
		close(h.stop)
		h.stop = nil
		h.table = table{} // its memory
	}
}

// run sends changes to the clients until stop is closed.
func (h *hub) run(stop chan struct{}, rest time.Duration) {
	timer := time.NewTimer(rest)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		s, now, took := h.look()
		h.send(stop, &s, now, took)
		timer.Reset(h.rest(took))
	}
}

// send tells the clients of a snapshot, unless stop is closed.
func (h *hub) send(stop chan struct{}, s *ctnet.Snapshot, now time.Time, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != stop {
		return
	}
	b := event("change", h.table.update(s, now, took))
	for c := range h.clients {
		select {
		case c.queue <- b:
		default:
			h.remove(c)
		}
	}
}

// look takes a snapshot, and measures how long that takes.
func (h *hub) look() (s ctnet.Snapshot, now time.Time, took time.Duration) {
	now = time.Now()
	s = h.snapshot()
	return s, now, time.Since(now)
}

// rest returns how long to wait after a snapshot.
func (h *hub) rest(took time.Duration) time.Duration {
	return max(h.interval-took, minRest*took)
}

// watch has a server's Shutdown end its clients: it waits until they have gone.
func (h *hub) watch(server *http.Server) {
	if server == nil {
		return
	}
	for p := range h.servers {
		if p.Value() == nil {
			delete(h.servers, p)
		}
	}
	p := weak.Make(server)
	if _, ok := h.servers[p]; ok {
		return
	}
	if h.servers == nil {
		h.servers = make(map[weak.Pointer[http.Server]]struct{})
	}
	h.servers[p] = struct{}{}
	server.RegisterOnShutdown(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for c := range h.clients {
			if c.server == p.Value() {
				h.remove(c)
			}
		}
	})
}

// event returns an event of the stream.
func event(name string, data []byte) []byte {
	b := make([]byte, 0, len("event: \ndata: \n\n")+len(name)+len(data))
	b = append(append(b, "event: "...), name...)
	b = append(append(b, "\ndata: "...), data...)
	return append(b, '\n', '\n')
}
