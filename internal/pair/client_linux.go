package pair

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"cutthrough.example/internal/syserr"
	"golang.org/x/sys/unix"
)

// A client is this application's pair with another one whose listener it has dialed.
type client struct {
	pair
	key  clientKey
	addr net.Addr // of the other end
	pool *segpool.Pool

	conns slotTable[Dialed]

	// growing is the flight of addSegment, or nil; added has the server's answer to it.
	growMu  sync.Mutex
	growing *flight
	added   chan syscall.Errno

	// An idle pair is ended after a while. uses counts Dials; dialing is the
	// number of Dials under way, guarded by Host.mu.
	dialing int
	uses    atomic.Uint64
	timer   idleTimer
}

// A clientKey says which Dials a client serves. All connections of a pair have the same fifo
// sizes, so Dials that ask for different sizes use different pairs.
type clientKey struct {
	key, name string
	ask       Sizes
}

// idleLinger is how long a pair without connections is kept, so that an occasional Dial does
// not need a handshake. The client looks at slots in limbo after this time, then after twice
// as long, and so on up to limboLinger.
const (
	idleLinger  = 2 * time.Second
	limboLinger = 64 * time.Second
)

// Dial connects to a listener of another application. The connection is d, whose memory it
// uses if Dial returns nil; otherwise d must not be used again. ErrRetired means that
// another Dial may find another listener.
func (h *Host) Dial(ctx context.Context, t Target, d Dialing) error {
	p, err := h.client(ctx, t)
	if err != nil {
		return err
	}
	err = p.connect(ctx, d)
	p.done()
	if err == ErrRetired {
		p.retire()
	}
	return err
}

