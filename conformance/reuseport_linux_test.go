package conformance

import (
	"net"
	"syscall"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestReusePort has listeners share an address, of one application and of two. The
// last one gets the cut-through connections, and when it is closed Dials use the kernel's socket.
func TestReusePort(t *testing.T) {
	inBoth(t, func(t *testing.T, a, b *ctnet.App) {
		listen := func(app *ctnet.App, address string) net.Listener {
			lc := ctnet.ListenConfig{App: app, Kernel: net.ListenConfig{
				Control: func(network, address string, c syscall.RawConn) error {
					var err error
					c.Control(func(fd uintptr) {
						err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
					})
					return err
				},
			}}
			ln, err := lc.Listen(t.Context(), "tcp", address)
			require.NoError(t, err)
			return ln
		}
		first := listen(a, "127.0.0.1:0")
		defer first.Close()
		at := first.Addr().String()
		second := listen(b, at)
		for _, client := range []*ctnet.App{a, harness.NewApp(t)} {
			d := ctnet.Dialer{App: client}
			c, err := d.Dial("tcp", at)
			require.NoError(t, err)
			require.True(t, harness.IsCut(c))
			s, err := second.Accept()
			require.NoError(t, err)
			c.Close()
			s.Close()
		}
		require.NoError(t, second.Close())
		d := ctnet.Dialer{App: harness.NewApp(t)}
		c, err := d.Dial("tcp", at)
		require.NoError(t, err)
		require.False(t, harness.IsCut(c))
		s, err := first.Accept()
		require.NoError(t, err)
		c.Close()
		s.Close()
	})
}
