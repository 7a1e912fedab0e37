package ctnet

import (
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/stream"
	"github.com/stretchr/testify/require"
)

// A fakeIncoming is an incoming that counts the calls of its methods. It is the peer of its
// connection too.
type fakeIncoming struct {
	stream.Peer // its other methods are not called

	conn   conn
	dialer ring.Consumer // the dialing end's fifo for reading

	once     sync.Once
	decided  chan struct{} // closed when the dialer has been told
	answers  atomic.Int32
	refusals atomic.Int32
	errno    syscall.Errno
	accepts  atomic.Int32 // how many times accept returned the connection
	givenUp  atomic.Bool  // the dialer has given up
	gone     atomic.Int32
}

// A fakeAddr is the remote address of a fakeIncoming's connection. It leads back to the
// fakeIncoming.
type fakeAddr struct {
	net.Addr
	h *fakeIncoming
}

func newFakeIncoming() *fakeIncoming {
	h := &fakeIncoming{decided: make(chan struct{})}
	rx := ring.Fifo{Header: new(ring.Header), Data: make([]byte, 64)}
	tx := ring.Fifo{Header: new(ring.Header), Data: make([]byte, 64)}
	h.conn.end.Init(rx, tx, h, stream.Options{})
	h.conn.remote = fakeAddr{nil, h}
	h.dialer.Init(tx.Header, tx.Data, nil)
	return h
}

func (h *fakeIncoming) answer() {
	h.once.Do(func() {
		h.answers.Add(1)
		close(h.decided)
	})
}

func (h *fakeIncoming) accept() *conn {
	h.answer()
	if h.givenUp.Load() {
		h.drop()
		return nil
	}
	return &h.conn
}

func (h *fakeIncoming) drop() {
	h.answer()
	h.conn.end.Abort()
}

func (h *fakeIncoming) refuse(errno syscall.Errno) {
	h.errno = errno
	h.refusals.Add(1)
	close(h.decided) // only once, or it panics
}

func (h *fakeIncoming) LetGo() { h.gone.Add(1) }

// A fate is what has become of a fakeIncoming.
type fate string

const (
	fateWaits    fate = "waits"
	fateAnswered fate = "answered"
	fateAccepted fate = "accepted"
	fateRefused  fate = "refused"
	fateReset    fate = "reset"
)

// fate returns what has become of h.
func (h *fakeIncoming) fate() fate {
	fin, reset := h.dialer.Ended()
	type counts struct{ answers, refusals, accepts, gone int32 }
	switch n := (counts{h.answers.Load(), h.refusals.Load(), h.accepts.Load(), h.gone.Load()}); {
	case n == counts{} && !fin && !reset:
		return fateWaits
	case n == counts{answers: 1} && !fin && !reset:
		return fateAnswered
	case n == counts{answers: 1, accepts: 1} && !fin && !reset:
		return fateAccepted
	case n == counts{refusals: 1} && h.errno == syscall.ECONNREFUSED:
		return fateRefused
	case n == counts{answers: 1, gone: 1} && reset:
		return fateReset
	}
	return "none that can be"
}

func newBacklog(size int) *backlog {
	b := new(backlog)
	b.init(size)
	return b
}

// offerMany offers n fakeIncomings, one after the other.
func offerMany(b *backlog, n int) (hs []*fakeIncoming) {
	for range n {
		h := newFakeIncoming()
		hs = append(hs, h)
		b.offer(h, new(turns))
	}
	return hs
}

func requireFates(t *testing.T, hs []*fakeIncoming, want ...fate) {
	t.Helper()
	var got []fate
	for _, h := range hs {
		got = append(got, h.fate())
	}
	require.Equal(t, want, got)
}

// acceptFake accepts, and counts it.
func acceptFake(b *backlog) (*fakeIncoming, error) {
	c, err := b.accept()
	if err != nil {
		return nil, err
	}
	h := c.(*Conn).c.remote.(fakeAddr).h
	h.accepts.Add(1)
	return h, nil
}

func requireAccept(t *testing.T, b *backlog, want *fakeIncoming) {
	t.Helper()
	h, err := acceptFake(b)
	require.NoError(t, err)
	require.Same(t, want, h)
}

func TestBacklogOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(2)
		hs := offerMany(b, 5)
		requireFates(t, hs, fateAnswered, fateAnswered, fateWaits, fateWaits, fateWaits)
		requireAccept(t, b, hs[0])
		requireFates(t, hs, fateAccepted, fateAnswered, fateAnswered, fateWaits, fateWaits)
		requireAccept(t, b, hs[1])
		more := offerMany(b, 1)
		requireFates(t, more, fateWaits)
		requireAccept(t, b, hs[2])
		requireFates(t, hs, fateAccepted, fateAccepted, fateAccepted, fateAnswered, fateAnswered)
		requireAccept(t, b, hs[3])
		requireFates(t, more, fateAnswered)
		requireAccept(t, b, hs[4])
		requireAccept(t, b, more[0])
		more = offerMany(b, 3)
		requireFates(t, more, fateAnswered, fateAnswered, fateWaits)
		for _, h := range more {
			requireAccept(t, b, h)
		}
		requireFates(t, append(hs, more...), fateAccepted, fateAccepted, fateAccepted, fateAccepted, fateAccepted, fateAccepted, fateAccepted, fateAccepted)
	})
}

func TestBacklogWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(2)
		hs := offerMany(b, 6)
		requireFates(t, hs, fateAnswered, fateAnswered, fateWaits, fateWaits, fateWaits, fateWaits)
		b.withdraw(hs[1]) // the last that was answered
		requireFates(t, hs, fateAnswered, fateReset, fateAnswered, fateWaits, fateWaits, fateWaits)
		b.withdraw(hs[4]) // was not answered: makes no room
		requireFates(t, hs, fateAnswered, fateReset, fateAnswered, fateWaits, fateReset, fateWaits)
		b.withdraw(hs[0]) // the first
		requireFates(t, hs, fateReset, fateReset, fateAnswered, fateAnswered, fateReset, fateWaits)
		for _, i := range []int{0, 1, 4} { // not there any more
			b.withdraw(hs[i])
		}
		b.withdraw(newFakeIncoming())
		requireFates(t, hs, fateReset, fateReset, fateAnswered, fateAnswered, fateReset, fateWaits)
		requireAccept(t, b, hs[2])
		b.withdraw(hs[2]) // too late
		requireFates(t, hs, fateReset, fateReset, fateAccepted, fateAnswered, fateReset, fateAnswered)
		b.withdraw(hs[5])
		requireAccept(t, b, hs[3])
		requireFates(t, hs, fateReset, fateReset, fateAccepted, fateAccepted, fateReset, fateReset)
		hs = offerMany(b, 3)
		requireFates(t, hs, fateAnswered, fateAnswered, fateWaits)
	})
}

func TestBacklogClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(2)
		hs := offerMany(b, 5)
		requireAccept(t, b, hs[0])
		require.False(t, b.isClosed())
		b.Set(time.Now().Add(time.Hour), b)
		b.close(resetAnswered)
		require.True(t, b.isClosed())
		time.Sleep(2 * time.Hour)
		require.False(t, b.Passed(), "the deadline's timer was not stopped")
		want := []fate{fateAccepted, fateReset, fateReset, fateRefused, fateRefused}
		requireFates(t, hs, want...)
		for _, h := range hs {
			b.withdraw(h)
		}
		b.close(resetAnswered)
		requireFates(t, hs, want...)
		requireFates(t, offerMany(b, 2), fateRefused, fateRefused)
		for range 2 {
			_, err := acceptFake(b)
			require.Equal(t, net.ErrClosed, err)
		}
		b.Set(time.Now().Add(-time.Second), b)
		_, err := acceptFake(b)
		require.Equal(t, net.ErrClosed, err)
	})
}

func TestBacklogDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(2)
		start := time.Now()
		b.Set(start.Add(2*time.Hour), b)
		const n = 4
		results := acceptMany(b, n)
		require.Empty(t, results)
		b.Set(start.Add(time.Hour), b)
		for range n {
			r := <-results
			require.Equal(t, os.ErrDeadlineExceeded, r.err)
			require.Equal(t, start.Add(time.Hour), r.at)
		}
		// A connection that has come is accepted when there is another deadline.
		hs := offerMany(b, 1)
		for range 2 {
			_, err := acceptFake(b)
			require.Equal(t, os.ErrDeadlineExceeded, err)
		}
		b.Set(time.Time{}, b)
		requireAccept(t, b, hs[0])
		results = acceptMany(b, n)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Empty(t, results)
		b.Set(time.Now(), b)
		for range n {
			require.Equal(t, os.ErrDeadlineExceeded, (<-results).err)
		}
		require.Equal(t, 25*time.Hour, time.Since(start))
	})
}

