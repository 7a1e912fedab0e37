package stream

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/tap"
)

// TestCaptureRaw has bytes read through the descriptor, and answered before they are released.
func TestCaptureRaw(t *testing.T) {
	c, s := connectAlone(t)
	got := captureEnd(t, c)
	_, err := s.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	for range 2 {
		err = c.RawRead(func(fd uintptr) bool {
			_, err := syscall.Read(int(fd), make([]byte, 3))
			require.NoError(t, err)
			_, err = c.Write([]byte("answer"))
			require.NoError(t, err)
			return true
		})
		require.NoError(t, err)
	}
	require.NoError(t, c.RawControl(func(uintptr) {}))
	require.NoError(t, c.Close())
	have := got.take()
	require.Equal(t, "hello", string(have.received))
	require.Equal(t, "answeranswer", string(have.sent))
	require.Equal(t, []uint32{tap.Received, tap.Sent, tap.ReceivedFin, tap.SentFin, tap.Over}, have.order)
}
