package pair

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
)

// A pair connects this application with another one: it has a control channel, and the
// memory through which the two applications notify each other of events. There is one pair
// for each listener that one of the two has dialed, each name by which it was dialed, and each
// choice of asked sizes.
//
// References keep the memory and the doorbells. The pair has one while it is alive, and each
// connection and each Dial under way has one.
type pair struct {
	host    *Host
	self    member // the client or server that this is a part of
	ch      rendezvous.Channel
	peerApp uint64
	cred    rendezvous.Cred

	remote sched.Remote // the peer's worker
	source sched.Source // what the peer tells this application
	worker *sched.Worker

	number       uint64 // among the application's pairs
	workerNumber int

	block *segpool.Memory // both directions' bitmaps
	sleep *segpool.Memory // the peer's sleep words, not writable here

	refs atomic.Int32
	dead atomic.Bool

	closing foreign.Turns // to close what the peer has sent
	cutNext func() bool   // see die; the worker's own from then on
	full    uint64        // KindFull messages received; the reader's own
}

// unref drops a reference. The last one frees the memory and closes the descriptors.
func (p *pair) unref() {
	if p.refs.Add(-1) == 0 {
		p.host.remove(p.self)
		p.block.Free()
		p.sleep.Free()
		if p.source.Process >= 0 {
			unix.Close(p.source.Process)
		}
		go func() {
			p.closing.Do(p.source.Bell.Close)
			p.closing.Do(p.remote.Bell.Close)
			p.self.gone()
			p.host.hide()
		}()
	}
}

// ref adds a reference. It fails if the last one was dropped already.
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

// A member is a client or a server.
type member interface {
	// each calls f with each connection. halfOpen says that its dialer was not answered yet.
	each(f func(e *stream.End, owner any, at Spot, halfOpen bool))
	// info describes the pair. Pages are counted until the given time.
	info(until time.Time) Info
	// gone is called when the pair has no memory and no descriptors any more.
	gone()
}

// die ends a pair whose control channel has ended. The worker first delivers the events that
// came before, then cuts the connections, and then drops the pair's reference. cutNext cuts
// the next connection, and returns false if there is none left.
func (p *pair) die(cutNext func() bool) {
	p.hangUp()
	p.cutNext = cutNext
	p.worker.End(&p.source)
}

// cutsPerTurn is the number of connections that are cut in one turn of the worker.
const cutsPerTurn = 100

// cutSome is [sched.Source.Cut].
func (p *pair) cutSome() (more bool) {
	for range cutsPerTurn {
		if !p.cutNext() {
			p.worker.Remove(&p.source)
			p.unref()
			return false
		}
	}
	return true
}

// listen has the worker serve the pair: events are of the peer, and handled by handle and work.
// After that the worker may be using the pair's memory.
func (p *pair) listen(events sched.Bitmap, bell *sched.Doorbell, handle func(slot uint32), work func() bool) error {
	p.source = sched.Source{
		Events: events, Handle: handle, Bell: bell, Work: work, Cut: p.cutSome,
		Process: p.ch.PeerProcess(p.cred), Gone: p.hangUp,
	}
	p.refs.Store(1)
	err := p.worker.Add(&p.source)
	if err != nil && p.source.Process >= 0 {
		unix.Close(p.source.Process)
	}
	return err
}

// hangUp has the goroutine that reads the control channel end the pair.
func (p *pair) hangUp() {
	p.dead.Store(true)
	p.ch.HangUp()
}

// tellFull tells the peer that its doorbell's queue is full. If there is no room for the message,
// then the peer has others that it has not received, on which it does the same.
func (p *pair) tellFull() { p.ch.Send(rendezvous.Message{Kind: rendezvous.KindFull}) }

// heard is called for each message that has come on the control channel.
func (p *pair) heard(kind uint16) {
	if kind == rendezvous.KindFull {
		p.full++
	}
	if !p.worker.Empty(&p.source, p.full) {
		p.cutOff(ringsTooOften)
	}
}

// A violation is a reason to cut a peer off.
type violation int

const (
	corruptFifo violation = iota
	badMessage
	ringsTooOften
	violations // how many there are
)

func (v violation) String() string {
	return [...]string{
		corruptFifo:   "it wrote what can't be into the words of a fifo",
		badMessage:    "it sent a message that is not of the protocol",
		ringsTooOften: "it rings the doorbell without end",
	}[v]
}

