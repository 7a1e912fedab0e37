package ctnet

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
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
	app     *app
	ch      channel
	peerApp uint64
	cred    Cred

	remote sched.Remote // the peer's worker
	source sched.Source // what the peer tells this application
	worker *sched.Worker

	block *segpool.Memory // both directions' bitmaps
	sleep *segpool.Memory // the peer's sleep words, not writable here

	conns connTable
	refs  atomic.Int32
	dead  atomic.Bool
}

// blockSize is the size of the memory with the bitmaps: first the one that the
// client's events to the server are in, then the other one, each on pages of its
// own.
const blockSize = 2 * bitmapPages

const bitmapPages = (sched.BitmapSize + 4095) &^ 4095

// sleepPageSize is the size of an application's sleep words.
const sleepPageSize = sched.MaxWorkers * sched.WordSize

// versionProblem says that the peer speaks another version.
func versionProblem(v uint16) error {
	return &problem{syscall.EPROTONOSUPPORT,
		fmt.Sprintf("the other process speaks version %d of ctnet's protocol and this one version %d; build both with the same ctnet", v, wireVersion)}
}

// unref gives up a reference.
func (p *pair) unref() {
	if p.refs.Add(-1) == 0 {
		p.app.remote.remove(p)
		p.block.Free()
		p.part()
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

// notifyApart is remote.Notify for those who must not hang whatever the peer has
// done to its doorbell. The caller has a reference.
func (p *pair) notifyApart(slot uint32) {
	if p.remote.Post(slot) {
		p.refs.Add(1)
		go func() {
			p.remote.Ring()
			p.unref()
		}()
	}
}

// die ends a pair whose control channel has ended. The worker tells the
// connections, after the events that came before, and then forgets the pair.
func (p *pair) die(each func(*Conn)) {
	p.dead.Store(true)
	p.ch.Close()
	id := uint32(0)
	p.worker.Cleanup(func() bool {
		c := p.conns.next(&id)
		if c != nil {
			each(c)
			return true
		}
		p.worker.Remove(&p.source)
		p.source.Bell.Close()
		p.unref()
		return false
	})
}

// cut ends a connection whose pair has ended. One that App.Close has overtaken is closed,
// as are those that it found.
func (p *pair) cut(c *Conn) {
	if p.app.remote.isClosed() {
		c.abort()
	} else {
		c.detach()
	}
}

// A connTable finds connections by slot. It grows by chunks, which stay.
type connTable struct {
	chunks [segpool.MaxSlots / connChunk]atomic.Pointer[[connChunk]atomic.Pointer[Conn]]
}

const connChunk = 256

func (t *connTable) get(id uint32) *Conn {
	chunk := t.chunks[id/connChunk].Load()
	if chunk == nil {
		return nil
	}
	return chunk[id%connChunk].Load()
}

func (t *connTable) set(id uint32, c *Conn) {
	at := &t.chunks[id/connChunk]
	if at.Load() == nil {
		at.CompareAndSwap(nil, new([connChunk]atomic.Pointer[Conn]))
	}
	at.Load()[id%connChunk].Store(c)
}

// next returns the next connection at or after *id and moves *id behind it, or
// nil if there is none.
func (t *connTable) next(id *uint32) *Conn {
	for *id < segpool.MaxSlots {
		if t.chunks[*id/connChunk].Load() == nil {
			*id += connChunk - *id%connChunk
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

// appendTo appends all connections to conns.
func (t *connTable) appendTo(conns []*Conn) []*Conn {
	for id := uint32(0); ; {
		c := t.next(&id)
		if c == nil {
			return conns
		}
		conns = append(conns, c)
	}
}

// A cleanup undoes, in reverse order, what a handshake has done when it fails.
type cleanup []func()

func (c *cleanup) add(f func()) { *c = append(*c, f) }

func (c *cleanup) run() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i]()
	}
}

// meet takes over what the peer has sent: the descriptors of its sleep words and
// of the doorbell of the worker that m names.
func (p *pair) meet(m message, sleepFD, bellFD int) (err error) {
	p.peerApp = m.App
	if m.Worker >= sched.MaxWorkers {
		closeAll([]int{sleepFD, bellFD})
		return errProtocol
	}
	p.remote.Bell, err = sched.OpenDoorbell(bellFD)
	if err != nil {
		closeAll([]int{sleepFD, bellFD})
		return broken(err)
	}
	p.sleep, err = segpool.OpenShared(sleepFD, sleepPageSize, false)
	if err != nil {
		p.remote.Bell.Close()
		return broken(err)
	}
	p.remote.Sleep = sleepWord(p.sleep, int(m.Worker))
	return nil
}

// part undoes meet.
func (p *pair) part() {
	p.sleep.Free()
	p.remote.Bell.Close()
}

// bitmaps returns the two directions of a block.
func bitmaps(block *segpool.Memory) (toServer, toClient sched.Bitmap) {
	return sched.NewBitmap(block.Bytes[:bitmapPages]), sched.NewBitmap(block.Bytes[bitmapPages:])
}

// sleepWord returns the sleep word of a worker.
func sleepWord(m *segpool.Memory, worker int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&m.Bytes[worker*sched.WordSize]))
}
