package wait

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A testDeadline is a deadline that notes the times of calls of Expired.
type testDeadline struct {
	Deadline
	start time.Time
	mu    sync.Mutex
	told  []time.Duration // since the start
}

func newTestDeadline() *testDeadline { return &testDeadline{start: time.Now()} }

func (d *testDeadline) Expired() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, time.Since(d.start))
}

// takeTold returns the times of these calls since the last takeTold.
func (d *testDeadline) takeTold() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	told := d.told
	d.told = nil
	return told
}

// setTo sets the deadline to this long after the start.
func (d *testDeadline) setTo(at time.Duration) { d.Set(d.start.Add(at), d) }

func (d *testDeadline) clear() { d.Set(time.Time{}, d) }

// sleepTo waits until this long after the start, and until timers have run.
func (d *testDeadline) sleepTo(at time.Duration) {
	time.Sleep(at - time.Since(d.start))
	synctest.Wait()
}

// firesAt returns when the timer will fire; ok is false if it won't.
func (d *testDeadline) firesAt() (at time.Duration, ok bool) {
	d.Deadline.mu.Lock()
	defer d.Deadline.mu.Unlock()
	if d.alarm == nil {
		return 0, false
	}
	return d.fires.Sub(d.start), !d.fires.IsZero()
}

func (d *testDeadline) requireTimer(t *testing.T, want time.Duration) {
	t.Helper()
	at, ok := d.firesAt()
	require.True(t, ok, "there is no timer")
	require.Equal(t, want, at)
}

// requireTold requires that Expired was called at these times and at no other.
func (d *testDeadline) requireTold(t *testing.T, passed bool, at ...time.Duration) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Equal(t, passed, d.passed.Load())
	require.Equal(t, at, d.told)
}

// onDeadline runs a test with a new deadline in a bubble.
func onDeadline(t *testing.T, f func(t *testing.T, d *testDeadline)) {
	synctest.Test(t, func(t *testing.T) { f(t, newTestDeadline()) })
}

func TestDeadlinePast(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(-time.Second)
		d.requireTold(t, true, 0)
		_, ok := d.firesAt()
		require.False(t, ok)
		d.setTo(0) // now is past too
		d.requireTold(t, true, 0, 0)
		d.Set(time.Unix(1, 0), d) // what net/http uses
		d.requireTold(t, true, 0, 0, 0)
		d.sleepTo(time.Hour)
		d.requireTold(t, true, 0, 0, 0)
	})
}

func TestDeadlineFuture(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(time.Hour)
		d.sleepTo(time.Hour - 1)
		d.requireTold(t, false)
		d.sleepTo(time.Hour)
		d.requireTold(t, true, time.Hour)
		d.sleepTo(2 * time.Hour)
		d.requireTold(t, true, time.Hour)
		// And once more.
		d.setTo(3 * time.Hour)
		d.requireTold(t, false, time.Hour)
		d.sleepTo(3*time.Hour - 1)
		d.requireTold(t, false, time.Hour)
		d.sleepTo(4 * time.Hour)
		d.requireTold(t, true, time.Hour, 3*time.Hour)
	})
}

// TestDeadlineWallClock sets a time without a monotonic clock's reading, as a decoded time has.
func TestDeadlineWallClock(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.Set(d.start.Round(0).Add(time.Hour), d)
		d.sleepTo(time.Hour - 1)
		d.requireTold(t, false)
		d.sleepTo(time.Hour)
		d.requireTold(t, true, time.Hour)
	})
}

// TestDeadlineFarFuture sets a time that is further away than a Duration can be.
func TestDeadlineFarFuture(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.Set(d.start.AddDate(1000, 0, 0), d)
		d.sleepTo(100_000 * time.Hour)
		d.requireTold(t, false)
		d.setTo(100_001 * time.Hour)
		d.sleepTo(200_000 * time.Hour)
		d.requireTold(t, true, 100_001*time.Hour)
	})
}

