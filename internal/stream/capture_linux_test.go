package stream

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/tap"
)

// TestCaptureRaw has bytes read through the descriptor.
func TestCaptureRaw(t *testing.T) {
	c, s := connectAlone(t)
	got := captureEnd(t, c)
	_, err := s.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	b := make([]byte, 3)
	for range 2 {
		err = c.RawRead(func(fd uintptr) bool {
			_, err := syscall.Read(int(fd), b)
			require.NoError(t, err)
			return true
		})
		require.NoError(t, err)
	}
	require.NoError(t, c.RawControl(func(uintptr) {}))
	require.NoError(t, c.Close())
	s2 := got.take()
	require.Equal(t, "hello", string(s2.received))
	require.Equal(t, []uint32{tap.Received, tap.ReceivedFin, tap.SentFin, tap.Over}, s2.order)
}