// acceptMany starts n goroutines that accept, and returns when each of them has accepted or
// waits.
func acceptMany(b *backlog, n int) <-chan acceptResult {
	results := make(chan acceptResult, n)
	for range n {
		go func() {
			h, err := acceptFake(b)
			results <- acceptResult{h, err, time.Now()}
		}()
	}
	synctest.Wait()
	return results
}

type acceptResult struct {
	h   *fakeIncoming
	err error
	at  time.Time
}

// TestBacklogWakesEnough has several goroutines wait in accept. As many return as there are
// connections, and the others go on waiting.
func TestBacklogWakesEnough(t *testing.T) {
	for _, size := range []int{1, 2, 100} {
		synctest.Test(t, func(t *testing.T) {
			b := newBacklog(size)
			const waiting = 16
			results := acceptMany(b, waiting)
			left := waiting
			for _, n := range []int{1, 1, 2, 3, 0, 5} {
				hs := offerMany(b, n)
				synctest.Wait()
				require.Len(t, results, n)
				for range n {
					require.NoError(t, (<-results).err)
				}
				for _, h := range hs {
					require.Equal(t, fateAccepted, h.fate())
				}
				left -= n
			}
			// A connection is either withdrawn or accepted.
			h := newFakeIncoming()
			go b.offer(h, new(turns))
			go b.withdraw(h)
			synctest.Wait()
			if len(results) == 1 {
				require.Equal(t, fateAccepted, (<-results).h.fate())
				left--
			}
			require.Empty(t, results)

			b.close(resetAnswered)
			synctest.Wait()
			require.Len(t, results, left)
			for range left {
				require.Equal(t, net.ErrClosed, (<-results).err)
			}
		})
	}
}

// A fakeKernel stands for acceptKernel: it hands over connections, one after the other.
type fakeKernel struct {
	b       *backlog
	pending atomic.Int32 // connections in the kernel's queue
	asked   atomic.Int32 // how many times pending was read
}

func newFakeKernel(b *backlog) *fakeKernel {
	k := &fakeKernel{b: b}
	b.expectKernel(func() bool {
		k.asked.Add(1)
		return k.pending.Load() > 0
	})
	return k
}

// A kernelSide is a connection of the kernel's that knows whether it was closed.
type kernelSide struct {
	net.Conn
	closed atomic.Bool
}

func (c *kernelSide) Close() error {
	c.closed.Store(true)
	return nil
}

// handOver hands over n connections, and returns when it can't go on.
func (k *fakeKernel) handOver(n int) []*kernelSide {
	var conns []*kernelSide
	for range n {
		conns = append(conns, new(kernelSide))
	}
	k.pending.Add(int32(n))
	go func() {
		for _, c := range conns {
			k.pending.Add(-1)
			if !k.b.offerKernel(c, nil) {
				k.b.endKernel()
				return
			}
		}
	}()
	synctest.Wait()
	return conns
}

// sources accepts n connections, and returns where they came from: k is the kernel, q the
// queue. The kernel's connections are handed over in time.
func sources(t *testing.T, b *backlog, n int) string {
	t.Helper()
	var from []byte
	for range n {
		synctest.Wait()
		c, err := b.accept()
		require.NoError(t, err)
		if _, ok := c.(*kernelSide); ok {
			from = append(from, 'k')
		} else {
			from = append(from, 'q')
		}
	}
	return string(from)
}

// TestBacklogFair offers connections of both kinds: they are accepted in turns. When one kind is
// used up, Accept doesn't wait for more of it.
func TestBacklogFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(100)
		k := newFakeKernel(b)
		offerMany(b, 6)
		k.handOver(3)
		require.Equal(t, "qkqkqkqqq", sources(t, b, 9))
		k.handOver(3)
		require.Equal(t, "kkk", sources(t, b, 3))
		k.handOver(3)
		offerMany(b, 2)
		require.Equal(t, "qkqkk", sources(t, b, 5))
		require.Zero(t, k.asked.Load())
		// Also for goroutines that wait.
		results := acceptAny(b, 4)
		k.handOver(2)
		offerMany(b, 2)
		synctest.Wait()
		require.Len(t, results, 4)
	})
}

