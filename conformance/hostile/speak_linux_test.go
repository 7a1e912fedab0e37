package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// What an attacker says and does to take part, as the specification wants it: whatever it does
// wrong comes after that, or in place of one step.

// key returns the key of a listener on network ct.
func key(name string) string { return "ct:" + name }

// newBell makes what the other side rings. fd is what is passed; it stays this side's too.
func newBell() (fd int, closeBell func(), err error) {
	b, fd, err := sched.NewDoorbell()
	if err != nil {
		return -1, nil, err
	}
	return fd, func() {
		b.Close()
		unix.Close(fd)
	}, nil
}

// jam does to a doorbell, of which fd is what was passed, all that could make a ring block.
func jam(fd int) error {
	switch name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); {
	case err != nil:
		return err
	case name == "anon_inode:[eventfd]":
		if err := fillEventfd(fd); err != nil {
			return err
		}
	default:
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1)
		for b := make([]byte, 1<<10); ; {
			if err := unix.Sendto(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil); err != nil {
				break
			}
		}
		for b := []byte{0}; unix.Sendto(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) == nil; {
		}
	}
	return unix.SetNonblock(fd, false)
}

// fillEventfd drives the counter of an eventfd to its very maximum. No write can do that, but
// the kernel adds 1 for each asynchronous operation that is to be told there.
func fillEventfd(fd int) error {
	unix.SetNonblock(fd, true)
	one := make([]byte, 8)
	unix.Read(fd, one) // to 0, so that one write can do the most of it
	most := uint64(math.MaxUint64 - 1)
	if _, err := unix.Write(fd, unsafe.Slice((*byte)(unsafe.Pointer(&most)), 8)); err != nil {
		return err
	}
	aio, err := asyncWriter()
	if err != nil {
		return err
	}
	// A struct iocb: a write of one at offset 0, with IOCB_FLAG_RESFD.
	const opcode, file, buf, length, flags, resultFD = 16, 20, 24, 32, 56, 60
	const pwrite, resultToFD = 1, 1
	cb := make([]byte, 64)
	binary.NativeEndian.PutUint16(cb[opcode:], pwrite)
	binary.NativeEndian.PutUint32(cb[file:], uint32(aio.file))
	binary.NativeEndian.PutUint64(cb[buf:], uint64(uintptr(unsafe.Pointer(&one[0]))))
	binary.NativeEndian.PutUint64(cb[length:], uint64(len(one)))
	binary.NativeEndian.PutUint32(cb[flags:], resultToFD)
	binary.NativeEndian.PutUint32(cb[resultFD:], uint32(fd))
	list := []*byte{&cb[0]}
	aio.mu.Lock()
	defer aio.mu.Unlock()
	_, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, aio.context, 1, uintptr(unsafe.Pointer(&list[0])))
	if errno == 0 {
		var event [32]byte
		_, _, errno = unix.Syscall6(unix.SYS_IO_GETEVENTS, aio.context, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
	}
	runtime.KeepAlive(cb)
	runtime.KeepAlive(one)
	if errno != 0 {
		return os.NewSyscallError("io_submit", errno)
	}
	return nil
}

type aioContext struct {
	mu      sync.Mutex
	context uintptr
	file    int
}

// asyncWriter returns what asynchronous writes of this process go through.
var asyncWriter = sync.OnceValues(func() (*aioContext, error) {
	var a aioContext
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 4, uintptr(unsafe.Pointer(&a.context)), 0); errno != 0 {
		return nil, os.NewSyscallError("io_setup", errno)
	}
	var err error
	a.file, err = unix.MemfdCreate("ctnet test", unix.MFD_CLOEXEC)
	return &a, err
})

// A side is what both sides of a pair have: what they share, and the other side's worker.
type side struct {
	ch     rendezvous.Channel
	block  *segpool.Memory
	sleep  *segpool.Memory // the own words
	bellFD int             // as it was passed, and this side's too
	geo    segpool.Geometry
	remote sched.Remote // the other side's worker
	bell   int          // that wakes it

	held []func()
}

