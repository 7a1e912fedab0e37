package conformance

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// kernelNetworks are the networks with a fallback, with an address to listen on.
func kernelNetworks(t *testing.T) map[string]string {
	networks := map[string]string{
		"tcp":  "127.0.0.1:0",
		"unix": filepath.Join(t.TempDir(), "s"),
	}
	if nettest.SupportsIPv6() {
		networks["tcp6"] = "[::1]:0"
	}
	return networks
}

// accept accepts a connection in the background, as some Dials need that.
func accept(ln net.Listener) <-chan net.Conn {
	ch := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			ch <- c
		}
		close(ch)
	}()
	return ch
}

func TestConnNetworks(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		for _, kind := range []string{"in process", "two apps", "fallback"} {
			t.Run(network+"/"+kind, func(t *testing.T) {
				t.Parallel()
				cut := kind != "fallback"
				server := harness.NewApp(t)
				client := server
				if kind == "two apps" {
					client = harness.NewApp(t)
				}
				own := address
				if network == "unix" {
					own += kind
				}
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), network, own)
				require.NoError(t, err)
				defer ln.Close()
				d := ctnet.Dialer{App: client, Path: ctnet.CutThrough} // however long it takes
				if !cut {
					d.Path = ctnet.Kernel
				}
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					if c1, err = d.Dial(network, ln.Addr().String()); err != nil {
						return
					}
					if c2, err = ln.Accept(); err != nil {
						return
					}
					if harness.IsCut(c1) != cut || harness.IsCut(c2) != cut {
						return nil, nil, nil, errors.New("the wrong path was taken")
					}
					return c1, c2, func() { c1.Close(); c2.Close() }, nil
				})
			})
		}
	}
}

// TestNetworkAddresses compares the addresses of connections with the kernel's.
func TestNetworkAddresses(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), network, address)
				require.NoError(t, err)
				defer ln.Close()
				d := ctnet.Dialer{App: client}
				k := ctnet.Dialer{App: client, Path: ctnet.Kernel}
				seen := make(map[string]bool)
				for i := range 30 {
					dialer := &d
					if i%3 == 0 {
						dialer = &k
					}
					c, err := dialer.Dial(network, ln.Addr().String())
					require.NoError(t, err)
					defer c.Close()
					s, err := ln.Accept()
					require.NoError(t, err)
					defer s.Close()
					require.Equal(t, dialer == &d, harness.IsCut(c))
					require.Equal(t, dialer == &d, harness.IsCut(s))
					for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr()} {
						require.IsType(t, ln.Addr(), a)
						require.Equal(t, ln.Addr().Network(), a.Network())
					}
					require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
					require.Equal(t, ln.Addr().String(), s.LocalAddr().String())
					require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
					if network != "unix" {
						require.False(t, seen[c.LocalAddr().String()], "two with the same addresses")
						seen[c.LocalAddr().String()] = true
						host, _, err := net.SplitHostPort(c.LocalAddr().String())
						require.NoError(t, err)
						require.True(t, net.ParseIP(host).IsLoopback())
					}
				}
			})
		})
	}
}

// TestWildcard dials a listener on all addresses by some of them, and by names.
func TestWildcard(t *testing.T) {
	for _, l := range []struct {
		network, host string
		dials         []string // network and host
	}{
		{"tcp", "", []string{"tcp 127.0.0.1", "tcp 127.1.2.3", "tcp ::1", "tcp localhost", "tcp4 localhost", "tcp6 ::1", "tcp ", "tcp 0.0.0.0", "tcp ::", "tcp ::ffff:127.0.0.1"}},
		{"tcp4", "", []string{"tcp 127.0.0.1", "tcp4 localhost", "tcp4 0.0.0.0"}},
		{"tcp6", "", []string{"tcp ::1", "tcp6 ::1"}},
		{"tcp", "localhost", []string{"tcp localhost"}},
	} {
		if l.network == "tcp6" && !nettest.SupportsIPv6() {
			continue
		}
		t.Run(l.network+" "+l.host, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), l.network, net.JoinHostPort(l.host, "0"))
				require.NoError(t, err)
				defer ln.Close()
				_, port, err := net.SplitHostPort(ln.Addr().String())
				require.NoError(t, err)
				d := ctnet.Dialer{App: client}
				for _, to := range l.dials {
					network, host, _ := strings.Cut(to, " ")
					if strings.HasPrefix(host, "::") && host != "::ffff:127.0.0.1" && !nettest.SupportsIPv6() {
						continue
					}
					c, err := d.Dial(network, net.JoinHostPort(host, port))
					require.NoError(t, err, to)
					s, err := ln.Accept()
					require.NoError(t, err)
					require.True(t, harness.IsCut(c) && harness.IsCut(s), "%s took the kernel's socket", to)
					require.Equal(t, c.RemoteAddr().String(), s.LocalAddr().String())
					require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
					c.Close()
					s.Close()
				}
				if l.network == "tcp4" {
					_, err := d.Dial("tcp6", net.JoinHostPort("::1", port))
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
				}
			})
		})
	}
}

