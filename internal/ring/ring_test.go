package ring

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// pattern is what the tests send. Its length is odd, and so no fifo's size divides
// it: a byte at a wrong offset is most likely a wrong byte.
var pattern = func() []byte {
	b := make([]byte, 1<<18+3)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// A pair is a fifo with both its ends, and q, the bytes that should be in it.
type pair struct {
	h    *Header
	data []byte
	p    Producer
	c    Consumer
	q    []byte
	next int // in pattern
}

// newPair returns a fifo whose ring has its full size.
func newPair(size int) *pair {
	r := newGrowing(size, nil, nil)
	for r.p.canGrow() {
		r.p.grow()
	}
	return r
}

// startAt makes the fifo one whose positions have reached pos, at offset off.
// It holds one byte, so that the first write does not restart the ring.
func (r *pair) startAt(pos uint64, off int) {
	base := pos - uint64(off)
	b := r.take(1)
	r.data[off] = b[0]
	r.q = append(r.q[:0], b...)
	r.p.mask = uint64(len(r.data) - 1)
	r.p.head, r.p.tail, r.p.base = pos, pos+1, base
	r.p.room, r.p.wall = uint64(len(r.data)), pos
	r.p.high, r.p.plain = uint32(off)+1, 0
	// The consumer's place is stale: it has to load the producer's.
	r.c.head, r.c.tail, r.c.base = pos, pos, base-5
	r.c.lent.Store(pos)
	r.h.head.Store(pos)
	r.h.tail.Store(pos + 1)
	r.p.publishPlace()
}

// take returns n bytes to send.
func (r *pair) take(n int) []byte {
	if r.next+n > len(pattern) {
		r.next = 0
	}
	r.next += n
	return pattern[r.next-n : r.next]
}

// Operations of step.
const (
	opWrite = iota
	opCommit
	opRead
	opView
	opCopy
	numOps
)

// step does one operation with n bytes and compares its effect with the model's.
func (r *pair) step(t testing.TB, op, n int) {
	size := len(r.data)
	room := size - len(r.q)
	switch op {
	case opWrite:
		b := r.take(n)
		m, err := r.p.Write(b)
		require.NoError(t, err)
		require.Equal(t, min(n, room, PieceSize), m)
		r.q = append(r.q, b[:m]...)
	case opCommit:
		free, err := r.p.Space(n)
		require.NoError(t, err)
		// The producer may know of less space than there is, but not if that is
		// less than it was asked for.
		require.GreaterOrEqual(t, free, min(n, room))
		require.LessOrEqual(t, free, room)
		v := r.p.View()
		require.LessOrEqual(t, len(v), free)
		require.Equal(t, free == 0, len(v) == 0)
		if len(v) < free {
			require.Same(t, &r.data[size-1], &v[len(v)-1], "short view ends before the wrap")
		}
		m := copy(v, r.take(min(n, len(v))))
		r.p.Commit(m)
		r.q = append(r.q, v[:m]...)
	case opRead:
		b := make([]byte, n)
		m, err := r.c.Read(b)
		require.NoError(t, err)
		require.LessOrEqual(t, m, min(n, len(r.q)))
		require.Equal(t, n == 0 || len(r.q) == 0, m == 0)
		require.Equal(t, r.q[:m], b[:m])
		r.q = r.q[m:]
	case opView, opCopy:
		have, err := r.c.Buffered(n)
		require.NoError(t, err)
		require.GreaterOrEqual(t, have, min(n, len(r.q)))
		require.LessOrEqual(t, have, len(r.q))
		m := min(n, have)
		b := make([]byte, m)
		if op == opCopy {
			r.c.Copy(b)
		} else {
			b = r.c.View(m)
			require.Equal(t, m == 0, len(b) == 0)
			if 0 < len(b) && len(b) < m {
				require.Same(t, &r.data[size-1], &b[len(b)-1], "short view ends before the wrap")
			}
		}
		m = len(b)
		require.Equal(t, r.q[:m], b[:m])
		r.c.Discard(m)
		r.q = r.q[m:]
	}
	// One check for all that holds after any operation: there are many operations, and
	// calls of require are slow under the race detector.
	room = size - len(r.q)
	if r.p.Queued() != len(r.q) || r.c.Queued() != len(r.q) || r.c.Unread() != (len(r.q) > 0) ||
		r.c.HasData(n) != (len(r.q) > n) || r.p.HasSpace(n) != (room >= n) ||
		r.c.Used() > r.p.Used() || r.p.Used() > size {
		t.Fatalf("after operation %d of %d bytes, with %d of %d in the fifo: Queued %d, Unread %v, HasData %v, HasSpace %v, Used %d and %d",
			op, n, len(r.q), size, r.p.Queued(), r.c.Unread(), r.c.HasData(n), r.p.HasSpace(n), r.p.Used(), r.c.Used())
	}
}

// drain reads until the model is empty, and once more.
func (r *pair) drain(t testing.TB) {
	for len(r.q) > 0 {
		r.step(t, opRead, len(r.data))
	}
	r.step(t, opRead, 1)
}

func TestModel(t *testing.T) {
	for _, size := range []int{4096, 8192} {
		for seed := range uint64(4) {
			rnd := rand.New(rand.NewPCG(seed, uint64(size)))
			r := newPair(size)
			if seed > 0 {
				// The counters wrap soon after the start.
				r.startAt(-rnd.Uint64N(uint64(4*size)), rnd.IntN(size))
			}
			for range 2000 {
				// Short operations lead to restarts, and long ones to a
				// full and to an empty fifo.
				n := rnd.IntN(100)
				if rnd.IntN(3) == 0 {
					n = rnd.IntN(size + 2)
				}
				r.step(t, rnd.IntN(numOps), n)
			}
			r.drain(t)
		}
	}
}

func TestWrapAtEveryOffset(t *testing.T) {
	for _, size := range []int{4096, 8192} {
		r := newPair(size)
		for off := range size {
			// The counters wrap at another byte of the fifo each time.
			r.startAt(-uint64(off*7%size), off)
			write, read := opWrite+off%2, opRead+off%3
			for len(r.q) < size {
				r.step(t, write, size)
			}
			r.step(t, write, 1)
			for len(r.q) > 0 {
				r.step(t, read, size)
			}
		}
	}
}

func TestPieces(t *testing.T) {
	r := newPair(4 * PieceSize)
	r.step(t, opWrite, 3*PieceSize)
	require.Len(t, r.q, PieceSize)
	r.step(t, opWrite, 3*PieceSize)
	r.step(t, opRead, 3*PieceSize)
	require.Len(t, r.q, PieceSize)
	r.drain(t)
}

func TestRestart(t *testing.T) {
	r := newPair(64 << 10)
	for range 2000 {
		r.step(t, opWrite, 64)
		r.step(t, opRead, 64)
	}
	require.LessOrEqual(t, r.p.Used(), 4096)
	require.LessOrEqual(t, r.c.Used(), 4096)

	// While there is a byte in the fifo the producer must not restart, so it uses
	// the whole fifo.
	r.step(t, opWrite, 1)
	for range 2000 {
		r.step(t, opWrite, 64)
		r.step(t, opRead, 64)
	}
	require.Equal(t, r.p.Size(), r.p.Used())
	require.Equal(t, r.c.Size(), r.c.Used())
}

// lie returns a position for a hostile peer to show: one near the true position, which
// may pass the checks, or one that can't.
func lie(rnd *rand.Rand, truth uint64, size int) uint64 {
	switch rnd.IntN(4) {
	case 0:
		return rnd.Uint64()
	case 1:
		return truth + 1<<rnd.IntN(64)
	}
	return truth + uint64(rnd.IntN(4*size)-2*size)
}

// pokeProducer calls all methods that a hostile consumer can affect. The results must be
// possible lengths, or ErrCorrupt.
func pokeProducer(t testing.TB, p *Producer, b []byte) {
	size := p.Size()
	free, err := p.Space(len(b))
	if err != nil {
		require.ErrorIs(t, err, ErrCorrupt)
		require.Zero(t, free)
	}
	require.True(t, 0 <= free && free <= size)
	v := p.View()
	require.LessOrEqual(t, len(v), size)
	p.Commit(min(len(v), len(b)/3))
	n, err := p.Write(b)
	if err != nil {
		require.ErrorIs(t, err, ErrCorrupt)
		require.Zero(t, n)
	}
	require.True(t, 0 <= n && n <= min(len(b), size, PieceSize))
	require.True(t, 0 <= p.Queued() && p.Queued() <= size)
	require.True(t, 0 <= p.Used() && p.Used() <= size)
	p.HasSpace(len(b))
	p.DataWanted()
	p.ConsumerClosed()
	p.ConsumerWaits()
}

// pokeConsumer is pokeProducer for the other end.
func pokeConsumer(t testing.TB, c *Consumer, b []byte) {
	size := c.Size()
	n, err := c.Buffered(len(b))
	if err != nil {
		require.ErrorIs(t, err, ErrCorrupt)
		require.Zero(t, n)
	}
	require.True(t, 0 <= n && n <= size)
	n = min(n, len(b))
	v := c.View(n)
	require.LessOrEqual(t, len(v), n)
	c.Copy(b[:n])
	c.Discard(n / 3)
	n, err = c.Read(b)
	if err != nil {
		require.ErrorIs(t, err, ErrCorrupt)
		require.Zero(t, n)
	}
	require.True(t, 0 <= n && n <= min(len(b), size, PieceSize))
	require.True(t, 0 <= c.Used() && c.Used() <= size)
	c.HasData(len(b))
	c.SpaceWanted()
	c.Ended()
	c.Unread()
	c.ProducerWaits()
}

func TestLyingConsumer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 3))
	var bad, good int
	for range 3000 {
		r := newPair(4096)
		r.startAt(-rnd.Uint64N(8192), rnd.IntN(4096))
		for range 4 {
			v := lie(rnd, r.p.head, 4096)
			r.h.head.Store(v)
			// Between the last head and what was published.
			valid := r.p.tail-v <= r.p.tail-r.p.head
			before := r.p.head
			_, err := r.p.Space(4097) // More than can be free, so it loads the head.
			if valid {
				good++
				require.NoError(t, err)
				require.Equal(t, v, r.p.head)
			} else {
				bad++
				require.ErrorIs(t, err, ErrCorrupt)
				require.Equal(t, before, r.p.head, "a lie was believed")
			}
			pokeProducer(t, &r.p, pattern[:rnd.IntN(5000)])
		}
	}
	require.NotZero(t, bad)
	require.NotZero(t, good)
}

