package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

func listenOn(t *testing.T, network string) net.Listener {
	t.Helper()
	at := map[string]string{"ct": t.Name() + t.TempDir(), "tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")}
	ln, err := ctnet.Listen(network, at[network])
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// startRelay relays from in to out until the test ends.
func startRelay(t *testing.T, in, out net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		relay(ctx, in, func(ctx context.Context) (net.Conn, error) {
			return ctnet.DialContext(ctx, out.Addr().Network(), out.Addr().String())
		})
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// TestRelay sends a request of some size through each pair of networks, by either
// path, and an answer back after the request's end.
func TestRelay(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcde"), 200_000)
	want := sha256.Sum256(data)
	for _, from := range []string{"ct", "tcp", "unix"} {
		for _, to := range []string{"ct", "tcp", "unix"} {
			t.Run(from+" to "+to, func(t *testing.T) {
				in, out := listenOn(t, from), listenOn(t, to)
				startRelay(t, in, out)
				for _, path := range []ctnet.Path{ctnet.AnyPath, ctnet.Kernel} {
					if from == "ct" && path == ctnet.Kernel {
						continue
					}
					var server sync.WaitGroup
					server.Go(func() {
						c, err := out.Accept()
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						h := sha256.New()
						io.Copy(h, c)
						c.Write(h.Sum(nil))
					})
					d := ctnet.Dialer{Path: path}
					c, err := d.Dial(from, in.Addr().String())
					require.NoError(t, err)
					_, err = io.Copy(c, bytes.NewReader(data))
					require.NoError(t, err)
					require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
					got, err := io.ReadAll(c)
					require.NoError(t, err)
					require.Equal(t, want[:], got)
					require.NoError(t, c.Close())
					server.Wait()
				}
			})
		}
	}
}

// TestRelayReset passes on that a connection was cut off, and that nobody is there.
func TestRelayReset(t *testing.T) {
	in, out := listenOn(t, "ct"), listenOn(t, "tcp")
	startRelay(t, in, out)
	c, err := ctnet.Dial("ct", in.Addr().String())
	require.NoError(t, err)
	s, err := out.Accept()
	require.NoError(t, err)
	require.NoError(t, s.(interface{ SetLinger(int) error }).SetLinger(0))
	require.NoError(t, s.Close())
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	c.Close()

	require.NoError(t, out.Close())
	c, err = ctnet.Dial("ct", in.Addr().String())
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	c.Close()
}

func TestAddress(t *testing.T) {
	var a address
	require.NoError(t, a.Set("tcp:[::1]:80"))
	require.Equal(t, address{"tcp", "[::1]:80"}, a)
	require.Equal(t, "tcp:[::1]:80", a.String())
	require.Error(t, a.Set("nothing"))
}