// cutOff ends the pair, as the peer has broken the protocol, and says so in the log.
func (p *pair) cutOff(why violation) {
	if p.dead.Swap(true) {
		return
	}
	p.host.violations[why].Add(1)
	p.ch.HangUp()
	if ok, silent := p.host.complaints.due(); ok {
		p.host.Log().Warn("ctnet: cut off a process that broke the protocol",
			"pid", p.cred.PID, "uid", p.cred.UID, "why", why.String(), "others", silent)
	}
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

// spot returns where a slot of the pair is.
func (p *pair) spot(s segpool.Slot) Spot {
	segment, slot := s.Position()
	return Spot{Pair: p.number, Worker: p.workerNumber, Segment: segment, Slot: slot, Use: s.Use}
}

// describe returns what pairs of both kinds say of themselves.
func (p *pair) describe(name string, conns int, g segpool.Geometry, u segpool.Usage) Info {
	exe, stopped := p.process()
	return Info{
		Number: p.number, Name: name, Cred: &p.cred, Exe: exe, Stopped: stopped, App: p.peerApp, Worker: p.workerNumber,
		Conns: conns, ToServer: g.ToServer, ToClient: g.ToClient, Usage: u,
	}
}

// process returns the path of the program that the peer's process runs, and whether it is stopped; "" and
// false if it has ended or this process may not know.
func (p *pair) process() (exe string, stopped bool) {
	if !p.ref() {
		return "", false
	}
	defer p.unref() // keeps the descriptor
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.cred.PID))
	if err != nil {
		exe = "" // it is another user's; whether it is stopped may be read by all
	}
	stopped = rendezvous.IsStopped(p.cred.PID)
	// After that: the number is another process's only if this one has ended.
	if p.dead.Load() || p.source.Process >= 0 && hasEnded(p.source.Process) {
		return "", false
	}
	return exe, stopped
}

// hasEnded reports whether a descriptor of a process says that it has ended.
func hasEnded(process int) bool {
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

// options completes the options of an end.
func (h *Host) options(o stream.Options, raceKey uint64, j *stream.Janitor) stream.Options {
	o.RaceKey, o.Janitor, o.Totals = raceKey, j, &h.Counts.Ends
	return o
}

// raceKey returns the race detector's key of a connection, from its number and the identity
// of the dialing application. Both ends compute the same key.
func raceKey(app, number uint64) uint64 { return app ^ number }

// A slotTable finds connections by slot. It grows by chunks, and never shrinks.
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

// next returns the first connection whose slot is *id or higher, and sets *id to the slot
// after it. It returns nil if there is none.
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

// Holdings are the steps that undo what a handshake has acquired so far. The handshake
// undoes all of it, in reverse order, unless it calls keep.
type holdings []func()

func (h *holdings) add(undo func()) { *h = append(*h, undo) }

func (h *holdings) keep() { *h = nil }

func (h *holdings) undo() {
	for _, f := range slices.Backward(*h) {
		f()
	}
}

// A flight is work that is done once for all goroutines that need it.
type flight struct {
	done chan struct{}
	err  error // once it is done
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

// land ends the work, with its error.
func (f *flight) land(err error) {
	f.err = err
	close(f.done)
}

// wait waits until the work is done or ctx has ended.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adopt opens two of the descriptors that the peer has sent with m: that of its sleep words,
// number sleep, and after it that of the doorbell of the worker that m names, which it takes.
func (p *pair) adopt(m rendezvous.Message, fds foreign.FDs, sleep int) (err error) {
	p.peerApp = m.App
	if m.Worker >= sched.MaxWorkers {
		return rendezvous.ErrProtocol
	}
	p.sleep, err = segpool.OpenShared(fds[sleep], sleepPageSize, segpool.ByMaker)
	if err != nil {
		return rendezvous.Broken(err)
	}
	p.remote.Bell, err = sched.OpenRinger(fds[sleep+1])
	if err != nil {
		p.sleep.Free()
		return rendezvous.Broken(err)
	}
	fds.Take(sleep + 1)
	p.remote.Sleep = sleepWord(p.sleep, int(m.Worker))
	p.remote.Full = p.tellFull
	return nil
}

// disown undoes adopt.
func (p *pair) disown() {
	p.sleep.Free()
	p.remote.Bell.Close()
}
