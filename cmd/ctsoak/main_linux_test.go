package main

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var long = flag.Duration("soak.time", 3*time.Second, "how long TestSoak goes on")

// TestMain plays the processes of a soak, too.
func TestMain(m *testing.M) {
	if playRole() {
		return
	}
	os.Exit(m.Run())
}

func TestSoak(t *testing.T) {
	var out bytes.Buffer
	ok, err := soak(options{time: *long, seed: 1, steady: 2, victims: 1, hostile: 1}, &out)
	t.Log(out.String())
	require.NoError(t, err)
	require.True(t, ok)
}

func TestLeastSquares(t *testing.T) {
	slope, deviation := leastSquares([]float64{0, 1, 2, 3}, []float64{5, 7, 9, 11})
	require.InDelta(t, 2, slope, 1e-9)
	require.InDelta(t, 0, deviation, 1e-9)
	slope, deviation = leastSquares([]float64{0, 1, 2, 3}, []float64{1, -1, 1, -1})
	require.InDelta(t, -0.4, slope, 1e-9)
	require.Greater(t, 4*deviation, 0.4)
	slope, _ = leastSquares([]float64{1}, []float64{1})
	require.Zero(t, slope)
}
