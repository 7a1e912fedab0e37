package ctnet

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
	"golang.org/x/sys/unix"
)

// A client is this application's pair with one whose listener it has dialed.
type client struct {
	pair
	key  clientKey
	pool *segpool.Pool

	// growing is the segment that is being made, if one is; added is the
	// server's answer to it.
	growMu  sync.Mutex
	growing *growth
	added   chan syscall.Errno

	// An idle pair is ended after a while. uses counts Dials; dialing is the
	// number of those under way, guarded by remotes.mu.
	dialing  int
	uses     atomic.Uint64
	idleUses atomic.Uint64 // uses when the timer was set
	idling   atomic.Bool   // the timer is set
}

// A clientKey is what a client is for. Fifo sizes are those of a pair, so Dials
// that ask for different ones use different pairs.
type clientKey struct {
	name string
	ask  sizes
}

// idleLinger is how long a pair without connections is kept, so that a Dial now
// and then does not pay for a handshake.
const idleLinger = 2 * time.Second

// errRetired means that the pair takes no more connections.
var errRetired = errors.New("pair retired")

var errNobody = syscall.ECONNREFUSED

// dialRemote connects to a listener of another application.
func (a *app) dialRemote(ctx context.Context, name string, ask sizes) (*Conn, error) {
	key := clientKey{name, ask}
	for retry := true; ; retry = false {
		p, err := a.remote.client(ctx, key)
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
			err = errNobody
		}
		return c, err
	}
}

// client returns the pair for a key, attaching to the listener if there is none.
// The caller calls done.
func (r *remotes) client(ctx context.Context, key clientKey) (*client, error) {
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
		// Another Dial is at it. If it fails, which may be for reasons of its
		// own, this one tries.
		r.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r.mu.Lock()
	}
	finished := make(chan struct{})
	r.attaching[key] = finished
	r.mu.Unlock()

	p, err := r.attach(ctx, key)

	r.mu.Lock()
	delete(r.attaching, key)
	close(finished)
	r.mu.Unlock()
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
func (r *remotes) attach(ctx context.Context, key clientKey) (_ *client, err error) {
	var undo cleanup
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	path, err := findDoor(key.name)
	if err != nil {
		return nil, err
	}
	ch, cred, err := knock(ctx, path)
	if err != nil {
		return nil, err
	}
	undo.add(func() { ch.Close() })
	done := ch.limitHandshake(ctx)
	defer func() {
		done()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err = ctx.Err(); err == nil {
				err = &problem{syscall.ETIMEDOUT, "the listener's process did not answer; is it stopped?"}
			}
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			err = &problem{syscall.ECONNREFUSED, "the listener's process hung up; has it ended?"}
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

	hello := message{Kind: kindHello, App: r.app.id, Worker: uint32(number),
		ToServer: uint32(key.ask.toServer), ToClient: uint32(key.ask.toClient)}
	hello.NameLen = uint32(copy(hello.Name[:], key.name))
	if err := ch.send(hello, blockFD, sleepFD, bell.FD()); err != nil {
		return nil, err
	}
	welcome, fds, err := ch.expect(kindWelcome, 2)
	if err != nil {
		return nil, err
	}
	p := &client{
		pair:    pair{app: r.app, ch: ch, cred: cred, worker: worker, block: block},
		key:     key,
		added:   make(chan syscall.Errno, 1),
		dialing: 1,
	}
	if err := p.meet(welcome, fds[0], fds[1]); err != nil {
		return nil, err
	}
	undo.add(p.part)
	g, err := segpool.NewGeometry(int(welcome.ToServer), int(welcome.ToClient))
	if err != nil {
		return nil, errProtocol
	}
	p.pool = segpool.NewPool(g, r.app.account, p.drop)
	toServer, toClient := bitmaps(block)
	p.remote.Events = toServer
	p.source = sched.Source{Events: toClient, Handle: p.handle, Bell: bell}
	p.refs.Store(1)
	if err := worker.Add(&p.source); err != nil {
		return nil, err
	}
	undo.add(func() { worker.Remove(&p.source) })
	if err := r.register(&p.pair, func() { r.clients[key] = p }); err != nil {
		return nil, err
	}
	go p.read()
	return p, nil
}

// findDoor returns the path of the socket of the listener on a name.
func findDoor(name string) (string, error) {
	dir := runDir()
	err := checkDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = errNobody
	}
	if err != nil {
		return "", err
	}
	return socketPath(dir, doorKey(name))
}

