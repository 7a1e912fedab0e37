package sched

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A testTrial is a trial of a program that gets so much done in each window.
type testTrial struct {
	trial
	t      *testing.T
	period int64
}

// at is a time in a window of this period.
func (p *testTrial) at(window int64) int64 {
	return (p.period*trialPeriod+window)*trialWindow + trialWindow/2
}

// run runs a period, in which the program gets so much done in each window of the trial, and little
// afterwards. It returns whether the program does not spin then.
func (p *testTrial) run(spin, none int) (off bool) {
	before := p.worse.Load()
	for window := range int64(trialWindows) {
		n := spin
		if window%2 == 1 {
			n = none
		}
		for range n {
			p.progress(p.at(window))
			require.Equal(p.t, window%2 == 1, p.off.Load(), window)
			require.Equal(p.t, before, p.worse.Load(), "decided too early")
		}
	}
	p.progress(p.at(trialWindows))
	off = p.off.Load()
	for window := int64(trialWindows); window < trialPeriod; window += 50 {
		p.progress(p.at(window))
		require.Equal(p.t, off, p.off.Load(), "not in a trial")
	}
	p.period++
	return off
}

func TestTrial(t *testing.T) {
	p := testTrial{t: t, period: 1 << 20}
	require.False(t, p.off.Load())
	p.progress(p.at(100)) // it begins amid a period
	require.False(t, p.off.Load())
	p.period++
	require.False(t, p.run(100, 40))
	require.False(t, p.run(100, 110), "no clear difference")
	require.True(t, p.run(100, 120))
	require.True(t, p.run(100, 105), "no clear difference")
	require.True(t, p.run(40, 100))
	require.False(t, p.run(105, 100))
	require.True(t, p.run(1, 4), "spinning keeps all from working")
	require.False(t, p.run(0, 3), "too little to tell")
	require.True(t, p.run(0, 4))
	require.False(t, p.run(0, 0), "it has little to do")
	require.True(t, p.run(10, 20))
	p.period++ // it does nothing in a trial
	p.progress(p.at(100))
	require.False(t, p.off.Load())
	require.True(t, p.run(10, 20))
	p.period++ // nor for the whole period
	require.False(t, p.run(20, 10))
}

// TestTrialOff makes sure that goroutines don't look when the trial says so.
func TestTrialOff(t *testing.T) {
	defer spinTrial.off.Store(false)
	looks := 0
	look := func() bool { looks++; return true }
	var s Spin
	require.True(t, s.Until(nil, look))
	require.Equal(t, 1, looks)
	spinTrial.off.Store(true)
	require.False(t, s.Until(nil, look))
	require.Equal(t, 1, looks)
	spinTrial.off.Store(false)
	require.True(t, s.Until(nil, look))
}
