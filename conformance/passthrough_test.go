package conformance

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// TestPacketNetworks sends packets on networks that ctnet leaves to package net.
func TestPacketNetworks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("package net has no unix packets there")
	}
	dir := t.TempDir()
	for network, address := range map[string]string{"udp": "127.0.0.1:0", "unixgram": dir + "/g"} {
		for name, listen := range map[string]func() (net.PacketConn, error){
			"function": func() (net.PacketConn, error) { return ctnet.ListenPacket(network, address) },
			"method": func() (net.PacketConn, error) {
				return new(ctnet.ListenConfig).ListenPacket(t.Context(), network, address)
			},
		} {
			t.Run(network+" "+name, func(t *testing.T) {
				in, err := listen()
				require.NoError(t, err)
				defer in.Close()
				out, err := ctnet.Dial(network, in.LocalAddr().String())
				require.NoError(t, err)
				defer out.Close()
				_, err = io.WriteString(out, "hello")
				require.NoError(t, err)
				in.SetReadDeadline(time.Now().Add(10 * time.Second))
				b := make([]byte, 10)
				n, _, err := in.ReadFrom(b)
				require.NoError(t, err)
				require.Equal(t, "hello", string(b[:n]))
			})
			os.Remove(dir + "/g")
		}
	}
	ln, err := ctnet.Listen("unixpacket", dir+"/p")
	if err == nil { // not all systems have it
		c, err := (&ctnet.Dialer{Timeout: time.Minute}).Dial("unixpacket", dir+"/p")
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		c.Close()
		s.Close()
		ln.Close()
	}
}

// TestOtherNetworks compares errors of networks that ctnet does not carry with those of package
// net. A program that demands the cut-through is told that there is none.
func TestOtherNetworks(t *testing.T) {
	t.Chdir(t.TempDir()) // where sockets are made whose addresses are no paths
	for _, network := range []string{"", "x", "tcp5", "udp", "udp5", "ip4:icmp5", "unixgram", "unixpacket", "ip"} {
		for _, address := range []string{"", "127.0.0.1", "no such:1:2", "/no/such/file"} {
			same := func(what string, want, got error) {
				t.Helper()
				require.Error(t, want, "%s %q %q", what, network, address)
				require.Error(t, got, "%s %q %q", what, network, address)
				require.Equal(t, want.Error(), got.Error())
				require.IsType(t, want, got)
			}
			if _, want := net.Dial(network, address); want != nil {
				_, got := ctnet.Dial(network, address)
				same("Dial", want, got)
			}
			if _, want := net.Listen(network, address); want != nil {
				_, got := ctnet.Listen(network, address)
				same("Listen", want, got)
			}
			if _, want := net.ListenPacket(network, address); want != nil {
				_, got := ctnet.ListenPacket(network, address)
				same("ListenPacket", want, got)
			}
		}
		_, err := (&ctnet.Dialer{Path: ctnet.CutThrough}).Dial(network, "127.0.0.1:9")
		require.ErrorIs(t, err, syscall.EPROTONOSUPPORT)
		lc := ctnet.ListenConfig{Path: ctnet.CutThrough}
		_, err = lc.Listen(context.Background(), network, "127.0.0.1:0")
		require.ErrorIs(t, err, syscall.EPROTONOSUPPORT)
		_, err = lc.ListenPacket(context.Background(), network, "127.0.0.1:0")
		require.ErrorIs(t, err, syscall.EPROTONOSUPPORT)
	}
	var e net.UnknownNetworkError
	_, err := ctnet.Dial("x", "y")
	require.ErrorAs(t, err, &e)
	require.EqualValues(t, "x", e)
}

// TestOptions sets what programs set on sockets, before and after Close, as on package net's.
func TestOptions(t *testing.T) {
	type socket interface {
		net.Conn
		SetNoDelay(bool) error
		SetKeepAlive(bool) error
		SetKeepAlivePeriod(time.Duration) error
		SetKeepAliveConfig(net.KeepAliveConfig) error
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
		SetLinger(int) error
		CloseRead() error
		CloseWrite() error
		MultipathTCP() (bool, error)
	}
	for name, p := range map[string]ctnet.Path{"ctnet": ctnet.CutThrough, "net": ctnet.Kernel} {
		t.Run(name, func(t *testing.T) {
			server, client := harness.NewApp(t), harness.NewApp(t)
			lc := ctnet.ListenConfig{App: server}
			ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			dialed, err := (&ctnet.Dialer{App: client, Path: p}).Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			accepted, err := ln.Accept()
			require.NoError(t, err)
			set := func(c socket, check func(err error)) {
				check(c.SetNoDelay(true))
				check(c.SetKeepAlive(true))
				check(c.SetKeepAlivePeriod(time.Minute))
				check(c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute}))
				check(c.SetReadBuffer(1 << 16))
				check(c.SetWriteBuffer(1 << 16))
				check(c.SetLinger(-1))
				multipath, err := c.MultipathTCP()
				require.False(t, multipath && p == ctnet.CutThrough)
				require.NoError(t, err)
			}
			for _, c := range []net.Conn{dialed, accepted} {
				set(c.(socket), func(err error) { require.NoError(t, err) })
				require.NoError(t, c.Close())
				set(c.(socket), func(err error) { require.ErrorIs(t, err, net.ErrClosed) })
			}
		})
	}
}

// TestListenerSyscallConn looks at a listener's socket. The cut-through goes on.
func TestListenerSyscallConn(t *testing.T) {
	server, client := harness.NewApp(t), harness.NewApp(t)
	for network, address := range kernelNetworks(t) {
		lc := ctnet.ListenConfig{App: server, Path: ctnet.CutThrough}
		ln, err := lc.Listen(t.Context(), network, address)
		require.NoError(t, err)
		raw, err := ln.(syscall.Conn).SyscallConn()
		require.NoError(t, err)
		looked := false
		require.NoError(t, raw.Control(func(fd uintptr) { looked = true }))
		require.True(t, looked)
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		c, err := (&ctnet.Dialer{App: client, Path: ctnet.CutThrough}).Dial(network, ln.Addr().String())
		require.NoError(t, err)
		c.Close()
		(<-accepted).Close()
		require.NoError(t, ln.Close())
		require.ErrorIs(t, raw.Control(func(uintptr) { t.Error("called") }), net.ErrClosed)
	}
	ln := listenOn(t, ctnet.ListenConfig{App: server})
	_, err := ln.SyscallConn()
	require.ErrorIs(t, err, syscall.EINVAL)
}

// TestUnlinkOnClose closes listeners with socket files that are to stay, or to be removed, and one
// without a file.
func TestUnlinkOnClose(t *testing.T) {
	for _, unlink := range []bool{true, false} {
		path := t.TempDir() + "/s"
		lc := ctnet.ListenConfig{App: harness.NewApp(t), Path: ctnet.CutThrough}
		ln, err := lc.Listen(t.Context(), "unix", path)
		require.NoError(t, err)
		ln.(*ctnet.Listener).SetUnlinkOnClose(unlink)
		require.NoError(t, ln.Close())
		_, err = os.Stat(path)
		require.Equal(t, unlink, os.IsNotExist(err))
	}
	listenOn(t, ctnet.ListenConfig{App: harness.NewApp(t)}).SetUnlinkOnClose(true)
}