func TestLyingProducer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 5))
	b := make([]byte, 5000)
	var bad, good int
	for range 3000 {
		r := newPair(4096)
		r.startAt(-rnd.Uint64N(8192), rnd.IntN(4096))
		for range 4 {
			v := lie(rnd, r.c.tail, 4096)
			r.h.tail.Store(v)
			p := place(lie(rnd, r.c.base, 4096))
			if rnd.IntN(2) == 0 {
				p = place(12<<32 | uint64(uint32(p)))
			}
			r.h.place.Store(uint64(p))
			// Not before the last tail, nor beyond a full fifo.
			valid := v-r.c.head <= 4096 && v-r.c.head >= r.c.tail-r.c.head
			valid = v == r.c.tail || valid && p.log() == 12
			before := r.c.tail
			_, err := r.c.Buffered(4097)
			if valid {
				good++
				require.NoError(t, err)
				require.Equal(t, v, r.c.tail)
			} else {
				bad++
				require.ErrorIs(t, err, ErrCorrupt)
				require.Equal(t, before, r.c.tail, "a lie was believed")
			}
			pokeConsumer(t, &r.c, b[:rnd.IntN(5000)])
		}
	}
	require.NotZero(t, bad)
	require.NotZero(t, good)
}

// TestLyingPlace has a place that lies, while the positions are true. A base that lies spoils
// bytes and nothing else. A size is one that the ring can have, and that holds what is there.
func TestLyingPlace(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 7))
	r := newPair(4096)
	b := make([]byte, 4096)
	for range 5000 {
		n := 1 + rnd.IntN(4096)
		m, err := r.p.Write(pattern[:n])
		require.NoError(t, err)
		require.Equal(t, n, m)
		mask, tail := r.c.mask, r.c.tail
		for log := range uint64(70) {
			if log == 12 {
				continue
			}
			r.h.place.Store(log<<32 | rnd.Uint64N(1<<32))
			_, err := r.c.Buffered(4096)
			require.ErrorIs(t, err, ErrCorrupt, log)
			require.Equal(t, mask, r.c.mask)
			require.Equal(t, tail, r.c.tail)
		}
		r.h.place.Store(12<<32 | rnd.Uint64N(1<<32))
		m, err = r.c.Buffered(4096)
		require.NoError(t, err)
		require.Equal(t, n, m)
		v := r.c.View(n)
		require.True(t, 0 < len(v) && len(v) <= n)
		r.c.Copy(b[:n])
		r.c.Discard(n / 2)
		m, err = r.c.Read(b)
		require.NoError(t, err)
		require.Equal(t, n-n/2, m)
	}
}

