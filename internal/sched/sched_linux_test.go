package sched

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

func testBitmap() Bitmap {
	words := make([]uint64, BitmapSize/8)
	return NewBitmap(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), BitmapSize))
}

func testGroup() *Group {
	words := make([]atomic.Uint32, MaxWorkers)
	return NewGroup(func(i int) *atomic.Uint32 { return &words[i] })
}

func testBell(t *testing.T) *Doorbell {
	b, err := NewDoorbell()
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// testSource returns a source and the peer's end of it.
func testSource(t *testing.T, w *Worker, handle func(uint32)) (*Source, *Remote) {
	s := &Source{Events: testBitmap(), Handle: handle, Bell: testBell(t)}
	return s, &Remote{Events: s.Events, Sleep: w.polling.word, Bell: s.Bell}
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case v = <-c:
	case <-timeout.C:
		require.FailNow(t, "nothing was delivered")
	}
	return v
}

// end removes the sources of w, the only worker that runs, and waits until it is stopped.
func end(t *testing.T, g *Group, w *Worker, sources ...*Source) {
	t.Helper()
	for _, s := range sources {
		w.Remove(s)
	}
	ended := make(chan struct{})
	go func() {
		g.Wait()
		close(ended)
	}()
	receive(t, ended)
}

// asleep waits until w has announced a sleep.
func asleep(t *testing.T, w *Worker) {
	t.Helper()
	for start := time.Now(); w.polling.word.Load()&1 == 0; runtime.Gosched() {
		require.Less(t, time.Since(start), patience)
	}
}

func taken(b Bitmap, most int) (slots []uint32) {
	b.Take(0, most, func(s uint32) { slots = append(slots, s) })
	return slots
}

func TestBitmapTakesWhatWasSet(t *testing.T) {
	b := testBitmap()
	require.False(t, b.Pending())
	require.Empty(t, taken(b, Slots))
	want := []uint32{0, 1, 63, 64, 65, 4095, 4096, 4097, 8191, 32768, 65471, 65472, Slots - 1}
	for _, i := range rand.Perm(len(want)) {
		b.Set(want[i])
		b.Set(want[i])
	}
	require.True(t, b.Pending())
	require.Equal(t, want, taken(b, Slots))
	require.False(t, b.Pending())
	require.Empty(t, taken(b, Slots))
}

func TestBitmapEverySlot(t *testing.T) {
	b := testBitmap()
	for s := range uint32(Slots) {
		b.Set(s)
	}
	n := uint32(0)
	took, next := b.Take(0, Slots, func(s uint32) {
		if s != n {
			t.Errorf("took %d, not %d", s, n)
		}
		n++
	})
	require.Equal(t, Slots, took)
	require.Zero(t, next)
	require.False(t, b.Pending())
}

func TestBitmapTakeLeavesTheRest(t *testing.T) {
	for _, step := range []uint32{1, 64, 100, 4096} {
		b := testBitmap()
		want := map[uint32]bool{}
		for s := uint32(0); s < Slots; s += step {
			b.Set(s)
			want[s] = true
		}
		const most = 5
		for from := uint32(0); len(want) > 0; {
			require.True(t, b.Pending())
			n := 0
			var took int
			took, from = b.Take(from, most, func(s uint32) {
				if !want[s] {
					t.Errorf("slot %d was not set", s)
				}
				delete(want, s)
				n++
			})
			require.Equal(t, n, took)
			require.Positive(t, n)
			require.Less(t, n, most+64) // a leaf is taken as a whole
		}
		require.False(t, b.Pending())
	}
}

// TestBitmapTakeGoesRound has busy slots, whose bits are set again as soon as they are
// taken. A bit of another slot is taken nevertheless.
func TestBitmapTakeGoesRound(t *testing.T) {
	for _, quiet := range []uint32{0, 100, 4095, 4096, 40000, Slots - 1} {
		for _, busy := range []uint32{0, 4096, 30000, Slots - 1024} {
			b := testBitmap()
			for i := range uint32(1024) {
				b.Set(busy + i)
			}
			b.Set(quiet)
			found := false
			from := busy
			for range 2 * 1024 / 64 {
				_, from = b.Take(from, 1, func(s uint32) {
					found = found || s == quiet
					if busy <= s && s < busy+1024 {
						b.Set(s)
					}
				})
			}
			require.True(t, found, "slot %d was not taken beside %d and following", quiet, busy)
		}
	}
}

func TestBitmapBitsBeyondTheSlots(t *testing.T) {
	b := testBitmap()
	b.top.Store(^uint64(0)) // as a hostile peer could
	require.Empty(t, taken(b, Slots))
	require.False(t, b.Pending())
}

