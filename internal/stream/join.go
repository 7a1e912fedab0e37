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

// Join makes a and b the ends of a connection: a writes to ab and reads from ba, and b reads
// from ab and writes to ba. A Junction is used once, and must not be moved afterwards.
func (j *Junction) Join(a, b *End, ab, ba ring.Fifo, owner Owner, o Options) {
	j.a = jointPeer{owner, b, &j.toA, &j.toB}
	j.b = jointPeer{owner, a, &j.toB, &j.toA}
	a.Init(ba, ab, &j.a, o)
	b.Init(ab, ba, &j.b, o)
}

// An Owner has the memory of both fifos. LetGo is called once by each end, as [Peer] says.
type Owner interface {
	Trim(b []byte)
	LetGo()
}

// A jointPeer is the Peer of an end whose other end is in the same process.
type jointPeer struct {
	Owner
	other   *End
	in, out *handoff
}

func (p *jointPeer) Notify()              { p.other.Wake() }
func (p *jointPeer) CutOff()              {}
func (p *jointPeer) Poller() sched.Poller { return nil }

// joint returns e's jointPeer, or nil if the other end is in another process.
func (e *End) joint() *jointPeer {
	p, _ := e.peer.(*jointPeer)
	return p
}