func TestRequestData(t *testing.T) {
	r := newPair(4096)
	require.False(t, r.p.DataWanted())
	for range 3 {
		r.c.RequestData()
		require.True(t, r.p.ConsumerWaits())
		require.True(t, r.p.DataWanted())
		require.False(t, r.p.DataWanted(), "one answer to a request")
		require.True(t, r.p.ConsumerWaits(), "raised until the consumer drops it")
	}
	r.c.DropRequest()
	require.False(t, r.p.ConsumerWaits())
	require.False(t, r.p.DataWanted())

	r.c.RequestData()
	r.c.DropRequest()
	require.False(t, r.p.DataWanted(), "dropped before it was answered")

	// An unanswered request that is raised again is one request.
	r.c.RequestData()
	r.c.RequestData()
	require.True(t, r.p.DataWanted())
	require.False(t, r.p.DataWanted())

	// The sequence number may wrap.
	r.c.wait.seq = ^uint32(1)
	for range 3 {
		r.c.RequestData()
		require.True(t, r.p.DataWanted())
		require.False(t, r.p.DataWanted())
	}
}

func TestRequestSpace(t *testing.T) {
	const size = 4096
	r := newPair(size)
	r.step(t, opWrite, size)
	_, err := r.c.Buffered(size)
	require.NoError(t, err)
	require.False(t, r.c.AnySpaceWanted(), "not asked for")

	r.p.RequestSpace()
	require.True(t, r.c.ProducerWaits())
	r.c.Discard(size/4 - 1)
	require.False(t, r.c.SpaceWanted(), "less than a quarter")
	r.c.Discard(1)
	require.True(t, r.c.SpaceWanted(), "a quarter")
	require.False(t, r.c.SpaceWanted())
	require.False(t, r.c.AnySpaceWanted(), "one answer to a request")

	r.q = r.q[size/4:]
	r.step(t, opWrite, size)
	r.p.RequestSpace()
	_, err = r.c.Buffered(size)
	require.NoError(t, err)
	require.False(t, r.c.SpaceWanted())
	require.True(t, r.c.AnySpaceWanted(), "any space will do")

	r.p.RequestSpace()
	r.drain(t)
	require.True(t, r.c.SpaceWanted(), "empty")

	r.p.RequestSpace()
	r.p.DropRequest()
	require.False(t, r.c.ProducerWaits())
	require.False(t, r.c.AnySpaceWanted(), "dropped before it was answered")
}