// TestBacklogAwaitsKernel hands the kernel's connections over late. After maxStreak others Accept
// waits for them, as long as the kernel has a connection and no longer than kernelPatience.
func TestBacklogAwaitsKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(100)
		k := newFakeKernel(b)
		offerMany(b, 90)
		start := time.Now()
		took := func() time.Duration {
			d := time.Since(start)
			start = time.Now()
			return d
		}
		some := func(n int) {
			t.Helper()
			for range n {
				h, err := acceptFake(b)
				require.NoError(t, err)
				require.NotNil(t, h)
			}
		}
		// The kernel has none.
		some(3 * maxStreak)
		require.Zero(t, took())
		require.EqualValues(t, 2, k.asked.Load())

		// It has one, which is not handed over.
		k.pending.Store(1)
		some(1)
		require.InDelta(t, kernelPatience, took(), float64(time.Millisecond))
		some(maxStreak - 1)
		require.Zero(t, took())
		some(1)
		require.InDelta(t, kernelPatience, took(), float64(time.Millisecond))
		some(maxStreak - 1)

		// It is handed over, late.
		go func() {
			time.Sleep(kernelPatience / 2)
			k.b.offerKernel(new(kernelSide), nil)
		}()
		took()
		require.Equal(t, "k", sources(t, b, 1))
		require.InDelta(t, kernelPatience/2, took(), float64(time.Millisecond))
		some(maxStreak)
		require.Zero(t, took())

		// Another process takes it.
		time.AfterFunc(kernelPatience/2, func() { k.pending.Store(0) })
		some(1)
		require.InDelta(t, kernelPatience/2, took(), float64(time.Millisecond))
		some(maxStreak - 1)

		// The backlog is closed.
		k.pending.Store(1)
		time.AfterFunc(kernelPatience/2, func() { b.close(drainAnswered) })
		took()
		some(1)
		require.InDelta(t, kernelPatience/2, took(), float64(time.Millisecond))
		some(2 * maxStreak)
		require.Zero(t, took())
	})
}

// TestBacklogDrain closes a backlog whose listener's address another one has taken over. The
// connections that were answered can be accepted for drainTime, whatever the deadline; the
// others are refused.
func TestBacklogDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(3)
		hs := offerMany(b, 5)
		b.Set(time.Now().Add(drainTime/4), b)
		time.Sleep(drainTime / 2)
		require.True(t, b.close(drainAnswered))
		require.False(t, b.close(drainAnswered))
		require.False(t, b.close(resetAnswered))
		requireFates(t, hs, fateAnswered, fateAnswered, fateAnswered, fateRefused, fateRefused)
		requireFates(t, offerMany(b, 1), fateRefused)
		b.withdraw(hs[1])
		requireAccept(t, b, hs[0])
		time.Sleep(drainTime - time.Nanosecond)
		synctest.Wait()
		requireFates(t, hs, fateAccepted, fateReset, fateAnswered, fateRefused, fateRefused)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		requireFates(t, hs, fateAccepted, fateReset, fateReset, fateRefused, fateRefused)
		_, err := acceptFake(b)
		require.Equal(t, net.ErrClosed, err)

		// When all were accepted, Accept fails at once.
		b = newBacklog(3)
		hs = offerMany(b, 2)
		results := acceptMany(b, 1)
		require.NoError(t, (<-results).err)
		b.close(drainAnswered)
		start := time.Now()
		results = acceptMany(b, 3)
		require.Len(t, results, 3)
		requireFates(t, hs, fateAccepted, fateAccepted)
		require.Zero(t, time.Since(start))
	})
}