// client returns the pair for a key, attaching to the listener if there is none.
// The caller calls done.
func (h *Host) client(ctx context.Context, t Target) (*client, error) {
	key := clientKey{t.Key, t.Name, t.Ask}
	h.mu.Lock()
	for {
		if h.closed {
			h.mu.Unlock()
			return nil, net.ErrClosed
		}
		if p := h.clients[key]; p != nil {
			p.dialing++
			h.mu.Unlock()
			// Another Dial has made the pair, and may trust others than this one, or have
			// looked when the address belonged to another user.
			if !t.trusts(p.cred) {
				p.done()
				p.retire()
				h.mu.Lock()
				continue
			}
			return p, nil
		}
		other := h.attaching[key]
		if other == nil {
			break
		}
		// Another Dial is attaching. If its context ends first, this Dial attaches.
		h.mu.Unlock()
		err := other.wait(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && err != context.Canceled && err != context.DeadlineExceeded {
			return nil, err
		}
		h.mu.Lock()
	}
	own := newFlight()
	h.attaching[key] = own
	h.mu.Unlock()

	p, err := h.attach(ctx, key, t)

	h.mu.Lock()
	delete(h.attaching, key)
	h.mu.Unlock()
	own.land(err)
	return p, err
}

// done ends a Dial's use of the pair.
func (p *client) done() {
	h := p.host
	h.mu.Lock()
	p.dialing--
	h.mu.Unlock()
	if p.pool.Idle() {
		p.linger()
	}
}

// attach attaches to the listener that key names. If the listener hangs up when much time has
// passed, then one of the two processes was stopped and the listener's patience is at its end, so
// attach tries once more.
func (h *Host) attach(ctx context.Context, key clientKey, t Target) (*client, error) {
	start := time.Now()
	p, err := h.attachOnce(ctx, key, t)
	if err == errHungUp && time.Since(start) > helloTimeout/2 {
		p, err = h.attachOnce(ctx, key, t)
	}
	return p, err
}

var errHungUp = syserr.New(syscall.ECONNREFUSED, "the listener's process hung up; has it ended?")

func (h *Host) attachOnce(ctx context.Context, key clientKey, t Target) (*client, error) {
	ch, cred, err := rendezvous.Dial(ctx, key.key, t.trusts)
	if err != nil {
		return nil, err
	}
	if err := h.begin(ch); err != nil {
		ch.Close()
		return nil, err
	}
	unlimited := ch.LimitHandshake(ctx)
	p, err := h.sayHello(ctx, ch, cred, key, t.Remote, unlimited)
	if err != nil {
		unlimited()
		h.end(ch)
		return nil, h.attachError(ctx, err)
	}
	go p.read()
	return p, nil
}

// attachError returns the error of a Dial whose handshake has failed with err.
func (h *Host) attachError(ctx context.Context, err error) error {
	switch {
	case h.isClosed():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return rendezvous.ErrSilent
	case rendezvous.IsEnd(err):
		return errHungUp
	case err == syscall.ESTALE:
		return ErrRetired
	}
	return err
}

// sayHello does the client's handshake. It calls unlimited after the server's answer; if that
// returns false, the context has ended.
func (h *Host) sayHello(ctx context.Context, ch rendezvous.Channel, cred rendezvous.Cred, key clientKey, remote net.Addr, unlimited func() bool) (*client, error) {
	var held holdings
	defer held.undo()
	worker, number, sleepFD, err := h.worker()
	if err != nil {
		return nil, err
	}
	block, blockFD, err := segpool.CreateShared("ctnet events", blockSize, segpool.ByBoth)
	if err != nil {
		return nil, err
	}
	defer unix.Close(blockFD)
	held.add(block.Free)
	bell, ringerFD, err := sched.NewDoorbell()
	if err != nil {
		return nil, err
	}
	defer unix.Close(ringerFD)
	held.add(bell.Close)

	hello := rendezvous.Message{Kind: rendezvous.KindHello, App: h.ID, Worker: uint32(number),
		ToServer: uint32(key.ask.ToServer), ToClient: uint32(key.ask.ToClient)}
	hello.NameLen = uint32(copy(hello.Name[:], key.name))
	if err := ch.AskSender(); err != nil {
		return nil, err
	}
	if err := ch.Send(hello, blockFD, sleepFD, ringerFD); err != nil {
		return nil, err
	}
	welcome, fds, err := ch.ExpectFrom(cred, rendezvous.KindWelcome, 2)
	defer func() { go fds.Close() }() // the server can make that block
	if err != nil {
		return nil, err
	}
	p := &client{
		pair: pair{host: h, ch: ch, cred: cred, worker: worker, workerNumber: number, number: h.pairs.Add(1),
			block: block, closing: foreign.NewTurns(closingTurns)},
		key:     key,
		addr:    remote,
		added:   make(chan syscall.Errno, 1),
		dialing: 1,
		timer:   idleTimer{setDeadline: ch.SetReadDeadline},
	}
	p.self = p
	if err := p.adopt(welcome, fds, 0); err != nil {
		return nil, err
	}
	held.add(p.disown)
	securing, cancel := context.WithTimeout(ctx, rendezvous.HandshakeTimeout)
	defer cancel()
	if err := block.Secure(securing, blockFD); err != nil {
		return nil, err
	}
	g, err := segpool.SharedGeometry(int(welcome.ToServer), int(welcome.ToClient))
	if err != nil {
		return nil, rendezvous.ErrProtocol
	}
	p.pool = segpool.NewPool(g, h.Account, p.drop)
	toServer, toClient := bitmaps(block)
	p.remote.Events = toServer
	if !unlimited() {
		return nil, os.ErrDeadlineExceeded // by the context
	}
	if err := p.listen(toClient, bell, p.handle, nil); err != nil {
		return nil, err
	}
	held.keep()
	if err := h.register(p, func() { h.clients[key] = p }); err != nil {
		p.die(p.cutNext())
		p.pool.Close()
		return nil, err
	}
	return p, nil
}

// read reads the control channel, and ends the pair when that ends.
func (p *client) read() {
	h := p.host
	for !p.dead.Load() {
		m, fds, err := p.ch.ReceivePatiently()
		if len(fds) > 0 {
			fds.Close()
			err = rendezvous.ErrProtocol
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if p.idle() {
				break
			}
			continue
		}
		if err == rendezvous.ErrProtocol {
			p.cutOff(badMessage)
		}
		if err != nil {
			break
		}
		p.heard(m.Kind)
		switch m.Kind {
		case rendezvous.KindAdded:
			select {
			case p.added <- syscall.Errno(m.Errno):
			default: // not the answer to an add
			}
		case rendezvous.KindRetire:
			p.retire()
		case rendezvous.KindFull:
		default:
			p.cutOff(badMessage)
		}
	}
	p.dead.Store(true)
	h.unregister(p.forget)
	close(p.added)
	p.die(p.cutNext())
	p.pool.Close()
	h.end(p.ch)
}

// retire makes later Dials attach anew.
func (p *client) retire() {
	h := p.host
	h.mu.Lock()
	defer h.mu.Unlock()
	p.forget()
}

// forget is retire with Host.mu held.
func (p *client) forget() {
	h := p.host
	if h.clients[p.key] == p {
		delete(h.clients, p.key)
	}
}

// linger starts the timer that ends an idle pair and frees slots in limbo, unless it runs.
func (p *client) linger() { p.timer.start(idleLinger, p.uses.Load()) }

// idle is called when the timer fires. It reports whether the pair was idle since the timer
// was started. If so, no Dial finds the pair any more.
func (p *client) idle() bool {
	after, uses := p.timer.stop()
	limbo := p.pool.Reap()
	h := p.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.dialing > 0 || !p.pool.Idle() {
		// The end of that Dial or connection sets the timer.
		if limbo {
			p.timer.start(min(2*after, limboLinger), p.uses.Load())
		}
		return false
	}
	if p.uses.Load() != uses {
		p.linger()
		return false
	}
	p.forget()
	return true
}

// An idleTimer is the read deadline of a control channel. The deadline and running change
// together, under mu: if running said that an unset timer is set, the pair would never end.
// Model: idle.pml.
type idleTimer struct {
	setDeadline func(time.Time) error

	running atomic.Int64 // the duration that it was started with, or 0; changed with mu held

	mu   sync.Mutex
	uses uint64 // of the pair, when the timer was started
}

// start starts the timer, unless it runs already with a duration that is not longer.
func (t *idleTimer) start(after time.Duration, uses uint64) {
	// The caller has changed the pool or uses before this look. idle reads them after
	// stop, so it sees the change.
	if t.runs(after) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.runs(after) {
		t.running.Store(int64(after))
		t.uses = uses
		t.setDeadline(time.Now().Add(after))
	}
}

func (t *idleTimer) runs(after time.Duration) bool {
	running := time.Duration(t.running.Load())
	return running != 0 && running <= after
}

// stop stops the timer. It returns what the timer was started with.
func (t *idleTimer) stop() (after time.Duration, uses uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setDeadline(time.Time{})
	return time.Duration(t.running.Swap(0)), t.uses
}

// handle is called by the worker for each event.
func (p *client) handle(id uint32) {
	if d := p.conns.get(id); d != nil {
		d.owner.End().Wake()
	}
}

// cutNext returns a function that cuts the next connection, see [pair.die].
func (p *client) cutNext() func() bool {
	return p.conns.inTurn(func(d *Dialed) { p.cut(d.owner.End()) })
}

func (p *client) info(until time.Time) Info {
	conns := 0
	p.conns.all(func(*Dialed) { conns++ })
	i := p.describe(p.key.name, conns, p.pool.Geometry(), p.pool.Usage(until))
	i.Dialed = true
	return i
}

func (p *client) each(f func(e *stream.End, owner any, at Spot, halfOpen bool)) {
	// connected first: then what Dialing.Connected has set is there.
	p.conns.all(func(d *Dialed) {
		halfOpen := !d.connected.Load()
		f(d.owner.End(), d.owner, p.spot(d.slot), halfOpen)
	})
}

// drop tells the server that a segment goes. The pool calls it before.
func (p *client) drop(k int) bool {
	return p.ch.Send(rendezvous.Message{Kind: rendezvous.KindDrop, Segment: uint32(k)}) == nil
}

// grow waits until a segment has been added to the pool. The Dial that waits may give up, but
// the work goes on: if only the server had the segment, the next one could not have its
// number.
func (p *client) grow(ctx context.Context) error {
	p.growMu.Lock()
	g := p.growing
	switch {
	case g == nil && p.pool.HasFree():
		p.growMu.Unlock()
		return nil // one was added meanwhile
	case g == nil:
		g = newFlight()
		p.growing = g
		go func() {
			err := p.addSegment()
			p.growMu.Lock()
			p.growing = nil
			p.growMu.Unlock()
			g.land(err)
		}()
	}
	p.growMu.Unlock()
	return g.wait(ctx)
}

// addSegment makes a segment, sends it to the server, and adds it to the pool.
func (p *client) addSegment() error {
	k, err := p.pool.Next()
	if err != nil {
		return err
	}
	m, fd, err := segpool.CreateShared("ctnet segment", p.pool.Geometry().Size(), segpool.ByBoth)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.ch.SendPatiently(rendezvous.Message{Kind: rendezvous.KindAdd, Segment: uint32(k)}, fd); err != nil {
		m.Free()
		return ErrRetired
	}
	if err := p.awaitAdded(); err != nil {
		m.Free()
		return err
	}
	securing, cancel := context.WithTimeout(context.Background(), rendezvous.HandshakeTimeout)
	defer cancel()
	if err := m.Secure(securing, fd); err != nil {
		m.Free()
		p.drop(k) // the server has it
		if err == os.ErrDeadlineExceeded {
			err = rendezvous.ErrSilent
		}
		return err
	}
	if err := p.pool.Add(k, m); err != nil {
		p.drop(k) // the server has it
		return err
	}
	return nil
}

// awaitAdded waits for the answer to an add.
func (p *client) awaitAdded() error {
	timeout := time.NewTimer(rendezvous.HandshakeTimeout)
	defer timeout.Stop()
	select {
	case errno, ok := <-p.added:
		switch {
		case !ok:
			return ErrRetired
		case errno != 0:
			return errno
		}
		return nil
	case <-timeout.C:
		p.hangUp()
		return rendezvous.ErrSilent
	}
}

// gone implements member.
func (p *client) gone() {}
