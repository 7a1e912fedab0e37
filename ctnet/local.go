package ctnet

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/stream"
	"cutthrough.example/internal/wait"
)

// A localPool has the slots of connections inside an application, of one geometry.
type localPool struct {
	*segpool.Pool
	number int // among the application's local pools
}

// A localPair is a connection inside one application: both ends, on the fifos of one slot.
// Each end wakes the other directly.
type localPair struct {
	client, server conn

	app  *app
	pool *localPool
	slot segpool.Slot
	ends atomic.Int32 // how many have not let go of their fifos

	listener *Listener
	origin   origin // the listener's

	junction stream.Junction

	// The half-open. The first verdict counts: the listener's, or that of a dialer that
	// gives up.
	dialer  wait.Waiter
	verdict atomic.Uint32
}

// Verdicts on a half-open: undecided, answered, given up, or an errno.
const (
	undecided = iota
	answered
	givenUp
	refused // plus the errno, shifted by 8
)

func (p *localPair) halfOpen() bool { return p.verdict.Load() == undecided }

// Trim implements [stream.Owner].
func (p *localPair) Trim(b []byte) { p.slot.Trim(b) }

// LetGo implements [stream.Owner]. The second end to let go frees the slot.
func (p *localPair) LetGo() {
	if p.ends.Add(-1) == 0 {
		charged := p.client.end.Charged() + p.server.end.Charged()
		if p.verdict.Load() == answered {
			for _, c := range []*conn{&p.client, &p.server} {
				if c.end.WasReset() {
					p.app.counts.Reset.Add(1)
				}
			}
		}
		p.free()
		p.app.removeLocal(p)
		p.app.account.ForgetConn(charged)
	}
}

// free frees the slot and the origin that newLocalPair has allocated.
func (p *localPair) free() {
	_, toServer := p.client.end.Used()
	_, toClient := p.server.end.Used()
	p.pool.FreeBoth(p.slot, segpool.Used{ToServer: toServer, ToClient: toClient})
	if p.origin != 0 {
		p.listener.origins.free(p.origin)
	}
}

func (p *localPair) answer() { p.decide(answered) }

func (p *localPair) accept() *conn {
	if !p.decide(answered) && p.verdict.Load() == givenUp {
		p.drop()
		return nil
	}
	return &p.server
}

func (p *localPair) refuse(errno syscall.Errno) {
	p.app.counts.Refused.Add(1)
	p.decide(refused | uint32(errno)<<8)
	p.server.end.Abort()
}

func (p *localPair) drop() {
	p.answer() // a Dial that still waits looks only for the verdict
	p.server.end.Abort()
}

// decide stores the verdict and wakes the dialer. It returns false if there was a verdict.
func (p *localPair) decide(verdict uint32) bool {
	if !p.verdict.CompareAndSwap(undecided, verdict) {
		return false
	}
	p.dialer.Wake()
	return true
}

// dialLocal connects to a listener of the same application.
func (a *app) dialLocal(ctx context.Context, l *Listener, t *target, ask sizes) (*conn, error) {
	if err := a.account.AddConn(); err != nil {
		return nil, err
	}
	p, err := a.newLocalPair(l, t, ask)
	if err != nil {
		a.account.RemoveConn()
		return nil, err
	}
	l.backlog.offer(p, &l.local)
	if p.halfOpen() {
		p.dialer.Init() // nobody wakes it before Prepare
		stop := context.AfterFunc(ctx, p.dialer.Wake)
		p.dialer.Prepare()
		if p.halfOpen() && ctx.Err() == nil {
			p.dialer.Wait()
		} else {
			p.dialer.Cancel()
		}
		stop()
	}
	if p.decide(givenUp) {
		a.counts.Cancelled.Add(1)
		l.backlog.withdraw(p)
		p.client.end.Abort()
		return nil, ctx.Err()
	}
	if v := p.verdict.Load(); v != answered {
		p.client.end.Abort()
		return nil, syscall.Errno(v >> 8)
	}
	return &p.client, nil
}

func (a *app) newLocalPair(l *Listener, t *target, ask sizes) (*localPair, error) {
	accepted := l.answers(t.name)
	if accepted == nil {
		return nil, rendezvous.ErrNobody
	}
	g, err := segpool.NewGeometry(l.sizes.decide(ask))
	if err != nil {
		return nil, err
	}
	pool, slot, err := a.allocLocal(g)
	if err != nil {
		return nil, err
	}
	slot.Reset()

	p := &localPair{app: a, pool: pool, slot: slot, listener: l}
	p.ends.Store(2)
	key := a.number.Add(1)
	p.client.own = Addr{app: a.id, number: key}
	dialer, o, err := l.ends(accepted, &p.client.own)
	if err != nil {
		p.free()
		return nil, err
	}
	p.origin = o
	p.client.local, p.client.remote, p.client.cred = dialer, t.addr, ownCred()
	p.server.local, p.server.remote, p.server.cred = accepted, dialer, ownCred()
	p.server.family = l.family
	p.junction.Join(&p.client.end, &p.server.end, slot.ToServer, slot.ToClient, p,
		stream.Options{RaceKey: key, TCP: isTCP(accepted), Janitor: &a.janitor, Totals: &a.counts.Ends})
	if !a.addLocal(p) {
		p.free()
		return nil, net.ErrClosed
	}
	return p, nil
}

// allocLocal allocates a slot for a connection inside the application.
func (a *app) allocLocal(g segpool.Geometry) (*localPool, segpool.Slot, error) {
	a.poolMu.Lock()
	defer a.poolMu.Unlock()
	if a.pools == nil {
		return nil, segpool.Slot{}, net.ErrClosed
	}
	pool := a.pools[g]
	if pool == nil {
		pool = &localPool{segpool.NewPool(g, a.account, func(int) bool { return true }), len(a.pools) + 1}
		a.pools[g] = pool
	}
	slot, err := pool.Alloc()
	if err != segpool.ErrFull {
		return pool, slot, err
	}
	k, err := pool.Next()
	if err != nil {
		return nil, segpool.Slot{}, err
	}
	m, err := segpool.CreatePrivate(g.Size())
	if err != nil {
		return nil, segpool.Slot{}, err
	}
	if err := pool.Add(k, m); err != nil {
		return nil, segpool.Slot{}, err
	}
	slot, err = pool.Alloc()
	return pool, slot, err
}
