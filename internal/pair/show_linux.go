package pair

import "cutthrough.example/internal/rendezvous"

// An application is found, by whoever wants a snapshot of it, through the sockets on which it
// listens. One that only dials has none, so it makes one for that alone.

// Show lets the application be found, if it isn't yet. It doesn't wait for anybody. If it fails the
// application is seen from the other ends of its connections only.
func (h *Host) Show() {
	if h.shown.Load() {
		return
	}
	h.mu.Lock()
	needless := h.closed || len(h.doors) > 0 || h.shown.Swap(true)
	h.mu.Unlock()
	if needless {
		return
	}
	socket, err := rendezvous.Show(h.ID)
	if err != nil {
		return
	}
	d := h.door(nobody{}, socket)
	h.mu.Lock()
	h.own = d
	closed := h.closed
	h.mu.Unlock()
	if closed {
		d.Close() // Host.Close has not seen it
		return
	}
	go d.Serve()
}

// Sockets returns the names or paths of the sockets through which the application is found.
func (h *Host) Sockets() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d := range h.doors {
		names = append(names, d.socket.Names()...)
	}
	return names
}

// Nobody is the listener of a socket to which no application may attach. Its user and root can ask
// there for a snapshot.
type nobody struct{}

func (nobody) Allows(rendezvous.Cred) bool { return false }
func (nobody) Place(string) Place          { return nil }
func (nobody) PeerLimits() PeerLimits      { return PeerLimits{} }
func (nobody) Shared() bool                { return false }
func (nobody) Retire()                     {}
func (nobody) Withdraw(Accepting)          {}