func TestEnded(t *testing.T) {
	for _, test := range []struct{ fin, reset bool }{{}, {true, false}, {false, true}, {true, true}} {
		r := newPair(4096)
		r.step(t, opWrite, 10)
		if test.fin {
			r.p.Fin()
			r.p.Fin()
		}
		if test.reset {
			r.p.Reset()
		}
		fin, reset := r.c.Ended()
		require.Equal(t, test.fin, fin)
		require.Equal(t, test.reset, reset)
		r.drain(t) // what came before the end can be read
	}
}

func TestClose(t *testing.T) {
	r := newPair(4096)
	require.False(t, r.p.ConsumerClosed())
	require.False(t, r.c.Unread())
	r.step(t, opWrite, 10)
	r.c.Close()
	require.True(t, r.p.ConsumerClosed())
	require.True(t, r.c.Unread())
	r.drain(t)
	require.False(t, r.c.Unread())
}

func TestHeader(t *testing.T) {
	// Words of different writers must not share a cache line, also if one header
	// follows another in memory.
	require.Zero(t, HeaderSize%64)
	var h Header
	lines := map[uintptr]bool{}
	for _, off := range []uintptr{
		unsafe.Offsetof(h.tail), unsafe.Offsetof(h.head),
		unsafe.Offsetof(h.ended), unsafe.Offsetof(h.closed),
	} {
		lines[off/64] = true
	}
	require.Len(t, lines, 4)
	require.Equal(t, unsafe.Offsetof(h.tail)/64, unsafe.Offsetof(h.place)/64)
	require.Equal(t, unsafe.Offsetof(h.ended)/64, unsafe.Offsetof(h.wantSpace)/64)
	require.Equal(t, unsafe.Offsetof(h.closed)/64, unsafe.Offsetof(h.wantData)/64)
	require.Equal(t, unsafe.Offsetof(h.closed)/64, unsafe.Offsetof(h.seen)/64)
	require.Equal(t, unsafe.Offsetof(h.closed)/64, unsafe.Offsetof(h.allow)/64)

	mem := make([]byte, HeaderSize)
	At(mem).tail.Store(^uint64(0))
	require.Equal(t, byte(0xff), mem[0])
	require.Panics(t, func() { At(mem[1:]) })

	// What the last use of the memory left in the words is gone in the next use.
	r := newPair(4096)
	r.startAt(12345, 678)
	r.p.Fin()
	r.p.RequestSpace()
	r.c.Close()
	r.c.RequestData()
	r.h.ResetProducer()
	r.h.ResetConsumer()
	r.p.Init(r.h, r.data, nil)
	r.c.Init(r.h, r.data, nil)
	r.q = nil
	fin, reset := r.c.Ended()
	require.False(t, fin || reset || r.p.ConsumerClosed() || r.p.DataWanted() || r.c.AnySpaceWanted())
	r.step(t, opWrite, 100)
	r.drain(t)
}

