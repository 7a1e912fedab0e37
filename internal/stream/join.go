package stream

import (
	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
)

// A Junction joins the two ends of a connection inside one process: each wakes the other
// directly, and a Write can copy into the buffer of a Read that waits.
type Junction struct {
	a, b     jointPeer
	toA, toB handoff
}

// Join makes a and b the ends of a connection: a writes to ab, from which b reads, and the
// other way round with ba. released is told once for each end, when nobody uses its fifos
// any more. A Junction is used once, and must not be moved afterwards.
func (j *Junction) Join(a, b *End, ab, ba ring.Fifo, released Releaser, o Options) {
	j.a = jointPeer{released, b, &j.toA, &j.toB}
	j.b = jointPeer{released, a, &j.toB, &j.toA}
	a.Init(ba, ab, &j.a, o)
	b.Init(ab, ba, &j.b, o)
}

// A Releaser is told when an end is done with its fifos, and gives back pages of theirs.
type Releaser interface {
	Trim(b []byte)
	Release()
}

// A jointPeer is an end's way to an other end in the same process.
type jointPeer struct {
	Releaser
	other   *End
	in, out *handoff
}

func (p *jointPeer) Notify()              { p.other.Wake() }
func (p *jointPeer) NotifyApart()         { p.other.Wake() }
func (p *jointPeer) Poller() sched.Poller { return nil }

// joint returns the way to the other end if that is in this process too, or nil.
func (e *End) joint() *jointPeer {
	p, _ := e.peer.(*jointPeer)
	return p
}