// TestWildcardPorts has two listeners on all addresses.
func TestWildcardPorts(t *testing.T) {
	for network, host := range map[string]string{"tcp": "localhost", "tcp4": "localhost", "tcp6": "::1"} {
		if network == "tcp6" && !nettest.SupportsIPv6() {
			continue
		}
		inBoth(t, func(t *testing.T, server, client *ctnet.App) {
			lc := ctnet.ListenConfig{App: server}
			var lns [2]net.Listener
			for i := range lns {
				var err error
				lns[i], err = lc.Listen(t.Context(), network, ":0")
				require.NoError(t, err)
				defer lns[i].Close()
			}
			d := ctnet.Dialer{App: client}
			for _, ln := range lns {
				require.IsType(t, &ctnet.Listener{}, ln)
				_, port, err := net.SplitHostPort(ln.Addr().String())
				require.NoError(t, err)
				c, err := d.Dial(network, net.JoinHostPort(host, port))
				require.NoError(t, err)
				require.True(t, harness.IsCut(c))
				s, err := ln.Accept()
				require.NoError(t, err)
				require.Equal(t, c.RemoteAddr().String(), s.LocalAddr().String())
				c.Close()
				s.Close()
			}
		})
	}
}

// TestFallbackEnds closes the listener, and opens another one without ctnet: each Dial reaches the
// same listener as the kernel's connect.
func TestFallbackEnds(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				d := ctnet.Dialer{App: client}
				ln, err := lc.Listen(t.Context(), network, address)
				require.NoError(t, err)
				at := ln.Addr().String()
				dialed := func(cut bool, ln net.Listener) {
					t.Helper()
					accepted := accept(ln)
					c, err := d.Dial(network, at)
					require.NoError(t, err)
					s := <-accepted
					require.Equal(t, cut, harness.IsCut(c))
					require.Equal(t, cut, harness.IsCut(s))
					c.Close()
					s.Close()
				}
				for range 3 {
					dialed(true, ln)
					require.NoError(t, ln.Close())
					_, err = d.Dial(network, at)
					require.Error(t, err)

					plain, err := net.Listen(network, at)
					require.NoError(t, err)
					dialed(false, plain)
					dialed(false, plain)
					require.NoError(t, plain.Close())

					ln, err = lc.Listen(t.Context(), network, at)
					require.NoError(t, err)
				}
				dialed(true, ln)
				require.NoError(t, ln.Close())
			})
		})
	}
}

// TestAcceptFair makes connections of both kinds at once, more than are accepted: each kind gets
// its share.
func TestAcceptFair(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			server, client := harness.NewApp(t), harness.NewApp(t)
			lc := ctnet.ListenConfig{App: server}
			ln, err := lc.Listen(t.Context(), network, address)
			require.NoError(t, err)
			defer ln.Close()
			const each = 200
			for range each {
				for _, p := range []ctnet.Path{ctnet.CutThrough, ctnet.Kernel} {
					d := ctnet.Dialer{App: client, Path: p}
					c, err := d.Dial(network, ln.Addr().String())
					require.NoError(t, err)
					defer c.Close()
				}
			}
			var n [2]int
			for i := range 2 * each {
				c, err := ln.Accept()
				require.NoError(t, err)
				defer c.Close()
				if harness.IsCut(c) {
					n[0]++
				} else {
					n[1]++
				}
				// In turns, or at least one of the kernel's among nine if it is in time.
				if i == each {
					require.Greater(t, n[0], each/20)
					require.Greater(t, n[1], each/20)
				}
			}
			require.Equal(t, [2]int{each, each}, n)
		})
	}
}

