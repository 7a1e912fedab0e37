package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// A way is a way to dial that cannot succeed, with ctnet and with package net.
type way struct {
	name   string
	cut    ctnet.Dialer
	kernel net.Dialer
	ctx    func(context.Context) (context.Context, context.CancelFunc)
}

func tooLate() []way {
	past := time.Now().Add(-time.Second)
	live := func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	return []way{
		{name: "canceled", ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}},
		{name: "deadline", ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, past)
		}},
		{name: "Timeout", ctx: live, cut: ctnet.Dialer{Timeout: -1}, kernel: net.Dialer{Timeout: -1}},
		{name: "Kernel.Timeout", ctx: live, cut: ctnet.Dialer{Kernel: net.Dialer{Timeout: -1}}, kernel: net.Dialer{Timeout: -1}},
		{name: "Kernel.Deadline", ctx: live, cut: ctnet.Dialer{Kernel: net.Dialer{Deadline: past}}, kernel: net.Dialer{Deadline: past}},
		{name: "a later Deadline too", ctx: live, cut: ctnet.Dialer{Timeout: -1, Kernel: net.Dialer{Deadline: past.Add(time.Hour)}},
			kernel: net.Dialer{Timeout: -1, Deadline: past.Add(time.Hour)}},
	}
}

// TestDialTooLate dials with a context that is done, and with timeouts and deadlines that
// have passed. None of these Dials connects, nor is it accepted, and the errors are those
// of package net.
func TestDialTooLate(t *testing.T) {
	networks := kernelNetworks(t)
	networks["ct"] = t.Name()
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), network, address)
				require.NoError(t, err)
				defer ln.Close()
				addresses := []string{ln.Addr().String()}
				if _, port, err := net.SplitHostPort(addresses[0]); err == nil && network == "tcp" {
					addresses = append(addresses, "localhost:"+port)
				}
				for _, at := range addresses {
					for _, w := range tooLate() {
						w.cut.App = client
						ctx, cancel := w.ctx(t.Context())
						_, err := w.cut.DialContext(ctx, network, at)
						kernelNetwork, kernelAt := network, at
						if network == "ct" { // as on any other
							kernelNetwork, kernelAt = "tcp", "127.0.0.1:1"
						}
						_, want := w.kernel.DialContext(ctx, kernelNetwork, kernelAt)
						cancel()
						require.Error(t, err, "%s to %s", w.name, at)
						got, net := opErrorOf(t, err), opErrorOf(t, want)
						require.Equal(t, "dial", got.Op)
						require.Equal(t, network, got.Net)
						// Of a name package net says either, with the lookup and without the address
						// or the other way round: that is a matter of luck.
						byName := strings.HasPrefix(at, "localhost")
						text := func(e error) string { return strings.TrimPrefix(e.Error(), "lookup localhost: ") }
						require.Equal(t, text(net.Err), text(got.Err), "%s to %s", w.name, at)
						require.Equal(t, net.Timeout(), got.Timeout(), "%s to %s", w.name, at)
						require.Equal(t, net.Temporary(), got.Temporary(), "%s to %s", w.name, at)
						for _, is := range []error{context.Canceled, context.DeadlineExceeded} {
							require.Equal(t, errors.Is(want, is), errors.Is(err, is), "%s to %s: %v", w.name, at, is)
						}
						if network != "ct" && (!byName || net.Addr != nil && got.Addr != nil) {
							require.IsType(t, net.Addr, got.Addr, "%s to %s", w.name, at)
						}
					}
				}
				// The first to be accepted is one that is in time.
				d := ctnet.Dialer{App: client}
				c, err := d.Dial(network, ln.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				writeString(t, c, "in time")
				s, err := ln.Accept()
				require.NoError(t, err)
				defer s.Close()
				readString(t, s, "in time")
			})
		})
	}
}

// TestTraceConnect has a tracer see a Dial through shared memory as one connect, which
// succeeds, to the address that was dialed.
func TestTraceConnect(t *testing.T) {
	networks := kernelNetworks(t)
	networks["tcp4"] = "127.0.0.1:0"
	networks["ct"] = t.Name()
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), network, address)
				require.NoError(t, err)
				defer ln.Close()
				dials := []string{ln.Addr().String()}
				if network == "tcp4" { // on tcp a name may stand for two addresses
					dials = append(dials, strings.Replace(dials[0], "127.0.0.1", "localhost", 1))
				}
				for _, at := range dials {
					var mu sync.Mutex
					var seen []string
					see := func(what, network, address string, err error) {
						mu.Lock()
						defer mu.Unlock()
						seen = append(seen, strings.Join([]string{what, network, address}, " "))
						require.NoError(t, err)
					}
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
						ConnectStart: func(network, address string) { see("start", network, address, nil) },
						ConnectDone:  func(network, address string, err error) { see("done", network, address, err) },
					})
					d := ctnet.Dialer{App: client}
					c, err := d.DialContext(ctx, network, at)
					require.NoError(t, err)
					require.True(t, harness.IsCut(c))
					s, err := ln.Accept()
					require.NoError(t, err)
					c.Close()
					s.Close()
					mu.Lock()
					to := network + " " + ln.Addr().String()
					require.Equal(t, []string{"start " + to, "done " + to}, seen)
					mu.Unlock()
				}
			})
		})
	}
}

// TestTLSGoodbye closes a TLS server and then its client, which sends its close_notify in a Write.
// The result is the same as on the kernel's socket.
func TestTLSGoodbye(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true}
	// goodbye returns the error of the client's Close.
	goodbye := func(t *testing.T, ln net.Listener, dial func() (net.Conn, error)) error {
		closed := make(chan error, 1)
		go func() {
			s, err := ln.Accept()
			if err == nil {
				c := tls.Server(s, config)
				_, err = io.WriteString(c, "bye")
				err = errors.Join(err, c.Close())
			}
			closed <- err
		}()
		conn, err := dial()
		require.NoError(t, err)
		c := tls.Client(conn, config)
		readString(t, c, "bye")
		_, err = c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, <-closed)
		return c.Close()
	}
	for network, address := range kernelNetworks(t) {
		t.Run(network, func(t *testing.T) {
			plain, err := net.Listen(network, address)
			require.NoError(t, err)
			defer plain.Close()
			want := goodbye(t, plain, func() (net.Conn, error) { return net.Dial(network, plain.Addr().String()) })
			require.Equal(t, network == "unix", errors.Is(want, syscall.EPIPE), "%v", want)
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server, Path: ctnet.CutThrough}
				d := ctnet.Dialer{App: client, Path: ctnet.CutThrough}
				at := address
				if network == "unix" {
					at += "cut"
				}
				ln, err := lc.Listen(t.Context(), network, at)
				require.NoError(t, err)
				defer ln.Close()
				err = goodbye(t, ln, func() (net.Conn, error) { return d.Dial(network, ln.Addr().String()) })
				if want == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, syscall.EPIPE)
				}
			})
		})
	}
}

// certificate makes a certificate for a test.
func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