// TestBacklogLastKernel closes a backlog with a connection of the kernel's that was handed
// over, or will be just after that. The connection is accepted, or closed in the end. Accept
// fails when no more can come.
func TestBacklogLastKernel(t *testing.T) {
	run := func(name string, f func(t *testing.T, b *backlog, k *fakeKernel)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBacklog(3)
				f(t, b, newFakeKernel(b))
			})
		})
	}
	run("handed over", func(t *testing.T, b *backlog, k *fakeKernel) {
		c := k.handOver(1)[0]
		b.close(resetAnswered)
		got, err := b.accept()
		require.NoError(t, err)
		require.Same(t, c, got)
		require.False(t, c.closed.Load())
		_, err = b.accept()
		require.Equal(t, net.ErrClosed, err)
	})
	run("just after", func(t *testing.T, b *backlog, k *fakeKernel) {
		before := acceptAny(b, 1)
		b.close(resetAnswered)
		after := acceptAny(b, 2)
		require.Empty(t, before)
		require.Empty(t, after)
		require.False(t, b.offerKernel(new(kernelSide), nil))
		b.endKernel()
		synctest.Wait()
		require.Len(t, before, 1)
		require.Len(t, after, 2)
		require.ElementsMatch(t, []error{nil, net.ErrClosed, net.ErrClosed}, []error{<-before, <-after, <-after})
	})
	run("not accepted", func(t *testing.T, b *backlog, k *fakeKernel) {
		c := k.handOver(1)[0]
		b.close(resetAnswered)
		time.Sleep(drainTime)
		synctest.Wait()
		require.True(t, c.closed.Load())
		_, err := b.accept()
		require.Equal(t, net.ErrClosed, err)
	})
	run("too late", func(t *testing.T, b *backlog, k *fakeKernel) {
		b.close(resetAnswered)
		start := time.Now()
		_, err := b.accept() // its listener's Accept doesn't return
		require.Equal(t, net.ErrClosed, err)
		require.Equal(t, drainTime, time.Since(start))
		c := new(kernelSide)
		require.False(t, b.offerKernel(c, nil))
		require.True(t, c.closed.Load())
		_, err = b.accept()
		require.Equal(t, net.ErrClosed, err)
	})
	run("an error", func(t *testing.T, b *backlog, k *fakeKernel) {
		more := make(chan bool, 1)
		go func() { more <- b.offerKernel(nil, syscall.EMFILE) }()
		synctest.Wait()
		_, err := b.accept()
		require.Equal(t, syscall.EMFILE, err)
		require.True(t, <-more)
		go func() { more <- b.offerKernel(nil, syscall.EMFILE) }()
		synctest.Wait()
		b.close(resetAnswered)
		require.False(t, <-more)
		require.False(t, b.offerKernel(nil, net.ErrClosed))
		b.endKernel()
		_, err = b.accept()
		require.Equal(t, net.ErrClosed, err)
	})
}

// acceptAny is acceptMany for connections of both kinds.
func acceptAny(b *backlog, n int) <-chan error {
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := b.accept()
			errs <- err
		}()
	}
	synctest.Wait()
	return errs
}

// TestBacklogStress offers and withdraws while goroutines accept. It is in a bubble, which fails
// if all goroutines wait.
func TestBacklogStress(t *testing.T) {
	const dialers, dials, accepters = 6, 60, 3
	stress := func(t *testing.T, size int, closeAfter int) (fates map[fate]int) {
		b := newBacklog(size)
		hs := make([][]*fakeIncoming, dialers)
		var offered atomic.Int32
		closing := make(chan struct{})
		var closed, dialing, accepting sync.WaitGroup
		for i := range dialers {
			rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
			dialing.Go(func() {
				for range dials {
					h := newFakeIncoming()
					hs[i] = append(hs[i], h)
					b.offer(h, new(turns))
					if int(offered.Add(1)) == closeAfter {
						close(closing)
					}
					switch rnd.IntN(4) {
					case 0: // as a Dial whose context ends
						for range rnd.IntN(20) {
							runtime.Gosched()
						}
						b.withdraw(h)
					case 1: // as a server that finds its peer dead, besides
						dialing.Go(func() { b.withdraw(h) })
					case 2:
						<-h.decided
					}
				}
			})
		}
		for range accepters {
			rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
			accepting.Go(func() {
				for {
					_, err := acceptFake(b)
					if err != nil {
						if err != net.ErrClosed {
							t.Errorf("accept: %v", err)
						}
						return
					}
					if rnd.IntN(3) == 0 {
						time.Sleep(time.Second) // until no other goroutine is ready
					}
				}
			})
		}
		if closeAfter > 0 {
			closed.Go(func() {
				<-closing
				b.close(resetAnswered)
			})
		}
		dialing.Wait()
		time.Sleep(time.Hour) // until all connections that are there were accepted
		synctest.Wait()
		if closeAfter == 0 {
			b.mu.Lock()
			require.Empty(t, b.queue)
			b.mu.Unlock()
			b.close(resetAnswered)
		}
		closed.Wait()
		accepting.Wait()
		fates = make(map[fate]int)
		for _, hs := range hs {
			for _, h := range hs {
				fates[h.fate()]++
			}
		}
		return fates
	}
	total := make(map[fate]int)
	for _, size := range []int{1, 3, 1000} {
		for range 10 {
			synctest.Test(t, func(t *testing.T) {
				fates := stress(t, size, 0)
				require.Equal(t, dialers*dials, fates[fateAccepted]+fates[fateReset], "%v", fates)
				for f, n := range fates {
					total[f] += n
				}
			})
			synctest.Test(t, func(t *testing.T) {
				fates := stress(t, size, 1+rand.IntN(dialers*dials))
				require.Equal(t, dialers*dials, fates[fateAccepted]+fates[fateReset]+fates[fateRefused], "%v", fates)
				for f, n := range fates {
					total[f] += n
				}
			})
		}
	}
	t.Log(total)
	for _, f := range []fate{fateAccepted, fateReset, fateRefused} {
		require.Positive(t, total[f], "none was %s", f)
	}
}

