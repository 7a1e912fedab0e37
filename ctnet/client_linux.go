package ctnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"cutthrough.example/internal/syserr"
	"golang.org/x/sys/unix"
)

// A client is this application's pair with one whose listener it has dialed.
type client struct {
	pair
	key  clientKey
	addr net.Addr // of the other end
	pool *segpool.Pool

	conns slotTable[dialed]

	// growing is the segment that is being made, if one is; added is the
	// server's answer to it.
	growMu  sync.Mutex
	growing *growth
	added   chan syscall.Errno

	// An idle pair is ended after a while. uses counts Dials; dialing is the
	// number of those under way, guarded by remotes.mu.
	dialing int
	uses    atomic.Uint64
	timer   idleTimer
}

// A clientKey is what a client is for. Fifo sizes are those of a pair, so Dials
// that ask for different ones use different pairs.
type clientKey struct {
	key  string // of the listener
	name string // the target's: its network and address as they were dialed
	ask  sizes
}

// idleLinger is how long a pair without connections is kept, so that a Dial now
// and then does not pay for a handshake. A slot that the server has not let go of is
// looked at again after this time, twice as long, and so on up to limboLinger.
const (
	idleLinger  = 2 * time.Second
	limboLinger = 64 * time.Second
)

// errRetired means that the pair takes no more connections.
var errRetired = errors.New("pair retired")

// An attachment is a handshake under way, for which others may wait.
type attachment struct {
	done chan struct{}
	err  error // once it is done
}

// dialRemote connects to a listener of another application.
func (a *app) dialRemote(ctx context.Context, key string, t target, ask sizes) (*Conn, error) {
	for retry := true; ; retry = false {
		p, err := a.remote.client(ctx, clientKey{key, t.name, ask}, t.addr)
		if err != nil {
			return nil, err
		}
		c, err := p.connect(ctx)
		p.done()
		if err == errRetired {
			// Known from earlier, so there may be another listener now.
			p.retire()
			if retry {
				continue
			}
			err = syscall.ECONNREFUSED // there is a listener, and it is closing
		}
		return c, err
	}
}

