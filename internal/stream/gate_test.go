package stream

import (
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/internal/wait"
	"github.com/stretchr/testify/require"
)

// A testGate is a gate with the halves of an End.
type testGate struct {
	gate
	halves [2]half
}

func newTestGate() *testGate {
	g := new(testGate)
	g.init(wait.InBubble())
	for kind := range g.halves {
		g.halves[kind].Init()
		g.halves[kind].waiters = &g.waiters[kind]
	}
	return g
}

// unlock is gate.unlock where no ending is due.
func (g *testGate) unlock(kind int) (last bool) {
	_, last = g.gate.unlock(kind)
	return last
}

func (g *testGate) lockKind(kind int) error { return g.lock(kind, &g.halves[kind].Deadline) }

func (g *testGate) setDeadline(kind int, t time.Time) {
	g.halves[kind].Set(t, &g.halves[kind])
}

// shut closes the gate as Conn.Close does.
func (g *testGate) shut() (last bool) {
	if !g.close() {
		return false
	}
	for kind := range g.halves {
		g.halves[kind].Expired()
		g.halves[kind].Stop()
	}
	return g.leave()
}

func TestGateStates(t *testing.T) {
	g := newTestGate()
	require.True(t, g.enter())
	require.False(t, g.leave())
	for _, kind := range []int{reading, writing} {
		require.NoError(t, g.lockKind(kind)) // they don't exclude each other
	}
	require.True(t, g.enter())
	require.False(t, g.unlock(reading))
	require.NoError(t, g.lockKind(reading))

	require.True(t, g.close())
	require.False(t, g.close())
	require.False(t, g.enter())
	for _, kind := range []int{reading, writing} {
		require.Equal(t, net.ErrClosed, g.lockKind(kind))
	}
	// Four are inside, one of them by close. leave returns true for the last one only.
	require.False(t, g.leave())
	require.False(t, g.unlock(writing))
	require.False(t, g.leave())
	require.True(t, g.unlock(reading))
	require.False(t, g.close())
	require.False(t, g.enter())
	require.Equal(t, net.ErrClosed, g.lockKind(reading))
}

// TestGatePeek has Close and a Read come while a Peek is under way. The memory stays
// until one of several goroutines that try has ended the view.
func TestGatePeek(t *testing.T) {
	g := newTestGate()
	require.NoError(t, g.lockKind(reading))
	require.False(t, g.shut())
	require.Equal(t, net.ErrClosed, g.lockKind(reading))
	require.False(t, g.endPeek())
	due, last := g.unlockPeeked()
	require.Zero(t, due)
	require.False(t, last)
	require.True(t, g.held())
	require.True(t, g.endPeek())
	require.False(t, g.endPeek())
	require.False(t, g.held())

	// While it is open, the next lock ends the view.
	g = newTestGate()
	require.NoError(t, g.lockKind(reading))
	g.unlockPeeked()
	require.NoError(t, g.lockKind(reading))
	require.False(t, g.endPeek())
	require.False(t, g.shut())
	require.True(t, g.unlock(reading))
}

// TestGatePostpone leaves an ending to a lock's holder, unless that has lent the lock.
func TestGatePostpone(t *testing.T) {
	g := newTestGate()
	require.False(t, g.postpone(writing, gateFin))
	require.NoError(t, g.lockKind(writing))
	require.True(t, g.postpone(writing, gateFin))
	require.False(t, g.postpone(reading, gateShut))
	require.EqualValues(t, gateFin, g.lend(writing))
	require.False(t, g.postpone(writing, gateFin))
	require.False(t, g.resume(writing))
	require.True(t, g.postpone(writing, gateFin))
	require.True(t, g.close())
	require.True(t, g.postpone(writing, gateShut))
	due, last := g.gate.unlock(writing)
	require.EqualValues(t, gateFin|gateShut, due)
	require.False(t, last)
	require.False(t, g.leave()) // the one that unlocked
	require.True(t, g.leave())  // the one that closed

	// The shutdown is the reader's as well, CloseWrite's end is not.
	g = newTestGate()
	require.NoError(t, g.lockKind(reading))
	require.NoError(t, g.lockKind(writing))
	require.True(t, g.postpone(writing, gateFin))
	require.True(t, g.postpone(reading, gateShut))
	due, _ = g.gate.unlock(reading)
	require.EqualValues(t, gateShut, due)
	require.False(t, g.leave())
	due, _ = g.gate.unlock(writing)
	require.EqualValues(t, gateFin, due)
}