// TestPaths forces one path or the other, at either end.
func TestPaths(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				for _, l := range []ctnet.Path{ctnet.AnyPath, ctnet.CutThrough, ctnet.Kernel} {
					lc := ctnet.ListenConfig{App: server, Path: l}
					ln, err := lc.Listen(t.Context(), network, address)
					require.NoError(t, err)
					_, own := ln.(*ctnet.Listener)
					require.Equal(t, l != ctnet.Kernel, own)
					for _, p := range []ctnet.Path{ctnet.AnyPath, ctnet.CutThrough, ctnet.Kernel} {
						d := ctnet.Dialer{App: client, Path: p}
						c, err := d.Dial(network, ln.Addr().String())
						if l == ctnet.Kernel && p == ctnet.CutThrough {
							require.ErrorIs(t, err, syscall.ECONNREFUSED)
							continue
						}
						require.NoError(t, err)
						require.Equal(t, l != ctnet.Kernel && p != ctnet.Kernel, harness.IsCut(c))
						if l == ctnet.CutThrough && p == ctnet.Kernel {
							// The kernel has accepted it; the listener doesn't want it.
							_, err := c.Read(make([]byte, 1))
							require.Error(t, err)
							c.Close()
							continue
						}
						s, err := ln.Accept()
						require.NoError(t, err)
						require.Equal(t, harness.IsCut(c), harness.IsCut(s))
						c.Close()
						s.Close()
					}
					require.NoError(t, ln.Close())
				}
			})
		})
	}
}

// TestKernelOptions sees that the options for the kernel reach it, and that a
// local address is kept.
func TestKernelOptions(t *testing.T) {
	var mu sync.Mutex
	called := make(map[string]int)
	control := func(who string) func(network, address string, c syscall.RawConn) error {
		return func(network, address string, c syscall.RawConn) error {
			mu.Lock()
			defer mu.Unlock()
			called[who]++
			return nil
		}
	}
	a := harness.NewApp(t)
	lc := ctnet.ListenConfig{App: a, Kernel: net.ListenConfig{Control: control("listen")}}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	require.Equal(t, 1, called["listen"])
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	for _, to := range []string{ln.Addr().String(), strings.Replace(ln.Addr().String(), "127.0.0.1", "localhost", 1)} {
		d := ctnet.Dialer{App: a, Kernel: net.Dialer{Control: control("dial"), LocalAddr: local}}
		c, err := d.Dial("tcp4", to)
		require.NoError(t, err)
		require.IsType(t, &net.TCPConn{}, c)
		s, err := ln.Accept()
		require.NoError(t, err)
		c.Close()
		s.Close()
		d.Kernel.LocalAddr = nil
		c, err = d.Dial("tcp4", to)
		require.NoError(t, err)
		require.True(t, harness.IsCut(c))
		c.Close()
		s, err = ln.Accept()
		require.NoError(t, err)
		s.Close()
	}
	require.Equal(t, 4, called["dial"]) // through shared memory too: it may forbid an address

	// A name at which there is no ctnet.
	plain, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	d := ctnet.Dialer{App: a, Kernel: net.Dialer{Control: control("name")}}
	_, port, _ := net.SplitHostPort(plain.Addr().String())
	c, err := d.Dial("tcp4", "localhost:"+port)
	require.NoError(t, err)
	c.Close()
	require.Equal(t, 1, called["name"])
}