// adopt takes what the other side has sent: its sleep words, and after them the doorbell.
func (s *side) adopt(m rendezvous.Message, fds foreign.FDs, sleep int) error {
	theirs, err := segpool.OpenShared(fds[sleep], sleepSize, segpool.ByMaker)
	if err != nil {
		return err
	}
	s.held = append(s.held, theirs.Free)
	s.remote.Bell, err = sched.OpenRinger(fds[sleep+1])
	if err != nil {
		return err
	}
	s.bell = fds.Take(sleep + 1)
	s.held = append(s.held, s.remote.Bell.Close)
	s.remote.Sleep = sleepWord(theirs, int(m.Worker))
	s.remote.Full = func() { s.ch.Send(rendezvous.Message{Kind: rendezvous.KindFull}) }
	return nil
}

// ring rings whether the other side sleeps or not.
func (s *side) ring() {
	unix.Sendto(s.bell, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// leave closes the channel and lets go of all else.
func (s *side) leave() {
	s.ch.Close()
	for _, f := range s.held {
		f()
	}
}

// sleepForEver makes the other side ring for each event.
func (s *side) sleepForEver(n uint32) { sleepWord(s.sleep, 0).Store(2*n + 1) }

// own makes this side's sleep words and doorbell.
func (s *side) own() (sleepFD int, err error) {
	s.sleep, sleepFD, err = segpool.CreateShared("ctnet sleep words", sleepSize, segpool.ByMaker)
	if err != nil {
		return -1, err
	}
	s.held = append(s.held, s.sleep.Free, func() { unix.Close(sleepFD) })
	fd, closeBell, err := newBell()
	if err != nil {
		return -1, err
	}
	s.bellFD = fd
	s.held = append(s.held, closeBell)
	return sleepFD, nil
}

// A client is the client's side of a pair.
type client struct {
	side
	pool *segpool.Pool
	segs []*segpool.Memory // by number
}

// hello returns the message of a client that dials name.
func hello(name string) rendezvous.Message {
	const small = ring.MinSize // so that there is less to overwrite
	m := rendezvous.Message{Kind: rendezvous.KindHello, App: 1, ToServer: small, ToClient: small}
	m.NameLen = uint32(copy(m.Name[:], key(name)))
	return m
}

// dial connects to the socket of a listener.
func dial(name string) (rendezvous.Channel, error) {
	ch, _, err := rendezvous.Dial(context.Background(), key(name), rendezvous.Trusted)
	return ch, err
}

// prepare makes what a client sends with its hello.
func prepare(ch rendezvous.Channel) (c *client, fds []int, err error) {
	c = &client{side: side{ch: ch}}
	block, blockFD, err := segpool.CreateShared("ctnet events", blockSize, segpool.ByBoth)
	if err != nil {
		return nil, nil, err
	}
	c.block = block
	c.held = append(c.held, block.Free, func() { unix.Close(blockFD) })
	sleepFD, err := c.own()
	if err != nil {
		c.leave()
		return nil, nil, err
	}
	c.remote.Events, _ = bitmaps(block)
	return c, []int{blockFD, sleepFD, c.bellFD}, nil
}

// approach connects, and makes what a client sends with its hello.
func approach(name string) (c *client, fds []int, err error) {
	ch, err := dial(name)
	if err != nil {
		return nil, nil, err
	}
	if c, fds, err = prepare(ch); err != nil {
		ch.Close()
	}
	return c, fds, err
}

// attach does the whole handshake of a client. It calls step in between.
func attach(name string, step func(string)) (*client, error) {
	ch, err := dial(name)
	if err != nil {
		return nil, err
	}
	step("connected")
	c, fds, err := prepare(ch)
	if err != nil {
		ch.Close()
		return nil, err
	}
	if err := ch.Send(hello(name), fds...); err != nil {
		c.leave()
		return nil, err
	}
	step("hello")
	if err := c.welcomed(); err != nil {
		c.leave()
		return nil, err
	}
	step("welcomed")
	return c, nil
}

// welcomed receives the answer to hello.
func (c *client) welcomed() error {
	m, fds, err := c.ch.Expect(rendezvous.KindWelcome, 2)
	defer fds.Close()
	if err != nil {
		return err
	}
	if err := c.adopt(m, fds, 0); err != nil {
		return err
	}
	c.geo, err = segpool.SharedGeometry(int(m.ToServer), int(m.ToClient))
	if err != nil {
		return err
	}
	account := segpool.NewAccount(segpool.Limits{Conns: math.MaxInt64, Segments: math.MaxInt64, Bytes: math.MaxInt64})
	c.pool = segpool.NewPool(c.geo, account, func(int) bool { return false })
	return nil
}

// newSegment makes the memory of a segment.
func (s *side) newSegment() (*segpool.Memory, int, error) {
	return segpool.CreateShared("ctnet segment", s.geo.Size(), segpool.ByBoth)
}

// add adds a segment, and calls step in between.
func (c *client) add(step func(string)) error {
	m, fd, err := c.newSegment()
	if err != nil {
		return err
	}
	err = c.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdd, Segment: uint32(len(c.segs))}, fd)
	unix.Close(fd)
	if err != nil {
		return err
	}
	step("add")
	if _, _, err := c.ch.Expect(rendezvous.KindAdded, 0); err != nil {
		return err
	}
	step("added")
	c.segs = append(c.segs, m)
	return c.pool.Add(len(c.segs)-1, m)
}