func TestGateCloseEmpty(t *testing.T) {
	g := newTestGate()
	require.True(t, g.close())
	require.True(t, g.leave())
}

// TestGateOneLast has two goroutines and the one that closes use a gate at the
// same time: exactly one of them is the last, and no goroutine is inside after it.
func TestGateOneLast(t *testing.T) {
	for range 5000 {
		g := newTestGate()
		var lasts, inside atomic.Int32
		var gone atomic.Bool // the memory, so to speak
		var guarded [2]int   // by the locks: the race detector looks at it
		left := func(last bool) {
			if !last {
				return
			}
			lasts.Add(1)
			gone.Store(true)
			if n := inside.Load(); n != 0 {
				t.Errorf("%d are inside after the last", n)
			}
		}
		use := func() {
			inside.Add(1)
			runtime.Gosched()
			if gone.Load() {
				t.Error("inside after the last")
			}
			inside.Add(-1)
		}
		var wg sync.WaitGroup
		for i := range uint64(2) {
			rnd := rand.New(rand.NewPCG(i, rand.Uint64()))
			wg.Go(func() {
				for {
					if kind := rnd.IntN(3); kind < 2 {
						if err := g.lockKind(kind); err != nil {
							if err != net.ErrClosed {
								t.Errorf("lock: %v", err)
							}
							return
						}
						guarded[kind]++
						use()
						left(g.unlock(kind))
					} else {
						if !g.enter() {
							return
						}
						use()
						left(g.leave())
					}
				}
			})
		}
		var closes atomic.Int32
		for range 2 {
			wg.Go(func() {
				for range rand.IntN(20) {
					runtime.Gosched()
				}
				if !g.close() {
					return
				}
				closes.Add(1)
				use()
				for kind := range g.halves {
					g.halves[kind].Expired()
				}
				left(g.leave())
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, closes.Load())
		require.EqualValues(t, 1, lasts.Load())
	}
}

// TestGateEverybodyGetsTheLock is in a bubble, which fails if all goroutines wait.
func TestGateEverybodyGetsTheLock(t *testing.T) {
	for _, kind := range []int{reading, writing} {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGate()
			const n, turns = 20, 200
			var guarded int
			var busy atomic.Bool
			for i := range n {
				rnd := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
				go func() {
					for range turns {
						if err := g.lockKind(kind); err != nil {
							t.Errorf("lock: %v", err)
							return
						}
						if busy.Swap(true) {
							t.Error("two have the lock")
						}
						guarded++
						if rnd.IntN(2) == 0 {
							runtime.Gosched()
						}
						busy.Store(false)
						if g.unlock(kind) {
							t.Error("last, and not closed")
						}
					}
				}()
			}
			synctest.Wait()
			require.Equal(t, n*turns, guarded)
			require.True(t, g.shut())
		})
	}
}

// TestGateTurns lets many goroutines wait; each keeps the lock for a second.
func TestGateTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate()
		start := time.Now()
		const n = 100
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if err := g.lockKind(reading); err != nil {
					t.Errorf("lock: %v", err)
					return
				}
				time.Sleep(time.Second)
				g.unlock(reading)
			})
		}
		wg.Wait()
		require.Equal(t, n*time.Second, time.Since(start))
	})
}

// waitForLock starts n goroutines that ask for a lock that is held, and returns when they wait.
// Each sends its result and the time.
func waitForLock(g *testGate, kind, n int) <-chan lockResult {
	results := make(chan lockResult, n)
	for range n {
		go func() {
			err := g.lockKind(kind)
			results <- lockResult{err, time.Now()}
		}()
	}
	synctest.Wait()
	return results
}

type lockResult struct {
	err error
	at  time.Time
}

