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
				_, err = c.SyscallConn()
				require.NoError(t, err)

				c.c.cred = &other
				_, err = c.SyscallConn()
				if network == "tcp" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, syscall.EOPNOTSUPP)
				}
			})
		}
	}
}
