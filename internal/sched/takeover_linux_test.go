package sched

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSpinPollsForTheWorker has an event come while a goroutine spins and the worker
// sleeps: the peer need not ring, and the spinning goroutine delivers the event.
func TestSpinPollsForTheWorker(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	g := testGroup()
	w, _ := g.Next()
	got := make(chan uint32, 1)
	s, peer := testSource(t, w, func(slot uint32) { got <- slot })
	require.NoError(t, w.Add(s))

	start := time.Now()
	for seen := 0; seen < 20; {
		require.Less(t, time.Since(start), patience)
		asleep(t, w)
		spin := Spin{waits: takeOverWaits}
		set := false
		spin.Until(w, func() bool {
			if !set {
				w.mu.Lock()
				set = w.polling.takenOver && w.polling.worker == workerAsleep
				w.mu.Unlock()
				if set {
					require.False(t, peer.post(7), "is to ring")
				}
				return false
			}
			if len(got) == 0 {
				return false
			}
			seen++
			return true
		})
		if set { // otherwise the system has cut the spin short
			require.EqualValues(t, 7, receive(t, got))
		}
	}

	asleep(t, w)
	peer.Notify(8)
	require.EqualValues(t, 8, receive(t, got))
	end(t, g, w, s)
}

// TestOneTakeover has two goroutines take a worker over, and has one take over a worker
// that is stopped.
func TestOneTakeover(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	require.False(t, w.takeOver())
	s, _ := testSource(t, w, func(uint32) {})
	require.NoError(t, w.Add(s))
	asleep(t, w)
	require.True(t, w.takeOver())
	require.False(t, w.takeOver())
	require.Zero(t, w.polling.word.Load()&1)
	w.giveBack(0)
	asleep(t, w)
	require.True(t, w.takeOver())
	w.giveBack(0)
	end(t, g, w, s)
}

// TestNoTakeoverAfterAGap has a goroutine that polls for the worker stop looking for longer
// than is tolerable.
func TestNoTakeoverAfterAGap(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, _ := testSource(t, w, func(uint32) {})
	require.NoError(t, w.Add(s))
	require.True(t, w.takeOver())
	w.giveBack(tolerableGap)
	require.True(t, w.takeOver())
	left := time.Now()
	w.giveBack(tolerableGap + 1)
	for !w.takeOver() {
		require.Less(t, time.Since(left), patience)
		runtime.Gosched()
	}
	require.GreaterOrEqual(t, time.Since(left), gapPenalty*tolerableGap)
	w.giveBack(0)
	end(t, g, w, s)
}

// A slowPoller takes long to deliver.
type slowPoller struct{ maxGap time.Duration }

func (p *slowPoller) takeOver() bool { return true }

func (p *slowPoller) deliver() {
	for start := time.Now(); time.Since(start) < tolerableGap; {
	}
}

func (p *slowPoller) giveBack(maxGap time.Duration) { p.maxGap = maxGap }

func TestSpinReportsTheLongestGap(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var s Spin
	var p slowPoller
	for range takeOverWaits - 1 {
		s.Until(&p, func() bool { return false })
		s = Spin{waits: s.waits}
	}
	require.Zero(t, p.maxGap, "took over after few waits")
	s.Until(&p, func() bool { return false })
	require.GreaterOrEqual(t, p.maxGap, tolerableGap)
	require.Less(t, p.maxGap, patience)
}

// TestGiveBackLooksOnceMore posts an event, for which the peer need not ring, when the
// goroutine that polls for the worker has looked for the last time.
func TestGiveBackLooksOnceMore(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	got := make(chan uint32, 1)
	s, peer := testSource(t, w, func(slot uint32) { got <- slot })
	require.NoError(t, w.Add(s))
	for n := range uint32(1000) {
		asleep(t, w)
		require.True(t, w.takeOver())
		require.False(t, peer.post(n))
		w.giveBack(0)
		require.Equal(t, n, receive(t, got))
	}
	end(t, g, w, s)
}

// TestWorkIsTheWorkersOwn schedules work while a goroutine polls for the worker. The worker
// does it.
func TestWorkIsTheWorkersOwn(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, _ := testSource(t, w, func(uint32) {})
	done := make(chan struct{}, 1)
	s.Work = func() bool {
		done <- struct{}{}
		return false
	}
	require.NoError(t, w.Add(s))
	for range 100 {
		asleep(t, w)
		require.True(t, w.takeOver())
		w.Schedule(s)
		receive(t, done)
		w.giveBack(0)
	}
	end(t, g, w, s)
}