func TestGateDeadlineWhileWaiting(t *testing.T) {
	for _, kind := range []int{reading, writing} {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGate()
			start := time.Now()
			require.NoError(t, g.lockKind(kind))
			const n = 5
			results := waitForLock(g, kind, n)
			require.Empty(t, results)
			g.setDeadline(kind, start.Add(2*time.Hour))
			g.setDeadline(kind, start.Add(time.Hour))
			for range n {
				r := <-results
				require.Equal(t, os.ErrDeadlineExceeded, r.err)
				require.Equal(t, start.Add(time.Hour), r.at)
			}
			// A goroutine that comes now waits no longer than the others did.
			r := <-waitForLock(g, kind, 1)
			require.Equal(t, os.ErrDeadlineExceeded, r.err)
			require.Equal(t, time.Hour, time.Since(start))

			// The lock works as before.
			g.setDeadline(kind, time.Time{})
			results = waitForLock(g, kind, n)
			require.Empty(t, results)
			require.False(t, g.unlock(kind))
			for range n {
				require.NoError(t, (<-results).err)
				require.False(t, g.unlock(kind))
			}
			require.True(t, g.shut())
		})
	}
}

// TestGateDeadlineFreeLock locks a free lock after the deadline. That succeeds: the lock fails
// only for goroutines that wait, and the operation itself looks at its deadline.
func TestGateDeadlineFreeLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate()
		g.setDeadline(reading, time.Now().Add(-time.Second))
		require.NoError(t, g.lockKind(reading))
		for range 3 {
			r := <-waitForLock(g, reading, 1)
			require.Equal(t, os.ErrDeadlineExceeded, r.err)
		}
		require.False(t, g.unlock(reading))
		require.NoError(t, g.lockKind(reading))
		g.unlock(reading)
	})
}

// TestGateKinds waits for one lock, and locks the other one meanwhile.
func TestGateKinds(t *testing.T) {
	for _, kind := range []int{reading, writing} {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGate()
			other := reading + writing - kind
			require.NoError(t, g.lockKind(kind))
			results := waitForLock(g, kind, 2)
			for range 3 {
				require.NoError(t, g.lockKind(other))
				require.False(t, g.unlock(other))
			}
			synctest.Wait()
			require.Empty(t, results)
			g.unlock(kind)
			for range 2 {
				require.NoError(t, (<-results).err)
				g.unlock(kind)
			}
		})
	}
}

// TestGateDeadlineOfOneKind sets the deadline for reading, which has no effect on writing.
func TestGateDeadlineOfOneKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate()
		require.NoError(t, g.lockKind(reading))
		require.NoError(t, g.lockKind(writing))
		readers, writers := waitForLock(g, reading, 3), waitForLock(g, writing, 3)
		g.setDeadline(reading, time.Now().Add(-time.Second))
		for range 3 {
			require.Equal(t, os.ErrDeadlineExceeded, (<-readers).err)
		}
		synctest.Wait()
		require.Empty(t, writers)
		g.unlock(writing)
		for range 3 {
			require.NoError(t, (<-writers).err)
			g.unlock(writing)
		}
	})
}

func TestGateCloseWakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate()
		require.NoError(t, g.lockKind(reading))
		require.NoError(t, g.lockKind(writing))
		const n = 8
		readers, writers := waitForLock(g, reading, n), waitForLock(g, writing, n)
		require.Empty(t, readers)
		require.Empty(t, writers)
		require.False(t, g.shut())
		for range n {
			require.Equal(t, net.ErrClosed, (<-readers).err)
			require.Equal(t, net.ErrClosed, (<-writers).err)
		}
		require.False(t, g.unlock(reading))
		require.True(t, g.unlock(writing))
		require.Equal(t, net.ErrClosed, (<-waitForLock(g, reading, 1)).err)
	})
}

// TestGateCloseAndDeadline closes a gate in the moment in which the deadline passes and the holder
// leaves. The goroutines that wait return, for any of these reasons.
func TestGateCloseAndDeadline(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGate()
			at := time.Now().Add(time.Hour)
			require.NoError(t, g.lockKind(reading))
			var lasts atomic.Int32
			left := func(last bool) {
				if last {
					lasts.Add(1)
				}
			}
			for range 4 {
				go func() {
					switch err := g.lockKind(reading); err {
					case nil:
						left(g.unlock(reading))
					case net.ErrClosed, os.ErrDeadlineExceeded:
					default:
						t.Errorf("lock: %v", err)
					}
				}()
			}
			synctest.Wait()
			g.setDeadline(reading, at)
			go func() {
				time.Sleep(time.Until(at))
				left(g.shut())
			}()
			time.Sleep(time.Until(at))
			left(g.unlock(reading))
			synctest.Wait()
			require.EqualValues(t, 1, lasts.Load())
		})
	}
}
