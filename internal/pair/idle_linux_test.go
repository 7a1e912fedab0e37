package pair

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIdleTimer starts and stops the timer while its mutex is locked: running and the deadline
// change together. If they did not, a start in between would be lost, and with it the end of the
// pair.
func TestIdleTimer(t *testing.T) {
	var deadline time.Time
	timer := idleTimer{setDeadline: func(t time.Time) error {
		deadline = t
		return nil
	}}
	for _, change := range []func(){
		func() { timer.start(time.Second, 7) },
		func() {
			after, uses := timer.stop()
			require.Equal(t, time.Second, after)
			require.EqualValues(t, 7, uses)
		},
	} {
		was := timer.running.Load() != 0
		timer.mu.Lock()
		var begun atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			begun.Store(true)
			change()
		}()
		for n := 0; n < 1000 || !begun.Load(); n++ {
			runtime.Gosched()
			require.Equal(t, was, timer.running.Load() != 0)
		}
		timer.mu.Unlock()
		<-done
		require.Equal(t, !was, timer.running.Load() != 0)
		require.Equal(t, !was, !deadline.IsZero())
	}
	timer.start(time.Second, 1)
	timer.start(time.Hour, 2)
	_, uses := timer.stop()
	require.EqualValues(t, 1, uses)
	// A longer timer, for slots in limbo, does not keep an idle pair.
	timer.start(time.Hour, 1)
	timer.start(time.Second, 2)
	require.WithinDuration(t, time.Now(), deadline, time.Minute)
	after, uses := timer.stop()
	require.Equal(t, time.Second, after)
	require.EqualValues(t, 2, uses)
}