// TestRemoveWaitsForTheHandler removes a source while a goroutine that polls for the worker
// runs its handler. Remove waits for that, as its caller is going to unmap the memory.
func TestRemoveWaitsForTheHandler(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	entered, resume := make(chan struct{}), make(chan struct{})
	var left atomic.Bool
	s, peer := testSource(t, w, func(uint32) {
		close(entered)
		<-resume
		left.Store(true)
	})
	require.NoError(t, w.Add(s))
	asleep(t, w)
	require.True(t, w.takeOver())
	require.False(t, peer.post(1))
	posted, delivered := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(delivered)
		w.deliver()
		<-posted
		w.deliver() // the event at the removed source stays where it is
		w.giveBack(0)
	}()
	receive(t, entered)
	removed := make(chan bool, 1)
	go func() {
		w.Remove(s)
		removed <- left.Load()
	}()
	for range 1000 {
		runtime.Gosched()
		require.Empty(t, removed)
	}
	close(resume)
	require.True(t, receive(t, removed))
	peer.post(2) // if it were delivered, the handler would close a channel twice
	close(posted)
	receive(t, delivered)
	end(t, g, w)
}

// TestWaitForTakeover has the worker stop while a goroutine polls for it, which is going
// to write the sleep word once more.
func TestWaitForTakeover(t *testing.T) {
	g := testGroup()
	w, _ := g.Next()
	s, _ := testSource(t, w, func(uint32) {})
	require.NoError(t, w.Add(s))
	require.True(t, w.takeOver())
	w.Remove(s)
	for running := true; running; runtime.Gosched() {
		w.mu.Lock()
		running = w.polling.worker != workerStopped
		w.mu.Unlock()
	}
	var waited atomic.Bool
	go func() {
		g.Wait()
		waited.Store(true)
	}()
	for range 1000 {
		runtime.Gosched()
		require.False(t, waited.Load())
	}
	w.giveBack(0)
	for start := time.Now(); !waited.Load(); runtime.Gosched() {
		require.Less(t, time.Since(start), patience)
	}
}

// TestRingForNothing rings for an event that another goroutine delivers before the worker
// looks and parks. That ring must end the sleep, as the peer leaves out further rings for
// it. Otherwise the next event would lie in the bitmap while the worker sleeps.
func TestRingForNothing(t *testing.T) {
	e, err := newEpoll()
	require.NoError(t, err)
	defer e.close()
	var word atomic.Uint32
	w := &Worker{group: NewGroup(nil), polling: polling{word: &word, worker: workerAwake}, epoll: e}
	s, peer := testSource(t, w, func(uint32) {})
	require.NoError(t, e.add(s.Bell.fd, kindBell))
	w.sources.Store(&[]*Source{s})
	polled := newPolled(t)
	for range 500 {
		w.delivery.Lock() // the worker can't look yet
		woken := make(chan struct{})
		go func() {
			w.park(e)
			close(woken)
		}()
		asleep(t, w)
		peer.Notify(1)
		polled()
		require.Len(t, taken(s.Events, Slots), 1)
		w.delivery.Unlock()
		receive(t, woken)
	}
}

// newPolled returns a function that returns when the runtime has noticed all events that
// its network poller had before.
func newPolled(t *testing.T) func() {
	r, other, err := os.Pipe()
	require.NoError(t, err)
	read := make(chan error)
	go func() {
		defer close(read)
		for b := make([]byte, 1); ; {
			if _, err := r.Read(b); err != nil {
				return
			}
			read <- nil
		}
	}()
	t.Cleanup(func() {
		other.Close()
		receive(t, read)
		r.Close()
	})
	return func() {
		_, err := other.Write([]byte{0})
		require.NoError(t, err)
		receive(t, read)
	}
}

// TestPollingTransitions goes through polling's table. The sleep word changes only when it
// changes between odd and even, and each sleep has a number of its own.
func TestPollingTransitions(t *testing.T) {
	var word atomic.Uint32
	p := polling{word: &word}
	take := func() { require.True(t, p.takeOver()) }
	give := func() { p.giveBack(0) }
	state := func(s workerState) func() { return func() { p.setWorker(s) } }
	start, sleep, wake, stop := state(workerAwake), state(workerAsleep), state(workerAwake), state(workerStopped)
	require.False(t, p.takeOver(), "the worker is stopped")
	for i, step := range []struct {
		transition func()
		word       uint32
	}{
		{start, 0},
		{sleep, 1}, {take, 2}, {give, 3}, {wake, 4}, // taken over while it sleeps
		{take, 4}, {sleep, 4}, {give, 5}, {take, 6}, // while it goes to sleep
		{wake, 6}, {give, 6}, // and while it wakes
		{take, 6}, {stop, 6}, {give, 6}, // or stops
		{start, 6}, {take, 6}, {stop, 6}, {start, 6}, {sleep, 6}, {give, 7}, {wake, 8},
		{stop, 8},
	} {
		step.transition()
		require.Equal(t, step.word, word.Load(), "after transition %d", i)
		if p.takenOver {
			require.False(t, p.takeOver(), "it is taken over")
		}
	}
}