// knock connects to a listener's socket, if it belongs to somebody who can be
// trusted.
func knock(ctx context.Context, path string) (ch channel, cred Cred, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		var errno syscall.Errno
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			err = context.DeadlineExceeded // the context is about to say so too
		case errors.Is(err, fs.ErrNotExist):
			err = errNobody // as when a dead process has left its file there
		case errors.As(err, &errno):
			err = errno
		}
		return ch, cred, err
	}
	ch = channel{c.(*net.UnixConn)}
	if cred, err = ch.peerCred(); err == nil && !trusted(cred) {
		err = &problem{syscall.EACCES, "the listener belongs to another user"}
	}
	if err != nil {
		ch.Close()
	}
	return ch, cred, err
}

// read reads the control channel, and ends the pair when that ends.
func (p *client) read() {
	r := &p.app.remote
	for {
		m, fds, err := p.ch.receive()
		closeAll(fds)
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
		case kindAdded:
			select {
			case p.added <- syscall.Errno(m.Errno):
			default: // nobody has asked
			}
		case kindRetire:
			p.retire()
		}
	}
	p.dead.Store(true)
	close(p.added)
	r.unregister(p.forget)
	p.die((*Conn).detach)
	p.pool.Close()
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

// linger sets the timer that ends an idle pair, unless it is set.
func (p *client) linger() {
	if p.idling.CompareAndSwap(false, true) {
		p.idleUses.Store(p.uses.Load())
		p.ch.SetReadDeadline(time.Now().Add(idleLinger))
	}
}

// idle is called when the timer fires. It reports whether the pair was idle all
// the while, and then has made sure that it stays so.
func (p *client) idle() bool {
	r := &p.app.remote
	r.mu.Lock()
	defer r.mu.Unlock()
	p.idling.Store(false)
	p.ch.SetReadDeadline(time.Time{})
	if p.dialing > 0 || !p.pool.Idle() {
		return false // the last connection's end sets the timer
	}
	if p.uses.Load() != p.idleUses.Load() {
		p.linger()
		return false
	}
	p.forget()
	return true
}

// handle is called by the worker for each event.
func (p *client) handle(id uint32) {
	if c := p.conns.get(id); c != nil {
		c.event()
	}
}

// drop is called by the pool before a segment goes.
func (p *client) drop(k int) bool {
	return p.ch.send(message{Kind: kindDrop, Segment: uint32(k)}) == nil
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
	if err := p.ch.send(message{Kind: kindAdd, Segment: uint32(k)}, fd); err != nil {
		m.Free()
		return errRetired
	}
	timeout := time.NewTimer(handshakeTimeout)
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
		return &problem{syscall.ETIMEDOUT, "the listener's process does not answer; is it stopped?"}
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
	d.init(slot.ToClient, slot.ToServer, raceKey(p.app.id, number))
	d.local = Addr{app: p.app.id, number: number}
	d.remote = Addr{name: p.key.name}
	d.cred = p.cred
	d.peer = d
	p.conns.set(slot.ID, &d.Conn)
	d.slot.SayClient(segpool.Connect)
	d.notify()

	// The reference keeps the notification below possible.
	p.ref()
	defer p.unref()
	d.awaitAnswer(ctx)
	switch st := d.answer(); {
	case st.Code() == segpool.Accepted:
		if p.dead.Load() {
			d.detach() // it may have died before the connection was in the table
		}
		return &d.Conn, nil
	case st.Code() == segpool.Refused:
		d.abort()
		if errno := syscall.Errno(st.Detail()); errno != syscall.ECONNREFUSED {
			return nil, errno
		}
		return nil, errRetired
	default:
		// Nobody has answered. If somebody does now, the other end finds the
		// connection reset.
		d.abort()
		p.remote.Notify(slot.ID)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, errRetired
	}
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

// awaitAnswer waits for the server's answer, the context's end or the peer's.
func (d *dialed) awaitAnswer(ctx context.Context) {
	ready := func() bool { return d.answer() != 0 || d.p.dead.Load() || ctx.Err() != nil }
	var spin sched.Spin
	if spin.Until(ready) {
		return
	}
	stop := context.AfterFunc(ctx, d.rd.wake)
	defer stop()
	for {
		d.rd.prepare()
		// The server looks at this after it has answered.
		d.slot.SayClient(segpool.ConnectNtf)
		if ready() {
			d.rd.cancel()
			return
		}
		d.rd.wait()
	}
}

func (d *dialed) notify()      { d.p.remote.Notify(d.slot.ID) }
func (d *dialed) notifyApart() { d.p.notifyApart(d.slot.ID) }

func (d *dialed) halfOpen() bool { return d.answer() == 0 }

func (d *dialed) release() {
	p := d.p
	p.conns.set(d.slot.ID, nil)
	if p.pool.Free(d.slot, d.tx.Used(), d.rx.Used()) {
		p.linger()
	}
	p.app.account.RemoveConn()
	p.unref()
}
