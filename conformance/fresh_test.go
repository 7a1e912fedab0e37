package conformance

import (
	"net"
	"testing"
	"testing/synctest"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestFreshName listens on names that the listeners choose, and dials what they say.
func TestFreshName(t *testing.T) {
	inBoth(t, testFreshName)
	t.Run("in a bubble", func(t *testing.T) {
		a := harness.NewApp(t)
		synctest.Test(t, func(t *testing.T) { testFreshName(t, a, a) })
	})
}

func testFreshName(t *testing.T, server, client *ctnet.App) {
	lc, d := ctnet.ListenConfig{App: server}, ctnet.Dialer{App: client}
	seen := make(map[string]bool)
	for i := range 20 {
		ln, err := lc.Listen(t.Context(), "ct", []string{"", ":0"}[i%2])
		require.NoError(t, err)
		defer ln.Close()
		name := ln.Addr().String()
		require.Equal(t, "ct", ln.Addr().Network())
		_, _, err = net.SplitHostPort(name) // as programs do with a listener's address
		require.NoError(t, err)
		c, err := d.Dial(ln.Addr().Network(), name)
		require.NoError(t, err)
		defer c.Close()
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.Equal(t, name, c.RemoteAddr().String())
		for _, a := range []string{name, c.LocalAddr().String()} {
			require.False(t, seen[a], "%s is the address of two", a)
			seen[a] = true
		}
	}
	for _, to := range []string{"", ":0"} { // as on tcp: nobody is at port 0
		_, err := d.Dial("ct", to)
		require.Error(t, err)
	}
}