func TestBitmapConcurrentSettersLoseNothing(t *testing.T) {
	const setters, rounds = 8, 5000
	b := testBitmap()
	var answered [setters]atomic.Bool
	var slots [setters]atomic.Uint32
	owner := map[uint32]int{}
	var mu sync.Mutex
	stop := make(chan struct{})
	var wg, taker sync.WaitGroup
	taker.Go(func() {
		for from := uint32(0); ; {
			_, from = b.Take(from, 3, func(s uint32) {
				mu.Lock()
				o, ok := owner[s]
				delete(owner, s)
				mu.Unlock()
				if ok && slots[o].Load() == s {
					answered[o].Store(true)
				}
			})
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	for i := range setters {
		wg.Go(func() {
			for n := range rounds {
				// Neighbours in a leaf, in a mid word and in the top.
				s := uint32(n%3)*4096*5 + uint32(n%7)*64 + uint32(i)
				slots[i].Store(s)
				mu.Lock()
				owner[s] = i
				mu.Unlock()
				b.Set(s)
				for start := time.Now(); !answered[i].Load(); runtime.Gosched() {
					if time.Since(start) > patience {
						t.Errorf("slot %d was lost", s)
						return
					}
				}
				answered[i].Store(false)
			}
		})
	}
	wg.Wait()
	close(stop)
	taker.Wait()
	require.False(t, b.Pending())
}

func TestOpenDoorbell(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	for _, f := range []*os.File{r, w} {
		_, err = OpenDoorbell(int(f.Fd()))
		require.Error(t, err)
	}
	_, err = OpenDoorbell(-1)
	require.Error(t, err)

	fd, err := unix.FcntlInt(uintptr(testBell(t).FD()), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	d, err := OpenDoorbell(fd)
	require.NoError(t, err)
	require.Equal(t, fd, d.FD())
	d.ring()
	d.Close()
}

func TestRingWakesWhateverTheCounter(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	got := make(chan uint32, 1)
	handle := func(s uint32) { got <- s }
	bad, badPeer := testSource(t, w, handle)
	good, goodPeer := testSource(t, w, handle)
	require.NoError(t, w.Add(bad))
	require.NoError(t, w.Add(good))
	buf := make([]byte, 8)
	notify := func(r *Remote, n uint32) {
		asleep(t, w)
		r.Notify(n)
		require.Equal(t, n, receive(t, got))
	}
	for n := range uint32(100) {
		notify(badPeer, n)
		notify(goodPeer, n)
	}
	// A counter as high as a write can make it, and an eventfd that is no longer
	// non-blocking.
	asleep(t, w)
	unix.Read(bad.Bell.fd, buf)
	most := ^uint64(0) - 1
	_, err := unix.Write(bad.Bell.fd, unsafe.Slice((*byte)(unsafe.Pointer(&most)), 8))
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(bad.Bell.fd, false))
	for n := range uint32(100) {
		notify(badPeer, n)
		notify(goodPeer, n)
	}
	// A peer that reads a counter to 0 does no harm to other peers.
	require.NoError(t, unix.SetNonblock(bad.Bell.fd, true))
	for n := range uint32(100) {
		asleep(t, w)
		unix.Read(bad.Bell.fd, buf)
		bad.Bell.ring()
		notify(goodPeer, n)
	}
	end(t, g, w, bad, good)
}

// TestRingThatBlocks has a doorbell on which a ring blocks: a full pipe. One goroutine
// hangs and no other, and no ring is lost.
func TestRingThatBlocks(t *testing.T) {
	var p [2]int
	require.NoError(t, unix.Pipe(p[:]))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_GETPIPE_SZ, 0)
	require.NoError(t, err)
	_, err = unix.Write(p[1], make([]byte, size))
	require.NoError(t, err)

	var sleep atomic.Uint32
	r := &Remote{Events: testBitmap(), Sleep: &sleep, Bell: &Doorbell{p[1]}}
	sleep.Store(1)
	go r.Notify(1)
	for start := time.Now(); r.rings.Load() != 1; runtime.Gosched() {
		require.Less(t, time.Since(start), patience)
	}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		for n := range uint32(100) {
			sleep.Store(3 + 2*n)
			r.Notify(2 + n)
		}
	}()
	receive(t, returned)
	require.Len(t, taken(r.Events, Slots), 101)

	buf := make([]byte, size)
	for left := size + 2*8; left > 0; { // the ring that hung, and one for all others
		n, err := unix.Read(p[0], buf)
		require.NoError(t, err)
		left -= n
	}
	for start := time.Now(); r.rings.Load() != 0; runtime.Gosched() {
		require.Less(t, time.Since(start), patience)
	}
}

func TestNoLostWakeUp(t *testing.T) { testNoLostWakeUp(t, 0) }

// TestNoLostWakeUpWithTakeover has goroutines take the worker over all the time, and so
// deliver the events for which bells have rung.
func TestNoLostWakeUpWithTakeover(t *testing.T) {
	testNoLostWakeUp(t, 1)
	testNoLostWakeUp(t, 3)
}

func testNoLostWakeUp(t *testing.T, pollers int) {
	for _, notifiers := range []int{1, 2, 8} {
		g := testGroup()
		w, _ := g.Next()
		got := make([]chan struct{}, notifiers)
		var sources []*Source
		var remotes []*Remote
		for i := range got {
			got[i] = make(chan struct{}, 1)
		}
		for range 2 {
			s, r := testSource(t, w, func(slot uint32) { got[slot%uint32(notifiers)] <- struct{}{} })
			require.NoError(t, w.Add(s))
			sources, remotes = append(sources, s), append(remotes, r)
		}
		var wg, polling sync.WaitGroup
		var stop atomic.Bool
		for range pollers {
			polling.Go(func() {
				for !stop.Load() {
					if w.takeOver() {
						w.deliver()
						w.giveBack(0)
					}
					runtime.Gosched()
				}
			})
		}
		for i := range notifiers {
			wg.Go(func() {
				timeout := time.NewTimer(2 * patience)
				defer timeout.Stop()
				for n := range 20000 / notifiers {
					slot := uint32((n*notifiers*64 + i) % Slots)
					slot -= slot%uint32(notifiers) - uint32(i)
					remotes[n/100%2].Notify(slot)
					select {
					case <-got[i]:
					case <-timeout.C:
						t.Errorf("event %d of notifier %d was lost", n, i)
						return
					}
				}
			})
		}
		wg.Wait()
		stop.Store(true)
		polling.Wait()
		end(t, g, w, sources...)
	}
}

// logged has a worker serve a source and make the calls that setup has queued before. Each
// call logs something and sets a bit; the event is logged as a | in the next pass. When the
// log ends with last it returns the log.
func logged(t *testing.T, last string, setup func(w *Worker, add func(string))) string {
	g := testGroup()
	w, _ := g.Next()
	var log strings.Builder
	n := 0
	done := make(chan struct{})
	var s *Source
	add := func(what string) {
		log.WriteString(what)
		s.Events.Set(1)
	}
	s, _ = testSource(t, w, func(uint32) {
		log.WriteString("|")
		if n++; strings.HasSuffix(log.String(), last) {
			close(done)
		}
	})
	setup(w, add)
	require.NoError(t, w.Add(s))
	receive(t, done)
	end(t, g, w, s)
	return log.String()
}

func TestConnectsPerPass(t *testing.T) {
	got := logged(t, "z|", func(w *Worker, add func(string)) {
		for range 99 {
			w.Connect(func() { add("c") })
		}
		w.Connect(func() { add("z") })
	})
	c := strings.Repeat("c", 32)
	require.Equal(t, c+"|"+c+"|"+c+"|cccz|", got)
}

func TestCleanupsPerPass(t *testing.T) {
	got := logged(t, "z|", func(w *Worker, add func(string)) {
		left := 250
		w.Cleanup(func() bool {
			add("x")
			left--
			return left > 0
		})
		w.Cleanup(func() bool {
			add("z")
			return false
		})
	})
	x := strings.Repeat("x", 100)
	require.Equal(t, x+"|"+x+"|"+x[:50]+"z|", got)
}

func TestManyCleanupsPerPass(t *testing.T) {
	got := logged(t, "z|", func(w *Worker, add func(string)) {
		for range 149 {
			w.Cleanup(func() bool { add("x"); return false })
		}
		w.Cleanup(func() bool { add("z"); return false })
	})
	x := strings.Repeat("x", 100)
	require.Equal(t, x+"|"+x[:49]+"z|", got)
}

func TestCleanupComesAfterEvents(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	events := 0
	s, peer := testSource(t, w, func(uint32) { events++ })
	require.NoError(t, w.Add(s))
	for range 100 {
		entered, resume, result := make(chan struct{}), make(chan struct{}), make(chan int, 1)
		w.Connect(func() {
			events = 0
			close(entered)
			<-resume
		})
		receive(t, entered)
		for i := range uint32(500) {
			peer.Notify(i * 131)
		}
		w.Cleanup(func() bool { result <- events; return false })
		close(resume)
		require.Equal(t, 500, receive(t, result))
	}
	end(t, g, w, s)
}

func TestQueuedCallsWakeTheWorker(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, _ := testSource(t, w, func(uint32) {})
	require.NoError(t, w.Add(s))
	done := make(chan struct{}, 1)
	for range 2000 {
		w.Connect(func() { done <- struct{}{} })
		receive(t, done)
		w.Cleanup(func() bool { done <- struct{}{}; return false })
		receive(t, done)
	}
	end(t, g, w, s)
}

func TestWorkerEndsAndRestarts(t *testing.T) {
	g := testGroup()
	w, i := g.Next()
	require.Zero(t, i)
	g.Wait() // no worker runs yet
	got := make(chan uint32, 1)
	a, peerA := testSource(t, w, func(s uint32) { got <- s })
	b, peerB := testSource(t, w, func(s uint32) { got <- s })
	for n := range uint32(200) {
		require.NoError(t, w.Add(a))
		require.NoError(t, w.Add(b))
		peerA.Notify(n)
		require.Equal(t, n, receive(t, got))
		w.Remove(a)
		peerB.Notify(n)
		require.Equal(t, n, receive(t, got))
		end(t, g, w, b)
		require.Zero(t, w.polling.word.Load()&1)
	}
}

func TestNextGoesRound(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	g := testGroup()
	for n := range 9 {
		w, i := g.Next()
		require.Equal(t, n%3, i)
		require.Same(t, g.workers[i], w)
	}
}

func TestSpin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var s Spin
	looks := 0
	require.True(t, s.Until(nil, func() bool { looks++; return looks == 3 }))
	require.Equal(t, 3, looks)
	vain := func(skipped int) {
		t.Helper()
		looks = 0
		require.False(t, s.Until(nil, func() bool { looks++; return false }))
		require.Positive(t, looks)
		for range skipped {
			require.False(t, s.Until(nil, func() bool { t.Error("not skipped"); return true }))
		}
	}
	for _, skipped := range []int{1, 2, 4, 8, 16, 32, 32} {
		vain(skipped)
	}
	require.True(t, s.Until(nil, func() bool { return true }))
	vain(1)
	require.True(t, s.Until(nil, func() bool { return true }))
	require.True(t, s.Until(nil, func() bool { return true }))
	require.Zero(t, spinners.Load())
}