// client returns the pair for a key, attaching to the listener if there is none.
// The caller calls done.
func (r *remotes) client(ctx context.Context, key clientKey, remote net.Addr) (*client, error) {
	r.mu.Lock()
	for {
		if r.closed {
			r.mu.Unlock()
			return nil, net.ErrClosed
		}
		if p := r.clients[key]; p != nil {
			p.dialing++
			r.mu.Unlock()
			return p, nil
		}
		other := r.attaching[key]
		if other == nil {
			break
		}
		// Another Dial is at it. If it fails for reasons of its own, this one
		// tries.
		r.mu.Unlock()
		select {
		case <-other.done:
			if other.err != nil && other.err != context.Canceled && other.err != context.DeadlineExceeded {
				return nil, other.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r.mu.Lock()
	}
	own := &attachment{done: make(chan struct{})}
	r.attaching[key] = own
	r.mu.Unlock()

	p, err := r.attach(ctx, key, remote)

	own.err = err
	r.mu.Lock()
	delete(r.attaching, key)
	r.mu.Unlock()
	close(own.done)
	return p, err
}

// done ends a Dial's use of the pair.
func (p *client) done() {
	r := &p.app.remote
	r.mu.Lock()
	p.dialing--
	r.mu.Unlock()
	if p.pool.Idle() {
		p.linger()
	}
}

// attach does the handshake with the listener that key names.
func (r *remotes) attach(ctx context.Context, key clientKey, remote net.Addr) (_ *client, err error) {
	var undo cleanup
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	ch, cred, err := rendezvous.Dial(ctx, key.key)
	if err != nil {
		return nil, err
	}
	if err := r.begin(ch); err != nil {
		ch.Close()
		return nil, err
	}
	undo.add(func() { r.end(ch) })
	done := ch.LimitHandshake(ctx)
	defer func() {
		done()
		switch {
		case errors.Is(err, net.ErrClosed):
			err = net.ErrClosed // by App.Close
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err = ctx.Err(); err == nil {
				err = rendezvous.ErrSilent
			}
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			err = syserr.New(syscall.ECONNREFUSED, "the listener's process hung up; has it ended?")
		}
	}()

	worker, number, sleepFD, err := r.worker()
	if err != nil {
		return nil, err
	}
	block, blockFD, err := segpool.CreateShared("ctnet events", blockSize, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(blockFD)
	undo.add(block.Free)
	bell, err := sched.NewDoorbell()
	if err != nil {
		return nil, err
	}
	undo.add(bell.Close)

	hello := rendezvous.Message{Kind: rendezvous.KindHello, App: r.app.id, Worker: uint32(number),
		ToServer: uint32(key.ask.toServer), ToClient: uint32(key.ask.toClient)}
	hello.NameLen = uint32(copy(hello.Name[:], key.name))
	if err := ch.Send(hello, blockFD, sleepFD, bell.FD()); err != nil {
		return nil, err
	}
	welcome, fds, err := ch.Expect(rendezvous.KindWelcome, 2)
	if err != nil {
		return nil, err
	}
	p := &client{
		pair:    pair{app: r.app, ch: ch, cred: Cred(cred), worker: worker, block: block},
		key:     key,
		addr:    remote,
		added:   make(chan syscall.Errno, 1),
		dialing: 1,
		timer:   idleTimer{setDeadline: ch.SetReadDeadline},
	}
	p.self = p
	if err := p.meet(welcome, fds[0], fds[1]); err != nil {
		return nil, err
	}
	undo.add(p.part)
	g, err := segpool.NewGeometry(int(welcome.ToServer), int(welcome.ToClient))
	if err != nil {
		return nil, rendezvous.ErrProtocol
	}
	p.pool = segpool.NewPool(g, r.app.account, p.drop)
	toServer, toClient := bitmaps(block)
	p.remote.Events = toServer
	p.source = sched.Source{Events: toClient, Handle: p.handle, Bell: bell}
	p.refs.Store(1)
	if !done() {
		return nil, ctx.Err()
	}
	if err := worker.Add(&p.source); err != nil {
		return nil, err
	}
	// From here on the worker may be using the memory.
	undo = nil
	if err := r.register(&p.pair, func() { r.clients[key] = p }); err != nil {
		p.die(p.cutNext())
		p.pool.Close()
		r.end(ch)
		return nil, err
	}
	go p.read()
	return p, nil
}

// read reads the control channel, and ends the pair when that ends.
func (p *client) read() {
	r := &p.app.remote
	for {
		m, fds, err := p.ch.Receive()
		rendezvous.CloseAll(fds)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if p.idle() {
				break
			}
			continue
		}
		if err != nil {
			break
		}
		switch m.Kind {
		case rendezvous.KindAdded:
			select {
			case p.added <- syscall.Errno(m.Errno):
			default: // nobody has asked
			}
		case rendezvous.KindRetire:
			p.retire()
		}
	}
	p.dead.Store(true)
	r.unregister(p.forget)
	close(p.added)
	p.die(p.cutNext())
	p.pool.Close()
	r.end(p.ch)
}

// retire makes later Dials attach anew.
func (p *client) retire() {
	r := &p.app.remote
	r.mu.Lock()
	defer r.mu.Unlock()
	p.forget()
}

// forget is retire with remotes.mu held.
func (p *client) forget() {
	r := &p.app.remote
	if r.clients[p.key] == p {
		delete(r.clients, p.key)
	}
}

// linger sets the timer that ends an idle pair, and frees what the server has let
// go of, unless it is set.
func (p *client) linger() { p.timer.start(idleLinger, p.uses.Load()) }

// idle is called when the timer fires. It reports whether the pair was idle all
// the while, and then has made sure that it stays so.
func (p *client) idle() bool {
	after, uses := p.timer.stop()
	limbo := p.pool.Reap()
	r := &p.app.remote
	r.mu.Lock()
	defer r.mu.Unlock()
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

// An idleTimer is the read deadline of a control channel. The deadline and what is known
// of it change in one step: a timer that was thought to be set, and was not, would never
// end the pair. Model: idle.pml.
type idleTimer struct {
	setDeadline func(time.Time) error

	running atomic.Int64 // the time that it was started with, or 0; changed with mu held

	mu   sync.Mutex
	uses uint64 // of the pair, when the timer was started
}

// start starts the timer, unless it runs and was started with as short a time.
func (t *idleTimer) start(after time.Duration, uses uint64) {
	// Whoever finds it running has changed before what is looked at after stop.
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
		d.end.Wake()
	}
}

// cutNext returns what ends the connections, one after the other.
func (p *client) cutNext() func() bool {
	return p.conns.inTurn(func(d *dialed) { p.cut(&d.Conn) })
}

func (p *client) appendConns(conns []seen) []seen {
	// Whether it is answered first: then its address is there.
	p.conns.all(func(d *dialed) { conns = append(conns, seen{halfOpen: !d.connected.Load(), Conn: &d.Conn}) })
	return conns
}

// drop is called by the pool before a segment goes.
func (p *client) drop(k int) bool {
	return p.ch.Send(rendezvous.Message{Kind: rendezvous.KindDrop, Segment: uint32(k)}) == nil
}

// A growth is the making of a segment. Any number of Dials wait for it.
type growth struct {
	done chan struct{}
	err  error // once it is done
}

// grow waits until a segment has been added to the pool. The Dial that waits may
// give up, but the work goes on: a segment that the server has and the pool has
// not would be in the way of the next one.
func (p *client) grow(ctx context.Context) error {
	p.growMu.Lock()
	g := p.growing
	switch {
	case g == nil && p.pool.HasFree():
		p.growMu.Unlock()
		return nil // one was added meanwhile
	case g == nil:
		g = &growth{done: make(chan struct{})}
		p.growing = g
		go func() {
			g.err = p.addSegment()
			p.growMu.Lock()
			p.growing = nil
			p.growMu.Unlock()
			close(g.done)
		}()
	}
	p.growMu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addSegment makes a segment and hands it to the server.
func (p *client) addSegment() error {
	k, err := p.pool.Next()
	if err != nil {
		return err
	}
	m, fd, err := segpool.CreateShared("ctnet segment", p.pool.Geometry().Size(), false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdd, Segment: uint32(k)}, fd); err != nil {
		m.Free()
		return errRetired
	}
	timeout := time.NewTimer(rendezvous.HandshakeTimeout)
	defer timeout.Stop()
	select {
	case errno, ok := <-p.added:
		if !ok {
			m.Free()
			return errRetired
		}
		if errno != 0 {
			m.Free()
			return errno
		}
	case <-timeout.C:
		m.Free()
		p.ch.Close()
		return rendezvous.ErrSilent
	}
	if err := p.pool.Add(k, m); err != nil {
		p.drop(k) // the server has it
		return err
	}
	return nil
}

// A dialed is the dialing end of a connection.
type dialed struct {
	Conn
	p    *client
	slot segpool.Slot

	connected atomic.Bool // and local is set
}

// connect makes a connection.
func (p *client) connect(ctx context.Context) (*Conn, error) {
	p.uses.Add(1)
	if err := p.app.account.AddConn(); err != nil {
		return nil, err
	}
	if !p.ref() {
		p.app.account.RemoveConn()
		return nil, errRetired
	}
	slot, err := p.pool.Alloc()
	for err == segpool.ErrFull && !p.dead.Load() {
		if err = p.grow(ctx); err == nil {
			slot, err = p.pool.Alloc()
		}
	}
	if err != nil {
		p.app.account.RemoveConn()
		p.unref()
		if err == segpool.ErrFull {
			err = errRetired
		}
		return nil, err
	}

	d := &dialed{p: p, slot: slot}
	number := p.app.number.Add(1)
	slot.ToServer.Header.ResetProducer()
	slot.ToClient.Header.ResetConsumer()
	slot.Number.Store(number)
	d.end.Init(slot.ToClient, slot.ToServer, d, stream.Options{RaceKey: raceKey(p.app.id, number), TCP: isTCP(p.addr)})
	d.remote = p.addr
	d.cred = p.cred
	// Inside, so that the slot stays: App.Close may close the connection now.
	d.end.Enter()
	defer d.end.Leave()
	p.conns.set(slot.ID, d)
	d.slot.SayClient(segpool.Connect)
	d.Notify()
	d.awaitAnswer(ctx)
	if err := d.decide(ctx); err != nil {
		d.end.Abort()
		return nil, err
	}
	d.local = d.origin(number)
	d.connected.Store(true)
	if p.dead.Load() {
		p.cut(&d.Conn) // it may have died before the connection was in the table
	}
	return &d.Conn, nil
}

// decide returns nil if the connection was made, and otherwise why not.
func (d *dialed) decide(ctx context.Context) error {
	if d.end.Closed() {
		return net.ErrClosed // by App.Close
	}
	switch st := d.answer(); st.Code() {
	case segpool.Accepted:
		return nil
	case segpool.Refused:
		if errno := syscall.Errno(st.Detail()); errno != syscall.ECONNREFUSED {
			return errno
		}
		return errRetired
	}
	// Nobody has answered. If the server does now, it finds the Dial given up.
	if err := ctx.Err(); err != nil {
		return err
	}
	return errRetired
}

// answer returns the server's answer to this use of the slot, or 0.
func (d *dialed) answer() segpool.State {
	st := segpool.State(d.slot.ServerState.Load())
	if st.Use() != d.slot.Use {
		return 0
	}
	if st.Code() == segpool.Done {
		// Accepted, and already closed. What was written can be read.
		return segpool.MakeState(st.Use(), segpool.Accepted)
	}
	return st
}

// origin returns the address of this end. On network tcp the server says what it
// is; it is shown, and nothing else.
func (d *dialed) origin(number uint64) net.Addr {
	switch a := d.p.addr.(type) {
	case *net.TCPAddr:
		return origin(d.slot.Origin.Load()).addr(a.AddrPort().Addr())
	case *net.UnixAddr:
		return unnamed
	}
	return &Addr{app: d.p.app.id, number: number}
}

// awaitAnswer waits for the server's answer, the context's end or the peer's.
func (d *dialed) awaitAnswer(ctx context.Context) {
	ready := func() bool {
		return d.answer() != 0 || d.p.dead.Load() || ctx.Err() != nil || d.end.Closed()
	}
	var stop func() bool
	d.end.AwaitPeer(ready, func() {
		if stop == nil {
			stop = context.AfterFunc(ctx, d.end.Wake)
		}
		// The server looks at this after it has answered.
		d.slot.SayClient(segpool.ConnectNtf)
	})
	if stop != nil {
		stop()
	}
}

func (d *dialed) Notify()      { d.p.remote.Notify(d.slot.ID) }
func (d *dialed) NotifyApart() { d.p.notifyApart(d.slot.ID) }

func (d *dialed) Watch() sched.Watch { return d.p.worker }

// Release lets go of the slot.
func (d *dialed) Release() {
	p := d.p
	p.conns.set(d.slot.ID, nil)
	toClient, toServer := d.end.Used()
	used := segpool.Used{ToServer: toServer, ToClient: toClient}
	if d.connected.Load() {
		if p.pool.Free(d.slot, segpool.Done, used) {
			p.linger()
		}
	} else {
		answer := d.answer()
		if p.pool.Free(d.slot, segpool.GivenUp, used) {
			p.linger()
		}
		if answer.Code() != segpool.Refused {
			// After it was said: the server looks when it is notified.
			p.notifyApart(d.slot.ID)
		}
	}
	p.app.account.RemoveConn()
	p.unref()
}