// enter is attach and add.
func enter(name string) (*client, error) {
	c, err := attach(name, nowhere)
	if err != nil {
		return nil, err
	}
	if err := c.add(nowhere); err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// nowhere is a step that is passed.
func nowhere(string) {}

// A conn is one end of a connection.
type conn struct {
	s    *side
	mem  []byte // of its segment
	at   int    // its slot in that segment
	slot segpool.Slot
	tx   ring.Producer
	rx   ring.Consumer
}

// notify tells the victim of an event.
func (c *conn) notify() { c.s.remote.Notify(c.slot.ID) }

// word returns the connection's own, of those of all slots.
func (c *conn) word(w word) word { return w.in(c.at) }

// ask asks for a connection.
func (c *client) ask(code uint32, step func(string)) (*conn, error) {
	slot, err := c.pool.Alloc()
	if err != nil {
		return nil, err
	}
	n := &conn{s: &c.side, mem: c.segs[int(slot.ID)/c.geo.Slots].Bytes, at: int(slot.ID) % c.geo.Slots, slot: slot}
	slot.ToServer.Header.ResetProducer()
	slot.ToClient.Header.ResetConsumer()
	slot.SetNumber(uint64(slot.ID))
	n.tx.Init(slot.ToServer.Header, slot.ToServer.Data, nil)
	n.rx.Init(slot.ToClient.Header, slot.ToClient.Data, nil)
	slot.SayClient(code)
	step("said")
	n.notify()
	step("asked")
	return n, nil
}

// connect asks for a connection and waits until it is there.
func (c *client) connect() (*conn, error) {
	n, err := c.ask(segpool.ConnectNtf, nowhere)
	if err != nil {
		return nil, err
	}
	return n, n.awaitAnswer(10 * time.Second)
}

var errRefused = errors.New("refused")

// cutOff reports whether the other side has ended the channel.
func (s *side) cutOff() (ended bool) {
	raw, err := s.ch.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = n == 0 && err == nil || err == unix.ECONNRESET
	})
	return ended || err != nil
}

// awaitAnswer waits until the server has accepted.
func (c *conn) awaitAnswer(patience time.Duration) error {
	for end := time.Now().Add(patience); time.Now().Before(end); pause() {
		st := c.slot.ServerState()
		if st.Use() != c.slot.Use {
			if c.s.cutOff() {
				return io.EOF
			}
			continue
		}
		switch st.Code() {
		case segpool.Accepted, segpool.Done:
			return nil
		case segpool.Refused:
			return errRefused
		}
	}
	return syscall.ETIMEDOUT
}

// pause is what an attacker does between two looks at memory that somebody else is to change.
func pause() { time.Sleep(50 * time.Microsecond) }

// send publishes what there is room for.
func (c *conn) send(b []byte) {
	c.tx.Write(b)
	c.notify()
}

// end lets go of the connection as a Close does, and calls step in between.
func (c *conn) end(client bool, step func(string)) {
	c.rx.Close()
	step("closed")
	c.tx.Fin()
	step("fin")
	c.notify()
	if client {
		c.slot.SayClient(segpool.Done)
	} else {
		c.slot.SayServer(segpool.Done)
	}
	step("done")
}

