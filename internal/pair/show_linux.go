package pair

import "cutthrough.example/internal/rendezvous"

// An application is found, by whoever wants a snapshot of it, through the sockets on which it
// listens. One that only dials has none, so it makes one for that alone.

// Show lets the application be found, if it isn't yet, while it has pairs; or, with stay, until it is
// closed. It doesn't wait for anybody. If it fails the application is seen from the other ends of its
// connections only.
func (h *Host) Show(stay bool) {
	if h.shown.Load() && !stay {
		return
	}
	h.mu.Lock()
	h.stay = h.stay || stay
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
	h.mu.Unlock()
	go d.Serve()
	h.hide() // the last pair may have ended meanwhile, or Host.Close was called
}

// hide undoes Show if the application has no pair any more. It is called after each pair's end.
func (h *Host) hide() {
	h.mu.Lock()
	d := h.own
	if d == nil || !h.closed && (h.stay || len(h.all) > 0) {
		h.mu.Unlock()
		return
	}
	h.own = nil
	h.shown.Store(false)
	h.mu.Unlock()
	d.Close()
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
