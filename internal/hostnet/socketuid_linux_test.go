package hostnet

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/leakcheck"
)

// users are those that the tests can act as.
func users() []int {
	if os.Geteuid() != 0 {
		return []int{os.Geteuid()}
	}
	return []int{0, 12345}
}

// TestSocketUID asks who has made a connected socket, in both ways.
func TestSocketUID(t *testing.T) {
	leakcheck.Check(t)
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "tcp": ":0"} {
		ln, err := net.Listen(network, address)
		require.NoError(t, err)
		defer ln.Close()
		dialed := ln.Addr().String()
		if network == "tcp" {
			_, port, _ := net.SplitHostPort(dialed)
			dialed = "127.0.0.1:" + port
		}
		for _, uid := range users() {
			c, err := net.Dial("tcp", dialed)
			require.NoError(t, err)
			early, at := c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
			_, ok := SocketUID(early, at)
			require.False(t, ok, "nobody has accepted it, and the kernel gives it to root")
			s, err := ln.Accept()
			require.NoError(t, err)
			raw, err := c.(*net.TCPConn).SyscallConn()
			require.NoError(t, err)
			raw.Control(func(fd uintptr) { require.NoError(t, unix.Fchown(int(fd), uid, -1)) })

			// As the accepting end has the addresses.
			local := s.RemoteAddr().(*net.TCPAddr).AddrPort()
			remote := s.LocalAddr().(*net.TCPAddr).AddrPort()
			got, ok := SocketUID(local, remote)
			require.True(t, ok)
			require.Equal(t, uid, got)
			m, ok := askSocket(plain(local), plain(remote), tcpEstablished)
			require.True(t, ok)
			require.Equal(t, uid, int(m.uid))
			got, ok = readSocketUID(plain(local), plain(remote))
			require.True(t, ok)
			require.Equal(t, uid, got)

			port := netip.AddrPortFrom(remote.Addr(), remote.Port()+1)
			for _, none := range [][2]netip.AddrPort{
				{remote, port},  // the kernel answers with the listener
				{port, remote},  // the same
				{local, port},   // no socket
				{port, local},   // no socket
				{local, local},  // no socket
				{remote, local}, // this one is the accepting end
			} {
				got, ok = SocketUID(none[0], none[1])
				if accepting := none[0] == remote && none[1] == local; accepting {
					require.True(t, ok)
					require.Equal(t, os.Geteuid(), got)
				} else {
					require.False(t, ok, none)
				}
			}

			require.NoError(t, c.(*net.TCPConn).CloseWrite())
			_, ok = SocketUID(local, remote)
			require.False(t, ok)
			require.NoError(t, c.Close())
			_, ok = SocketUID(local, remote)
			require.False(t, ok)
			s.Close()
			_, ok = SocketUID(local, remote)
			require.False(t, ok)
		}
	}
	_, ok := SocketUID(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1"))
	require.False(t, ok)
}

// TestPeerUID asks who has connected a unix socket.
func TestPeerUID(t *testing.T) {
	leakcheck.Check(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	for _, address := range []string{filepath.Join(dir, "s"), "@" + dir} {
		ln, err := net.Listen("unix", address)
		require.NoError(t, err)
		defer ln.Close()
		for _, uid := range users() {
			var c net.Conn
			asuser.Do(t, uid, func() { c, err = net.Dial("unix", address) })
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			got, ok := PeerUID(s)
			require.True(t, ok)
			require.Equal(t, uid, got)
			c.Close()
			s.Close()
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, ok := PeerUID(c)
	require.False(t, ok)
	_, ok = PeerUID(struct{ net.Conn }{c})
	require.False(t, ok)
}