// A server is the server's side of a pair.
type server struct {
	side
	table *segpool.Table

	mu   sync.Mutex
	segs map[int]*segpool.Memory
}

// greet does the handshake of a listener, and calls step in between.
func greet(ch rendezvous.Channel, step func(string)) (*server, error) {
	s := &server{side: side{ch: ch}, segs: make(map[int]*segpool.Memory)}
	step("connected")
	m, fds, err := ch.Expect(rendezvous.KindHello, 3)
	defer fds.Close()
	if err != nil {
		return nil, err
	}
	step("hello")
	s.block, err = segpool.OpenShared(fds[0], blockSize, segpool.ByBoth)
	if err != nil {
		return nil, err
	}
	s.held = append(s.held, s.block.Free)
	if err := s.adopt(m, fds, 1); err != nil {
		return nil, err
	}
	_, s.remote.Events = bitmaps(s.block)
	sleepFD, err := s.own()
	if err != nil {
		return nil, err
	}
	s.geo, err = segpool.SharedGeometry(ring.MinSize, ring.MinSize)
	if err != nil {
		return nil, err
	}
	account := segpool.NewAccount(segpool.Limits{Conns: math.MaxInt64, Segments: math.MaxInt64, Bytes: math.MaxInt64})
	s.table = segpool.NewTable(s.geo, account)
	err = ch.Send(welcome(), sleepFD, s.bellFD)
	step("welcome")
	return s, err
}

// greeted is greet, and has the client's segments taken until the channel ends, which it has then at
// this side too. The victim rings for each event.
func greeted(ch rendezvous.Channel) (*server, error) {
	s, err := greet(ch, nowhere)
	if err != nil {
		return nil, err
	}
	go func() {
		s.take(nowhere)
		s.ch.Close()
	}()
	s.sleepForEver(0)
	return s, nil
}

// welcome returns the message of a listener that lets a client in.
func welcome() rendezvous.Message {
	return rendezvous.Message{Kind: rendezvous.KindWelcome, App: 2, ToServer: ring.MinSize, ToClient: ring.MinSize}
}

// take answers the client's messages about segments until the channel ends, and calls step
// in between.
func (s *server) take(step func(string)) {
	for {
		m, fds, err := s.ch.Receive()
		if err != nil {
			return
		}
		if m.Kind != rendezvous.KindAdd || len(fds) != 1 {
			fds.Close()
			if m.Kind == rendezvous.KindDrop {
				s.mu.Lock()
				delete(s.segs, int(m.Segment))
				s.table.Drop(int(m.Segment))
				s.mu.Unlock()
			}
			continue
		}
		step("add")
		mem, err := segpool.OpenShared(fds[0], s.geo.Size(), segpool.ByBoth)
		fds.Close()
		if err == nil {
			s.mu.Lock()
			if err = s.table.Add(int(m.Segment), mem); err == nil {
				s.segs[int(m.Segment)] = mem
			}
			s.mu.Unlock()
		}
		var errno uint32
		if err != nil {
			errno = uint32(syscall.EPROTO)
		}
		if s.ch.Send(rendezvous.Message{Kind: rendezvous.KindAdded, Errno: errno}) != nil {
			return
		}
		step("added")
	}
}

// requests returns the connections that the client asks for, without an answer.
func (s *server) requests() (all []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, m := range s.segs {
		for i := range s.geo.Slots {
			if clientState.in(i).load(m.Bytes) == 0 {
				break // the client takes the lowest free slot
			}
			id := uint32(k*s.geo.Slots + i)
			if slot, ok := s.table.Request(id); ok {
				all = append(all, s.newConn(slot, m.Bytes, i))
			}
		}
	}
	return all
}

func (s *server) newConn(slot segpool.Slot, mem []byte, at int) *conn {
	c := &conn{s: &s.side, mem: mem, at: at, slot: slot}
	slot.ToServer.Header.ResetConsumer()
	slot.ToClient.Header.ResetProducer()
	c.rx.Init(slot.ToServer.Header, slot.ToServer.Data, nil)
	c.tx.Init(slot.ToClient.Header, slot.ToClient.Data, nil)
	return c
}

// accept answers a request.
func (c *conn) accept() {
	c.slot.SayServer(segpool.Accepted)
	c.notify()
}
