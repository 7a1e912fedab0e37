package pair

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// A Dialed is the dialing end's link to its pair.
type Dialed struct {
	owner Dialing
	p     *client
	slot  segpool.Slot

	number    uint64      // among the application's connections
	connected atomic.Bool // and Dialing.Connected was called
}

// connect makes a connection in four steps: it reserves a slot, publishes the connection
// there, awaits the server's answer, and resolves it into a result.
func (p *client) connect(ctx context.Context, owner Dialing) error {
	p.uses.Add(1)
	slot, err := p.reserve(ctx)
	if err != nil {
		return err
	}
	d := p.publish(slot, owner)
	defer owner.End().Leave()
	d.awaitAnswer(ctx)
	return d.resolve(ctx)
}

// reserve counts a connection, adds a reference to the pair, and allocates a slot.
func (p *client) reserve(ctx context.Context) (slot segpool.Slot, err error) {
	if err = p.host.Account.AddConn(); err != nil {
		return slot, err
	}
	if !p.ref() {
		p.host.Account.RemoveConn()
		return slot, ErrRetired
	}
	if slot, err = p.alloc(ctx); err != nil {
		p.unref()
		p.host.Account.RemoveConn()
	}
	return slot, err
}

// alloc allocates a slot of the pool, which grows if there is no free one.
func (p *client) alloc(ctx context.Context) (segpool.Slot, error) {
	slot, err := p.pool.Alloc()
	for err == segpool.ErrFull && !p.dead.Load() {
		if err = p.grow(ctx); err == nil {
			slot, err = p.pool.Alloc()
		}
	}
	if err == segpool.ErrFull {
		err = ErrRetired
	}
	return slot, err
}

// publish makes the connection, and asks the server for it. It enters the end, so that the
// slot stays even if [Host.Close] closes the connection.
func (p *client) publish(slot segpool.Slot, owner Dialing) *Dialed {
	d, e := owner.Link(), owner.End()
	d.owner, d.p, d.slot, d.number = owner, p, slot, p.host.Numbers.Add(1)
	slot.ToServer.Header.ResetProducer()
	slot.ToClient.Header.ResetConsumer()
	slot.SetNumber(d.number)
	o := p.host.options(owner.Options(), raceKey(p.host.ID, d.number), p.host.Janitor)
	e.Init(slot.ToClient, slot.ToServer, d, o)
	owner.Begin(&p.cred, p.addr)
	e.Enter()
	p.conns.set(slot.ID, d)
	d.slot.SayClient(segpool.Connect)
	d.Notify()
	return d
}

// resolve returns nil if the connection was made. Otherwise it aborts the end and returns the
// error.
func (d *Dialed) resolve(ctx context.Context) error {
	e := d.owner.End()
	if err := d.decide(ctx); err != nil {
		e.Abort()
		return err
	}
	d.owner.Connected(d.p.host.ID, d.number, d.slot.Origin())
	d.connected.Store(true)
	if d.p.dead.Load() {
		d.p.cut(e) // it may have died before the connection was in the table
	}
	return nil
}

// decide returns nil if the connection was made, and otherwise the error of the Dial.
func (d *Dialed) decide(ctx context.Context) error {
	if d.owner.End().Closed() {
		return net.ErrClosed // by Host.Close
	}
	switch st := d.answer(); st.Code() {
	case segpool.Accepted:
		return nil
	case segpool.Refused:
		if errno := syscall.Errno(st.Detail()); errno != syscall.ECONNREFUSED {
			return errno
		}
		return ErrRetired
	}
	// The server has not answered. If it does now, it finds GivenUp.
	if err := ctx.Err(); err != nil {
		d.p.host.Counts.Cancelled.Add(1)
		return err
	}
	return ErrRetired
}

// answer returns the server's answer to this use of the slot, or 0.
func (d *Dialed) answer() segpool.State {
	st := d.slot.ServerState()
	if st.Use() != d.slot.Use {
		return 0
	}
	if st.Code() == segpool.Done {
		// Accepted, and already closed. What was written can be read.
		return segpool.MakeState(st.Use(), segpool.Accepted)
	}
	return st
}

// awaitAnswer waits until the server answers, or the context, the pair or the end has ended.
func (d *Dialed) awaitAnswer(ctx context.Context) {
	e := d.owner.End()
	ready := func() bool {
		return d.answer() != 0 || d.p.dead.Load() || ctx.Err() != nil || e.Closed()
	}
	var stop func() bool
	e.AwaitPeer(ready, func() {
		if stop == nil {
			stop = context.AfterFunc(ctx, e.Wake)
		}
		// Pairs with the load in server.tell, which follows the server's answer.
		d.slot.SayClient(segpool.ConnectNtf)
	})
	if stop != nil {
		stop()
	}
}

// Notify, CutOff, Poller, Trim and LetGo implement stream.Peer.
func (d *Dialed) Notify()              { d.p.remote.Notify(d.slot.ID) }
func (d *Dialed) CutOff()              { d.p.cutOff(corruptFifo) }
func (d *Dialed) Poller() sched.Poller { return d.p.worker }
func (d *Dialed) Trim(b []byte)        { d.slot.Trim(b) }

// LetGo lets go of the slot.
func (d *Dialed) LetGo() {
	p := d.p
	p.conns.set(d.slot.ID, nil)
	e := d.owner.End()
	charged := e.Charged()
	toClient, toServer := e.Used()
	used := segpool.Used{ToServer: toServer, ToClient: toClient}
	if d.connected.Load() {
		if e.WasReset() {
			p.host.Counts.Reset.Add(1)
		}
		if p.pool.Free(d.slot, segpool.Done, used) {
			p.linger()
		}
	} else {
		answer := d.answer()
		if p.pool.Free(d.slot, segpool.GivenUp, used) {
			p.linger()
		}
		if answer.Code() != segpool.Refused {
			// After Free has stored GivenUp: the server loads it in checkDialer.
			p.remote.Notify(d.slot.ID)
		}
	}
	p.host.Account.ForgetConn(charged)
	p.unref()
}
