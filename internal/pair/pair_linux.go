package pair

import (
	"context"
	"slices"
	"sync/atomic"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// A pair is what this application has with another one: a control channel, and
// the memory through which they tell each other of events. There is one for each
// listener that this application has dialed, and for each application that has
// dialed a listener of this one.
//
// The memory and the doorbells stay until the last reference is gone. There is
// one while the pair is alive, one for each connection, and one for each Dial
// under way.
type pair struct {
	host    *Host
	self    member // the client or server that this is a part of
	ch      rendezvous.Channel
	peerApp uint64
	cred    rendezvous.Cred

	remote sched.Remote // the peer's worker
	source sched.Source // what the peer tells this application
	worker *sched.Worker

	block *segpool.Memory // both directions' bitmaps
	sleep *segpool.Memory // the peer's sleep words, not writable here

	refs atomic.Int32
	dead atomic.Bool
}

// unref gives up a reference.
func (p *pair) unref() {
	if p.refs.Add(-1) == 0 {
		p.host.remove(p.self)
		p.block.Free()
		p.disown()
	}
}

// ref takes a reference, if the pair is not gone yet.
func (p *pair) ref() bool {
	for {
		n := p.refs.Load()
		if n == 0 {
			return false
		}
		if p.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// notifyApart is remote.Notify for callers that must not block whatever the peer has done to
// its doorbell: it is rung by a goroutine of its own. The caller has a reference.
func (p *pair) notifyApart(slot uint32) {
	if p.remote.Post(slot) {
		p.refs.Add(1)
		go func() {
			p.remote.Ring()
			p.unref()
		}()
	}
}

// A member is a client or a server.
type member interface {
	// each calls f with each connection, and whether its dialer has not been answered.
	each(f func(e *stream.End, owner any, halfOpen bool))
}

// die ends a pair whose control channel has ended. The worker tells the connections, after
// the events that came before, and then forgets the pair. cutNext cuts the next connection,
// and returns false if there is none left.
func (p *pair) die(cutNext func() bool) {
	p.dead.Store(true)
	p.ch.Close()
	p.worker.Cleanup(func() bool {
		if cutNext() {
			return true
		}
		p.worker.Remove(&p.source)
		p.source.Bell.Close()
		p.unref()
		return false
	})
}

// cut ends a connection whose pair has ended. If the pair was ended by [Host.Close] the
// connection is closed, as Close does with the connections that it finds; otherwise its peer
// is gone.
func (p *pair) cut(e *stream.End) {
	if p.host.isClosed() {
		e.Abort()
	} else {
		e.PeerGone()
	}
}

// options completes the options of an end whose rings begin with a size of first.
func (h *Host) options(o stream.Options, raceKey uint64, first int) stream.Options {
	o.RaceKey, o.First, o.Memory, o.Janitor = raceKey, first, h.Account, h.Janitor
	return o
}

// raceKey returns a key for the connection with this number of the dialing application: the
// same at both ends.
func raceKey(app, number uint64) uint64 { return app ^ number }

// A slotTable finds connections by slot. It grows by chunks, which stay.
type slotTable[C any] struct {
	chunks [segpool.MaxSlots / chunkSize]atomic.Pointer[[chunkSize]atomic.Pointer[C]]
}

const chunkSize = 256

func (t *slotTable[C]) get(id uint32) *C {
	chunk := t.chunks[id/chunkSize].Load()
	if chunk == nil {
		return nil
	}
	return chunk[id%chunkSize].Load()
}

func (t *slotTable[C]) set(id uint32, c *C) {
	at := &t.chunks[id/chunkSize]
	if at.Load() == nil {
		at.CompareAndSwap(nil, new([chunkSize]atomic.Pointer[C]))
	}
	at.Load()[id%chunkSize].Store(c)
}

// next returns the next connection at or after *id and moves *id behind it, or
// nil if there is none.
func (t *slotTable[C]) next(id *uint32) *C {
	for *id < segpool.MaxSlots {
		if t.chunks[*id/chunkSize].Load() == nil {
			*id += chunkSize - *id%chunkSize
			continue
		}
		c := t.get(*id)
		*id++
		if c != nil {
			return c
		}
	}
	return nil
}

// all calls each with every connection.
func (t *slotTable[C]) all(each func(*C)) {
	id := uint32(0)
	for c := t.next(&id); c != nil; c = t.next(&id) {
		each(c)
	}
}

// inTurn returns a function that calls each with the next connection, and returns false
// when there is none left.
func (t *slotTable[C]) inTurn(each func(*C)) (next func() bool) {
	id := uint32(0)
	return func() bool {
		c := t.next(&id)
		if c != nil {
			each(c)
		}
		return c != nil
	}
}

// Holdings are what a handshake has acquired: it gives all of it back, in reverse order,
// unless it keeps it.
type holdings []func()

func (h *holdings) add(giveBack func()) { *h = append(*h, giveBack) }

func (h *holdings) keep() { *h = nil }

func (h *holdings) release() {
	for _, giveBack := range slices.Backward(*h) {
		giveBack()
	}
}

// A flight is work that is done once for all goroutines that need it.
type flight struct {
	done chan struct{}
	err  error // once it is done
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

// land says that the work is done.
func (f *flight) land(err error) {
	f.err = err
	close(f.done)
}

// wait waits until the work is done, or ctx is.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adopt takes over what the peer has sent: the descriptors of its sleep words and
// of the doorbell of the worker that m names.
func (p *pair) adopt(m rendezvous.Message, sleepFD, bellFD int) (err error) {
	p.peerApp = m.App
	if m.Worker >= sched.MaxWorkers {
		rendezvous.CloseAll([]int{sleepFD, bellFD})
		return rendezvous.ErrProtocol
	}
	p.remote.Bell, err = sched.OpenDoorbell(bellFD)
	if err != nil {
		rendezvous.CloseAll([]int{sleepFD, bellFD})
		return rendezvous.Broken(err)
	}
	p.sleep, err = segpool.OpenShared(sleepFD, sleepPageSize, segpool.ByMaker)
	if err != nil {
		p.remote.Bell.Close()
		return rendezvous.Broken(err)
	}
	p.remote.Sleep = sleepWord(p.sleep, int(m.Worker))
	return nil
}

// disown undoes adopt.
func (p *pair) disown() {
	p.sleep.Free()
	p.remote.Bell.Close()
}