func TestDeadlineZero(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.clear()
		_, ok := d.firesAt()
		require.False(t, ok)
		d.setTo(time.Hour)
		d.sleepTo(time.Hour / 2)
		d.clear()
		d.sleepTo(2 * time.Hour)
		d.requireTold(t, false)
		d.setTo(0)
		d.requireTold(t, true, 2*time.Hour)
		d.clear()
		d.requireTold(t, false, 2*time.Hour)
		d.setTo(3 * time.Hour)
		d.sleepTo(4 * time.Hour)
		d.requireTold(t, true, 2*time.Hour, 3*time.Hour)
	})
}

func TestDeadlineExtended(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(60 * time.Minute)
		for m := range 59 * time.Minute / time.Minute {
			d.sleepTo(m * time.Minute)
			d.setTo(m*time.Minute + time.Hour)
			d.requireTimer(t, time.Hour) // not moved
		}
		d.sleepTo(time.Hour)
		d.requireTold(t, false)
		d.requireTimer(t, 118*time.Minute)
		d.sleepTo(118*time.Minute - 1)
		d.requireTold(t, false)
		d.sleepTo(118 * time.Minute)
		d.requireTold(t, true, 118*time.Minute)
	})
}

func TestDeadlineShortened(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(3 * time.Hour)
		d.setTo(2 * time.Hour)
		d.requireTimer(t, 2*time.Hour)
		d.setTo(time.Hour)
		d.requireTimer(t, time.Hour)
		d.sleepTo(time.Hour - 1)
		d.requireTold(t, false)
		d.sleepTo(time.Hour)
		d.requireTold(t, true, time.Hour)
		d.sleepTo(4 * time.Hour)
		d.requireTold(t, true, time.Hour)
	})
}

// TestDeadlineTimerFromBefore sets a deadline that has passed, while the timer is still set for the
// last one.
func TestDeadlineTimerFromBefore(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(time.Hour)
		d.setTo(0)
		d.requireTold(t, true, 0)
		d.sleepTo(2 * time.Hour) // it fires, and nothing is new
		d.requireTold(t, true, 0)
		d.setTo(3 * time.Hour)
		d.setTo(0)
		d.setTo(4 * time.Hour)
		d.sleepTo(3 * time.Hour)
		d.requireTold(t, false, 0, 2*time.Hour)
		d.sleepTo(4 * time.Hour)
		d.requireTold(t, true, 0, 2*time.Hour, 4*time.Hour)
	})
}

// TestDeadlineLateTimer runs the function of a timer that has fired before the deadline was
// changed.
func TestDeadlineLateTimer(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(time.Hour)
		d.sleepTo(time.Hour)
		d.requireTold(t, true, time.Hour)

		d.setTo(3 * time.Hour)
		d.fire(d)
		d.requireTold(t, false, time.Hour)
		d.requireTimer(t, 3*time.Hour)

		d.setTo(2 * time.Hour) // the timer was moved, and is late again
		d.fire(d)
		d.requireTold(t, false, time.Hour)
		d.requireTimer(t, 2*time.Hour)

		d.clear()
		d.fire(d)
		d.requireTold(t, false, time.Hour)

		// The timer is still set, for 2 h.
		d.setTo(3 * time.Hour)
		d.sleepTo(3*time.Hour - 1)
		d.requireTold(t, false, time.Hour)
		d.sleepTo(3 * time.Hour)
		d.requireTold(t, true, time.Hour, 3*time.Hour)
		d.fire(d) // it has been told
		d.requireTold(t, true, time.Hour, 3*time.Hour)

		d.setTo(0)
		d.fire(d)
		d.sleepTo(5 * time.Hour)
		d.requireTold(t, true, time.Hour, 3*time.Hour, 3*time.Hour)
	})
}

