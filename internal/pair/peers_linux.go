package pair

import (
	"container/list"
	"os"
	"sync"
	"time"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// A peer is a process with which a listener has handshakes or pairs; processes of another user
// are one peer together. What a peer can hold is limited, and so others can have the rest.
type peer struct {
	key     peerKey
	account *segpool.Account // of its connections and segments
	janitor stream.Janitor   // of its connections
	closing foreign.Turns    // to close what it has sent, which it can make block
	mapping foreign.Turns    // to map and unmap its memory

	refused chan struct{} // has an element for each channel that is being closed unheard

	// Guarded by peers.mu
	handshakes, pairs int
}

// refuse closes a channel unheard, in the peer's turn. It waits for refusePatience if as many
// channels of the peer are being closed already as may be: a peer that connects without end must
// not have them pile up.
func (p *peer) refuse(ch rendezvous.Channel) {
	patience := time.NewTimer(refusePatience)
	defer patience.Stop()
	counted := false
	select {
	case p.refused <- struct{}{}:
		counted = true
	case <-patience.C:
	}
	go func() {
		p.closing.Do(func() { ch.Close() })
		if counted {
			<-p.refused
		}
	}()
}

const (
	maxRefused     = 64
	refusePatience = 10 * time.Millisecond
)

// The turns of one peer, each of which may keep a thread.
const (
	closingTurns = 2
	mappingTurns = 4 // nothing in these waits for the peer
)

// A peerKey is a PID, or for processes of other users, and for one whose PID is not known, their
// UID.
type peerKey struct{ pid, uid int }

func keyOf(c rendezvous.Cred) peerKey {
	if c.PID == 0 || c.UID != os.Geteuid() && c.UID != 0 {
		return peerKey{uid: c.UID}
	}
	return peerKey{pid: c.PID, uid: c.UID}
}

// A visitor is a process with which a handshake is under way.
type visitor struct {
	ch   rendezvous.Channel
	cred rendezvous.Cred
	peer *peer
	at   *list.Element // in peers.visitors; nil once it was removed
	left bool          // its place is free
}

// The largest numbers of handshakes under way, with one peer and in all. A peer that has as many
// is turned away unheard; if there are as many in all, the one that has lasted longest is ended.
// An honest process takes less than a millisecond for one.
const (
	maxPeerHandshakes = 128
	maxHandshakes     = 512
)

// peers are the peers of a listener.
type peers struct {
	limits PeerLimits
	whole  *segpool.Account // of the application

	mu       sync.Mutex
	all      map[peerKey]*peer
	visitors list.List // of *visitor, in the order in which they came
}

func (p *peers) init(limits PeerLimits, whole *segpool.Account) {
	p.limits, p.whole = limits, whole
	p.all = make(map[peerKey]*peer)
}

// enter returns a visitor, or nil if its process has too many handshakes under way, and the peer
// that it is of.
func (p *peers) enter(ch rendezvous.Channel, cred rendezvous.Cred) (*visitor, *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := keyOf(cred)
	of := p.all[key]
	if of == nil {
		account := p.whole.Share(segpool.Limits{
			Conns:    int64(p.limits.Conns),
			Segments: int64(p.limits.Segments),
			Bytes:    p.limits.Bytes,
			Memory:   p.limits.Memory,
		})
		of = &peer{
			key:     key,
			account: account,
			janitor: stream.Janitor{Memory: account},
			closing: foreign.NewTurns(closingTurns),
			mapping: foreign.NewTurns(mappingTurns),
			refused: make(chan struct{}, maxRefused),
		}
		p.all[key] = of
	}
	if of.handshakes >= maxPeerHandshakes {
		return nil, of
	}
	of.handshakes++
	if p.visitors.Len() >= maxHandshakes {
		longest := p.visitors.Front().Value.(*visitor)
		longest.ch.HangUp()
		p.remove(longest)
	}
	v := &visitor{ch: ch, cred: cred, peer: of}
	v.at = p.visitors.PushBack(v)
	return v, of
}

// remove removes v from the visitors. The caller holds mu.
func (p *peers) remove(v *visitor) {
	if v.at != nil {
		p.visitors.Remove(v.at)
		v.at = nil
	}
}

// leave ends a visit. It may be called again.
func (p *peers) leave(v *visitor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(v)
	if !v.left {
		v.left = true
		v.peer.handshakes--
		p.forget(v.peer)
	}
}

// addPair counts a pair with a peer. It returns false if the peer has as many as it may.
func (p *peers) addPair(of *peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of.pairs >= p.limits.Attached {
		return false
	}
	of.pairs++
	return true
}

// removePair undoes addPair.
func (p *peers) removePair(of *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of.pairs--
	p.forget(of)
}

// forget forgets a peer that has nothing any more. The caller holds mu.
func (p *peers) forget(of *peer) {
	if of.handshakes+of.pairs == 0 {
		delete(p.all, of.key)
	}
}

// A complaints bounds the lines that an application logs about its peers.
type complaints struct {
	mu     sync.Mutex
	since  time.Time
	lines  int // since then
	silent int // lines that were not logged since the last one that was
}

// At most maxLines are logged in each lineTime.
const (
	maxLines = 10
	lineTime = time.Minute
)

// due reports whether a line may be logged, and how many were not since the last one.
func (c *complaints) due() (ok bool, silent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.since) > lineTime {
		c.since, c.lines = now, 0
	}
	if c.lines == maxLines {
		c.silent++
		return false, 0
	}
	c.lines++
	silent, c.silent = c.silent, 0
	return true, silent
}