func TestRoundSize(t *testing.T) {
	for _, test := range [][2]int{
		{0, MinSize}, {MinSize - 1, MinSize}, {MinSize, MinSize}, {MinSize + 1, 2 * MinSize},
		{1<<20 - 1, 1 << 20}, {1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {MaxSize, MaxSize},
	} {
		require.Equal(t, test[1], RoundSize(test[0]), test[0])
	}
}

// A waiter is how one side of the stress test waits for the other one. A nil waiter
// polls.
type waiter chan struct{}

func (w waiter) wait() {
	if w == nil {
		runtime.Gosched()
		return
	}
	<-w
}

func (w waiter) wake() {
	select {
	case w <- struct{}{}:
	default: // It is nil, or there is a wake-up already.
	}
}

// send streams total bytes and returns their checksum.
func send(p *Producer, total int, space, data waiter) (sum uint32, err error) {
	rnd := rand.New(rand.NewPCG(8, 9))
	for total > 0 {
		n := min(total, 1+rnd.IntN(p.Size()))
		if rnd.IntN(2) == 0 {
			n = min(n, 64) // So the fifo runs empty, and the producer restarts.
		}
		off := rnd.IntN(len(pattern) - n)
		b := pattern[off : off+n]
		var m int
		if rnd.IntN(2) == 0 {
			if m, err = p.Write(b); err != nil {
				return 0, err
			}
		} else {
			if _, err = p.Space(n); err != nil {
				return 0, err
			}
			m = copy(p.View(), b)
			p.Commit(m)
		}
		sum = crc32.Update(sum, crc32.IEEETable, b[:m])
		total -= m
		if m > 0 {
			if p.DataWanted() {
				data.wake()
			}
			continue
		}
		if p.ConsumerClosed() {
			return 0, errors.New("consumer gave up")
		}
		p.RequestSpace()
		if !p.HasSpace(1) && !p.ConsumerClosed() {
			space.wait()
		}
		p.DropRequest()
	}
	return sum, nil
}

// receive reads to the end of the stream and returns the number of bytes and their
// checksum.
func receive(c *Consumer, space, data waiter) (total int, sum uint32, err error) {
	rnd := rand.New(rand.NewPCG(10, 11))
	buf := make([]byte, c.Size())
	for {
		fin, reset := c.Ended() // before looking for bytes
		n := 1 + rnd.IntN(len(buf))
		b := buf[:n]
		var have int
		switch rnd.IntN(3) {
		case 0:
			have, err = c.Read(b)
			sum = crc32.Update(sum, crc32.IEEETable, b[:have])
		case 1:
			have, err = c.Buffered(n)
			b = c.View(min(n, have))
			have = len(b)
			sum = crc32.Update(sum, crc32.IEEETable, b)
			c.Discard(have)
		case 2:
			have, err = c.Buffered(n)
			have = min(n, have)
			c.Copy(b[:have])
			sum = crc32.Update(sum, crc32.IEEETable, b[:have])
			c.Discard(have)
		}
		if err != nil {
			return total, sum, err
		}
		total += have
		if have > 0 {
			if c.SpaceWanted() {
				space.wake()
			}
			continue
		}
		if reset {
			return total, sum, errors.New("stream was reset")
		}
		if fin {
			return total, sum, nil
		}
		c.RequestData()
		if fin, reset := c.Ended(); !fin && !reset && !c.HasData(0) {
			data.wait()
		}
		c.DropRequest()
	}
}

// TestStress waits in two ways. If both sides poll, they are never far apart; with
// wake-ups, the test hangs if the requests lose one.
func TestStress(t *testing.T) {
	const total = 4 << 20
	for _, size := range []int{4 << 10, 8 << 10, 128 << 10} {
		for _, block := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/block=%v", size, block), func(t *testing.T) {
				var space, data waiter
				if block {
					space, data = make(waiter, 1), make(waiter, 1)
				}
				r := newPair(size)
				type result struct {
					sum uint32
					err error
				}
				done := make(chan result)
				go func() {
					sum, err := send(&r.p, total, space, data)
					if err != nil {
						r.p.Reset()
					} else {
						r.p.Fin()
					}
					data.wake()
					done <- result{sum, err}
				}()
				n, sum, err := receive(&r.c, space, data)
				r.c.Close()
				space.wake()
				sent := <-done
				require.NoError(t, err)
				require.NoError(t, sent.err)
				require.Equal(t, total, n)
				require.Equal(t, sent.sum, sum)
				require.False(t, r.c.Unread())
			})
		}
	}
}
