package ctnet

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRawOtherUser has a peer whose credentials the descriptor would not show: a program that asks
// for them must not take its own user for the peer. On network tcp nobody asks.
func TestRawOtherUser(t *testing.T) {
	own := *ownCred()
	for _, other := range []Cred{
		{PID: 1, UID: own.UID + 1, GID: own.GID},
		{PID: 1, UID: own.UID, GID: own.GID + 1},
	} {
		for network, address := range map[string]string{"ct": t.Name(), "unix": t.TempDir() + "/s", "tcp": "127.0.0.1:0"} {
			t.Run(network, func(t *testing.T) {
				a := newTestApp(t, AppConfig{})
				ln, err := (&ListenConfig{App: a}).Listen(t.Context(), network, address)
				require.NoError(t, err)
				dialed, err := (&Dialer{App: a}).Dial(network, ln.Addr().String())
				require.NoError(t, err)
				defer dialed.Close()
				c := dialed.(*Conn)
				raw, err := c.SyscallConn()
				require.NoError(t, err)
				require.NoError(t, raw.Control(func(uintptr) {}))

				c.c.cred = &Cred{PID: 1, UID: own.UID, GID: own.GID}
				require.NoError(t, raw.Control(func(uintptr) {}))

				c.c.cred = &other
				called := false
				err = raw.Control(func(uintptr) { called = true })
				require.Equal(t, network == "tcp", called)
				if called {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, syscall.EOPNOTSUPP)
				}
				// A pool finds out whether the connection is open.
				require.NoError(t, raw.Read(func(fd uintptr) bool {
					_, err = syscall.Read(int(fd), make([]byte, 1))
					return true
				}))
				require.Equal(t, syscall.EAGAIN, err)
			})
		}
	}
}