// TestKernelErrors checks that Dial and Listen fail as with package net.
func TestKernelErrors(t *testing.T) {
	a := harness.NewApp(t)
	d := ctnet.Dialer{App: a}
	lc := ctnet.ListenConfig{App: a}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	taken := plain.Addr().String()
	_, err = lc.Listen(t.Context(), "tcp", taken)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	plain.Close()
	for _, c := range []struct{ network, address string }{
		{"tcp", taken},
		{"tcp", "127.0.0.1:99999"},
		{"tcp", "127.0.0.1"},
		{"tcp", "no port"},
		{"tcp6", "127.0.0.1:80"},
		{"unix", filepath.Join(t.TempDir(), "none")},
		{"unix", ""},
	} {
		_, err := d.Dial(c.network, c.address)
		_, want := net.Dial(c.network, c.address)
		require.Equal(t, want.Error(), err.Error())
		require.IsType(t, want, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.DialContext(ctx, "tcp", "127.0.0.1:80")
	require.ErrorIs(t, err, context.Canceled)
	d.Timeout = -time.Second
	_, err = d.Dial("tcp", "127.0.0.1:80")
	require.True(t, errors.Is(err, context.DeadlineExceeded) || opErrorOf(t, err).Timeout())
}

// TestNewListener adds the cut-through to listeners that were made elsewhere.
func TestNewListener(t *testing.T) {
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				inner, err := net.Listen(network, address)
				require.NoError(t, err)
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.NewListener(inner)
				require.NoError(t, err)
				require.Equal(t, inner.Addr(), ln.Addr())
				for _, p := range []ctnet.Path{ctnet.AnyPath, ctnet.Kernel} {
					d := ctnet.Dialer{App: client, Path: p}
					c, err := d.Dial(network, ln.Addr().String())
					require.NoError(t, err)
					require.Equal(t, p == ctnet.AnyPath, harness.IsCut(c))
					s, err := ln.Accept()
					require.NoError(t, err)
					_, err = io.WriteString(c, "hello")
					require.NoError(t, err)
					readString(t, s, "hello")
					c.Close()
					s.Close()
				}
				require.NoError(t, ln.Close())
				require.ErrorIs(t, inner.Close(), net.ErrClosed)
			})
		})
	}
	_, err := ctnet.NewListener(strangeListener{})
	var e net.UnknownNetworkError
	require.ErrorAs(t, err, &e)
}

type strangeListener struct{ net.Listener }

func (strangeListener) Addr() net.Addr { return &ctnet.Addr{} }

// TestKernelListenerClose closes a listener whose Accept waits, and one that has a
// connection of the kernel's that is not accepted.
func TestKernelListenerClose(t *testing.T) {
	before := runtime.NumGoroutine()
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	var closing sync.WaitGroup
	for network, address := range kernelNetworks(t) {
		closing.Go(func() {
			for _, waiting := range []bool{true, false} {
				lc := ctnet.ListenConfig{App: a}
				ln, err := lc.Listen(t.Context(), network, address)
				if !assert.NoError(t, err) {
					return
				}
				if waiting {
					accepted := accept(ln)
					assert.NoError(t, ln.Close())
					assert.Nil(t, <-accepted)
				} else {
					c, err := net.Dial(network, ln.Addr().String())
					if !assert.NoError(t, err) {
						return
					}
					assert.NoError(t, ln.Close())
					_, err = c.Read(make([]byte, 1))
					assert.Error(t, err)
					c.Close()
				}
				for err == nil { // one may have been handed over by the kernel
					var c net.Conn
					if c, err = ln.Accept(); err == nil {
						c.Close()
					}
				}
				if e := new(net.OpError); assert.ErrorAs(t, err, &e) {
					assert.Equal(t, net.ErrClosed, e.Err)
				}
				assert.ErrorIs(t, ln.Close(), net.ErrClosed)
			}
		})
	}
	closing.Wait()
	require.NoError(t, a.Close())
	harness.Eventually(t, func() bool { return runtime.NumGoroutine() <= before })
}

// TestKernelAcceptDeadline sets a deadline on a listener of both kinds.
func TestKernelAcceptDeadline(t *testing.T) {
	lc := ctnet.ListenConfig{App: harness.NewApp(t)}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	require.NoError(t, ln.(*ctnet.Listener).SetDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = ln.Accept()
	require.True(t, opErrorOf(t, err).Timeout())
	require.Equal(t, "tcp", opErrorOf(t, err).Net)
	require.NoError(t, ln.(*ctnet.Listener).SetDeadline(time.Time{}))
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	s, err := ln.Accept()
	require.NoError(t, err)
	s.Close()
}
