package ctnet

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFreshNameTaken has another application listen on the names that are chosen next.
func TestFreshNameTaken(t *testing.T) {
	a, squatter := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	take := func(ahead uint64) {
		name := (&Addr{app: a.a.id, number: a.a.number.Load() + ahead}).String()
		_, err := (&ListenConfig{App: squatter}).Listen(t.Context(), "ct", name)
		require.NoError(t, err)
	}
	take(1)
	take(2)
	ln, err := (&ListenConfig{App: a}).Listen(t.Context(), "ct", ":0")
	require.NoError(t, err)
	require.Equal(t, (&Addr{app: a.a.id, number: 3}).String(), ln.Addr().String())

	for i := range freshTries {
		take(uint64(i + 1))
	}
	_, err = (&ListenConfig{App: a}).Listen(t.Context(), "ct", "")
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}
