package conformance

import (
	"net"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// pipe returns a function that makes connections from one application to
// another, or inside one if they are the same.
func pipe(t *testing.T, server, client *ctnet.App) nettest.MakePipe {
	name := t.Name()
	lc := ctnet.ListenConfig{App: server}
	ln, err := lc.Listen(t.Context(), "ct", name)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	d := ctnet.Dialer{App: client}
	return func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = d.Dial("ct", name); err != nil {
			return
		}
		if c2, err = ln.Accept(); err != nil {
			return
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	}
}

func TestConnInProcess(t *testing.T) {
	a := harness.NewApp(t)
	nettest.TestConn(t, pipe(t, a, a))
}

func TestConnTwoApps(t *testing.T) {
	nettest.TestConn(t, pipe(t, harness.NewApp(t), harness.NewApp(t)))
}