// TestSpinMustPay gives the answer so late that sleeping would have cost no more.
func TestSpinMustPay(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var s Spin
	var start time.Time
	looks, late := 0, false
	s.Until(nil, func() bool {
		if looks++; looks == fastLooks+1 {
			start = time.Now()
		}
		was := late
		late = looks > fastLooks && time.Since(start) > spinPays
		return was // one look later, when Until has looked at the clock, too
	})
	require.False(t, s.Until(nil, func() bool { t.Error("spins again"); return true }))
	require.True(t, s.Until(nil, func() bool { return true }))
}

// TestYield lets a goroutine that is ready on the same P give the answer.
func TestYield(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	answered := 0
	for range 100 {
		var answer atomic.Bool
		done := make(chan struct{})
		go func() {
			answer.Store(true)
			close(done)
		}()
		if Yield(answer.Load) {
			answered++
		}
		<-done
	}
	require.Greater(t, answered, 50) // now and then the runtime chooses another order
	require.False(t, Yield(func() bool { return false }))
}

// TestSpinYields lets the goroutine that gives the answer wait for the P on which the other
// goroutine spins.
func TestSpinYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var stop atomic.Bool
	busy := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // keeps the other P busy
		close(busy)
		for !stop.Load() {
		}
	})
	<-busy
	answered := 0
	for range 100 {
		var s Spin
		var answer atomic.Bool
		wg.Go(func() { answer.Store(true) })
		if s.Until(nil, answer.Load) {
			answered++
		}
	}
	stop.Store(true)
	wg.Wait()
	require.Greater(t, answered, 50) // the system may cut a spin short
}

// TestSpinOnTheOnlyP has a process with a single P: one goroutine at a time spins, and now
// and then it parks at once, so that the P is idle and the runtime polls the network.
func TestSpinOnTheOnlyP(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var s, other Spin
	for !s.Until(nil, func() bool {
		require.False(t, other.Until(nil, func() bool { t.Error("two spin"); return true }))
		return true
	}) {
	}
	parked := 0
	for range 4 * soleWaits {
		if !s.Until(nil, func() bool { return true }) {
			parked++
		}
	}
	require.Equal(t, 4, parked)
	require.Zero(t, spinners.Load())
}
