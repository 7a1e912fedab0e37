package conformance

import (
	"fmt"
	"net"
	"os"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestAbstractNames writes an abstract name in both ways that package net takes, with @ and with NUL,
// on both sides. The connections go through shared memory, and have the addresses that package net
// gives.
func TestAbstractNames(t *testing.T) {
	for i, listen := range []string{"@", "\x00"} {
		server, client := harness.NewApp(t), harness.NewApp(t)
		name := fmt.Sprintf("%s-%d-%d", t.Name(), os.Getpid(), i)
		ln, err := (&ctnet.ListenConfig{App: server}).Listen(t.Context(), "unix", listen+name)
		require.NoError(t, err)
		require.Equal(t, "@"+name, ln.Addr().String())
		for _, dial := range []string{"@", "\x00"} {
			for _, app := range []*ctnet.App{server, client} {
				accepted := accept(ln)
				c, err := (&ctnet.Dialer{App: app}).Dial("unix", dial+name)
				require.NoError(t, err)
				require.True(t, harness.IsCut(c))
				kernel, err := net.Dial("unix", dial+name)
				require.NoError(t, err)
				require.Equal(t, kernel.RemoteAddr(), c.RemoteAddr())
				require.Equal(t, kernel.LocalAddr(), c.LocalAddr())
				for _, c := range []net.Conn{c, kernel, <-accepted, <-accept(ln)} {
					require.NoError(t, c.Close())
				}
			}
		}
		require.NoError(t, ln.Close())
	}
}