// TestBacklogTurns has a peer with many connections in the queue, and others that come later.
// They are accepted in turns, and the later ones are answered although the first has filled the
// backlog.
func TestBacklogTurns(t *testing.T) {
	b := newBacklog(3)
	var hs []*fakeIncoming
	offer := func(from *turns) *fakeIncoming {
		h := newFakeIncoming()
		hs = append(hs, h)
		b.offer(h, from)
		return h
	}
	accept := func(want ...*fakeIncoming) {
		t.Helper()
		for _, h := range want {
			c, err := b.accept()
			require.NoError(t, err)
			require.Same(t, &h.conn, c.(*Conn).c)
			h.accepts.Add(1)
		}
	}
	var greedy, one, two turns
	g := []*fakeIncoming{offer(&greedy), offer(&greedy), offer(&greedy), offer(&greedy), offer(&greedy)}
	requireFates(t, g, fateAnswered, fateAnswered, fateAnswered, fateWaits, fateWaits)
	a, z := offer(&one), offer(&two)
	a2 := offer(&one)
	requireFates(t, []*fakeIncoming{a, z, a2}, fateAnswered, fateAnswered, fateWaits)
	accept(g[0], a, z, g[1], a2, g[2])
	// A peer that was away for long does not get more than its turn for that.
	z2, z3 := offer(&two), offer(&two)
	accept(z2, g[3], z3, g[4])
	require.Zero(t, b.waiting())
	require.True(t, b.close(resetAnswered))
	for _, h := range hs {
		require.Equal(t, fateAccepted, h.fate())
	}
}

// TestBacklogTurnsClosed closes a backlog of which more connections are answered than it has
// room for, as some came in between. None of the answered ones is refused.
func TestBacklogTurnsClosed(t *testing.T) {
	for _, how := range []closeMode{resetAnswered, drainAnswered} {
		b := newBacklog(2)
		var greedy, other turns
		var hs []*fakeIncoming
		for _, from := range []*turns{&greedy, &greedy, &greedy, &other, &other} {
			h := newFakeIncoming()
			hs = append(hs, h)
			b.offer(h, from)
		}
		// In the queue: greedy, other, greedy, other, greedy.
		requireFates(t, hs, fateAnswered, fateAnswered, fateWaits, fateAnswered, fateWaits)
		require.True(t, b.close(how))
		if how == resetAnswered {
			requireFates(t, hs, fateReset, fateReset, fateRefused, fateReset, fateRefused)
			continue
		}
		requireFates(t, hs, fateAnswered, fateAnswered, fateRefused, fateAnswered, fateRefused)
		for _, i := range []int{0, 3, 1} {
			c, err := b.accept()
			require.NoError(t, err)
			require.Same(t, &hs[i].conn, c.(*Conn).c)
			hs[i].accepts.Add(1)
		}
		requireFates(t, hs, fateAccepted, fateAccepted, fateRefused, fateAccepted, fateRefused)
	}
}
