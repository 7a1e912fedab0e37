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

// testSource returns a source and the peer's end of it. The peer's process does not end.
func testSource(t *testing.T, w *Worker, handle func(uint32)) (*Source, *Remote) {
	bell, fd, err := NewDoorbell()
	require.NoError(t, err)
	t.Cleanup(bell.Close)
	ringer, err := OpenRinger(fd)
	require.NoError(t, err)
	t.Cleanup(ringer.Close)
	s := &Source{Events: testBitmap(), Handle: handle, Bell: bell, Process: -1}
	full := make(chan struct{}, 1)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() { // as the reader of a control channel
		for n := uint64(1); ; n++ {
			select {
			case <-full:
				if !w.Empty(s, n) {
					t.Error("the peer rings too often")
				}
			case <-stop:
				return
			}
		}
	}()
	return s, &Remote{Events: s.Events, Sleep: w.polling.word, Bell: ringer, Full: func() { full <- struct{}{} }}
}

// post notifies a worker, and reports whether that rang.
func (r *Remote) post(slot uint32) (rang bool) {
	before := r.rung.Load()
	r.Notify(slot)
	return r.rung.Load() != before
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

func TestOpenRinger(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	bad := []int{-1, int(r.Fd()), int(w.Fd())}
	for _, kind := range [][2]int{{unix.AF_UNIX, unix.SOCK_SEQPACKET}, {unix.AF_UNIX, unix.SOCK_DGRAM}, {unix.AF_INET, unix.SOCK_STREAM}} {
		fd, err := unix.Socket(kind[0], kind[1]|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		bad = append(bad, fd)
	}
	eventfd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(eventfd)
	for _, fd := range append(bad, eventfd) {
		_, err := OpenRinger(fd)
		require.Error(t, err)
	}
}

// TestRingNeverBlocks has the other application do to the sockets of a doorbell whatever it can.
// A ring returns at once, and other peers are heard.
func TestRingNeverBlocks(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	got := make(chan uint32, 1)
	handle := func(s uint32) { got <- s }
	bad, badPeer := testSource(t, w, handle)
	good, goodPeer := testSource(t, w, handle)
	require.NoError(t, w.Add(bad))
	require.NoError(t, w.Add(good))
	full := 0
	badPeer.Full = func() { full++ }
	for name, harm := range map[string]func(){
		"blocking":          func() { unix.SetNonblock(badPeer.Bell.fd, false); unix.SetNonblock(bad.Bell.fd, false) },
		"small":             func() { unix.SetsockoptInt(badPeer.Bell.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 0) },
		"not to be read":    func() { unix.Shutdown(bad.Bell.fd, unix.SHUT_RD) },
		"not to be written": func() { unix.Shutdown(badPeer.Bell.fd, unix.SHUT_WR) },
	} {
		harm()
		var rings sync.WaitGroup
		rings.Go(func() {
			for range 1000 {
				badPeer.Bell.ring()
			}
		})
		rung := make(chan struct{})
		go func() {
			rings.Wait()
			close(rung)
		}()
		receive(t, rung)
		for n := range uint32(100) {
			asleep(t, w)
			goodPeer.Notify(n)
			require.Equal(t, n, receive(t, got), name)
		}
	}
	end(t, g, w, bad, good)
}

// TestRingsAreCounted has a peer ring more often than the worker sleeps, or say more often that
// the queue is full.
func TestRingsAreCounted(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, peer := testSource(t, w, func(uint32) {})
	require.NoError(t, w.Add(s))
	for n := range uint32(1000) {
		asleep(t, w)
		peer.Notify(n)
	}
	for peer.Bell.ring() { // as no honest peer does, until the queue is full
	}
	require.Eventually(t, func() bool { return w.Empty(s, 0) }, patience, time.Millisecond)
	for range 2000 {
		for peer.Bell.ring() {
		}
		if !w.Empty(s, 0) {
			require.False(t, w.Empty(s, 0))
			end(t, g, w, s)
			return
		}
	}
	t.Error("it rang without end")
}

// TestFullQueue has a peer ring so often that its doorbell's queue is full again and again. No
// ring is lost.
func TestFullQueue(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	got := make(chan uint32, 1)
	s, peer := testSource(t, w, func(n uint32) { got <- n })
	require.NoError(t, w.Add(s))
	full := 0
	empty := peer.Full
	peer.Full = func() {
		full++
		empty()
	}
	for n := range uint32(2000) {
		asleep(t, w)
		peer.Notify(n)
		require.Equal(t, n, receive(t, got))
	}
	require.Positive(t, full)
	require.Less(t, full, 200)
	end(t, g, w, s)
}

// TestProcessEnds makes the descriptor readable that stands for a peer's process.
func TestProcessEnds(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	for _, busy := range []bool{false, true} {
		s, peer := testSource(t, w, func(uint32) {})
		r, wr, err := os.Pipe()
		require.NoError(t, err)
		gone := make(chan struct{})
		s.Process, s.Gone = int(r.Fd()), sync.OnceFunc(func() { close(gone) })
		require.NoError(t, w.Add(s))
		var stop atomic.Bool
		var wg sync.WaitGroup
		if busy {
			wg.Go(func() {
				for n := uint32(0); !stop.Load(); n++ {
					peer.Notify(n % Slots)
				}
			})
		} else {
			asleep(t, w)
		}
		require.NoError(t, wr.Close())
		receive(t, gone)
		stop.Store(true)
		wg.Wait()
		end(t, g, w, s)
		r.Close()
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

// TestWorkInTurns has sources with much work and sources with little. Each pass calls Work once
// for each, and delivers events in between.
func TestWorkInTurns(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	var log strings.Builder
	done := make(chan struct{})
	var sources []*Source
	for i, left := range []int{5, 2, 1} {
		s, _ := testSource(t, w, func(uint32) { log.WriteByte(byte('0' + i)) })
		s.Work = func() bool {
			log.WriteByte(byte('a' + i))
			s.Events.Set(1)
			if left--; left == 0 && i == 0 {
				s.Handle = func(uint32) { close(done) }
			}
			return left > 0
		}
		sources = append(sources, s)
	}
	first := sources[0].Work
	begun, resume := make(chan struct{}), make(chan struct{})
	sources[0].Work = func() bool { // so that all are scheduled in the next pass
		close(begun)
		<-resume
		sources[0].Work = first
		return true
	}
	for _, s := range sources {
		require.NoError(t, w.Add(s))
	}
	w.Schedule(sources[0])
	<-begun
	for range 2 {
		w.Schedule(sources[1])
		w.Schedule(sources[2])
	}
	close(resume)
	receive(t, done)
	end(t, g, w, sources...)
	require.Equal(t, "bca012ba01a0a0a", log.String())
}

// TestCutComesAfterEvents ends sources whose peers have set bits before.
func TestCutComesAfterEvents(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	for range 100 {
		events := 0
		s, peer := testSource(t, w, func(uint32) { events++ })
		entered, resume, result := make(chan struct{}), make(chan struct{}), make(chan int, 1)
		s.Work = func() bool {
			close(entered)
			<-resume
			return false
		}
		s.Cut = func() bool {
			result <- events
			w.Remove(s)
			return false
		}
		require.NoError(t, w.Add(s))
		w.Schedule(s)
		receive(t, entered)
		for i := range uint32(5000) {
			peer.Notify(i * 13 % Slots)
		}
		w.End(s)
		close(resume)
		require.Equal(t, 5000, receive(t, result))
		w.Schedule(s) // which is nothing by now
	}
	end(t, g, w)
}

// TestCutDespiteEvents ends a source whose peer sets bits without end, and another one beside
// it, which has events too.
func TestCutDespiteEvents(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	cut := make(chan struct{}, 2)
	var sources []*Source
	for range 2 {
		var s *Source
		s, _ = testSource(t, w, func(slot uint32) { s.Events.Set((slot + 1) % Slots) }) // for ever
		for i := range uint32(2 * eventsPerPass) {
			s.Events.Set(i * 8)
		}
		s.Cut = func() bool {
			w.Remove(s)
			cut <- struct{}{}
			return false
		}
		require.NoError(t, w.Add(s))
		sources = append(sources, s)
	}
	w.End(sources[0])
	receive(t, cut)
	w.End(sources[1])
	receive(t, cut)
	end(t, g, w)
}

func TestScheduleWakesTheWorker(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, _ := testSource(t, w, func(uint32) {})
	done := make(chan struct{}, 1)
	s.Work = func() bool {
		done <- struct{}{}
		return false
	}
	require.NoError(t, w.Add(s))
	for range 2000 {
		w.Schedule(s)
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
	for n := range uint32(200) {
		a, peerA := testSource(t, w, func(s uint32) { got <- s })
		b, peerB := testSource(t, w, func(s uint32) { got <- s })
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