// TestDeadlineMeetsTimer sets another deadline in the moment in which the timer fires.
func TestDeadlineMeetsTimer(t *testing.T) {
	const at = time.Hour
	for _, next := range []struct {
		name string
		set  func(d *testDeadline)
		then func(t *testing.T, d *testDeadline)
	}{
		{"cleared", (*testDeadline).clear, func(t *testing.T, d *testDeadline) {
			require.False(t, d.passed.Load())
			d.sleepTo(3 * time.Hour)
			require.False(t, d.passed.Load())
			require.LessOrEqual(t, len(d.takeTold()), 1)
		}},
		{"extended", func(d *testDeadline) { d.setTo(2 * at) }, func(t *testing.T, d *testDeadline) {
			require.False(t, d.passed.Load())
			d.sleepTo(2*at - 1)
			require.False(t, d.passed.Load())
			require.LessOrEqual(t, len(d.takeTold()), 1)
			d.sleepTo(2 * at)
			d.requireTold(t, true, 2*at)
		}},
		{"past", func(d *testDeadline) { d.setTo(0) }, func(t *testing.T, d *testDeadline) {
			require.True(t, d.passed.Load())
			told := d.takeTold()
			require.NotEmpty(t, told)
			require.LessOrEqual(t, len(told), 2)
			d.sleepTo(2 * at)
			d.requireTold(t, true)
		}},
		{"stopped", func(d *testDeadline) { d.Stop() }, func(t *testing.T, d *testDeadline) {
			told := d.takeTold()
			require.LessOrEqual(t, len(told), 1)
			require.Equal(t, len(told) == 1, d.passed.Load())
			d.sleepTo(2 * at)
			require.Empty(t, d.takeTold())
		}},
	} {
		t.Run(next.name, func(t *testing.T) {
			for range 200 {
				onDeadline(t, func(t *testing.T, d *testDeadline) {
					d.setTo(at)
					go func() {
						time.Sleep(at)
						next.set(d)
					}()
					d.sleepTo(at)
					next.then(t, d)
				})
			}
		})
	}
}

// TestDeadlineManySetters has goroutines set deadlines at random moments, until
// all set the same.
func TestDeadlineManySetters(t *testing.T) {
	for range 50 {
		onDeadline(t, func(t *testing.T, d *testDeadline) {
			const end = 200 * time.Second
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 50 {
						time.Sleep(time.Second * time.Duration(rand.IntN(3)))
						now := time.Since(d.start)
						switch rand.IntN(4) {
						case 0:
							d.clear()
						default:
							d.setTo(now + time.Second*time.Duration(rand.IntN(5)-1))
						}
					}
					d.setTo(end)
				})
			}
			wg.Wait()
			synctest.Wait()
			require.False(t, d.passed.Load())
			require.NotEmpty(t, d.takeTold())
			d.sleepTo(end - 1)
			d.requireTold(t, false)
			d.sleepTo(end)
			d.requireTold(t, true, end)
		})
	}
}

// TestDeadlineModel sets deadlines at random, and compares with a model: the last time that was
// set.
func TestDeadlineModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		onDeadline(t, func(t *testing.T, d *testDeadline) {
			var at time.Duration // 0 is none
			var told []time.Duration
			for now := time.Duration(1); now < 100; now++ {
				// Deadlines are at whole minutes, and this is half past.
				half := now*time.Minute + 30*time.Second
				d.sleepTo(half)
				if at != 0 && at <= half && at > half-time.Minute {
					told = append(told, at)
				}
				d.requireTold(t, at != 0 && at <= half, told...)
				switch rnd.IntN(6) {
				case 0:
					at = 0
					d.clear()
				case 1:
					at = now * time.Minute
					told = append(told, half)
					d.setTo(at)
				case 2, 3:
					at = (now + 1 + time.Duration(rnd.IntN(10))) * time.Minute
					d.setTo(at)
				}
				d.requireTold(t, at != 0 && at <= half, told...)
			}
		})
	}
}

func TestDeadlineStop(t *testing.T) {
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.Stop() // without a timer
		d.Stop()
		d.setTo(time.Hour) // too late
		require.Nil(t, d.timer)
		d.sleepTo(2 * time.Hour)
		d.requireTold(t, false)
	})
	onDeadline(t, func(t *testing.T, d *testDeadline) {
		d.setTo(time.Hour)
		require.NotNil(t, d.timer)
		d.Stop()
		require.False(t, d.timer.Stop(), "the timer was not stopped")
		d.sleepTo(2 * time.Hour)
		d.fire(d) // as one that had fired before it was stopped
		d.requireTold(t, false)
	})
}
