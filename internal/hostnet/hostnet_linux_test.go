package hostnet

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/leakcheck"
)

// TestSocketFile identifies files, whatever their paths.
func TestSocketFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctnet")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	leakcheck.Check(t)
	_, err = SocketFile(dir + "/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = SocketFile(dir)
	require.Equal(t, syscall.ECONNREFUSED, err)
	ln, err := net.Listen("unix", dir+"/a")
	require.NoError(t, err)
	defer ln.Close()
	other, err := net.Listen("unix", dir+"/d")
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, os.Symlink(dir+"/a", dir+"/b"))
	require.NoError(t, os.Link(dir+"/a", dir+"/c"))
	a, err := SocketFile(dir + "/a")
	require.NoError(t, err)
	for _, same := range []string{"/b", "/c"} {
		b, err := SocketFile(dir + same)
		require.NoError(t, err)
		require.Equal(t, a, b)
	}
	d, err := SocketFile(dir + "/d")
	require.NoError(t, err)
	require.NotEqual(t, a, d)
	require.NoError(t, MayConnect(dir+"/a"))
	require.ErrorIs(t, MayConnect(dir+"/none"), os.ErrNotExist)
}

// TestListeners checks the functions about listeners.
func TestListeners(t *testing.T) {
	leakcheck.Check(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	pending := Pending(ln)
	require.False(t, pending())
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.True(t, pending())
	require.Nil(t, Pending(struct{ net.Listener }{ln}))

	f, err := ln.(*net.TCPListener).File()
	require.NoError(t, err)
	defer f.Close()
	fd := int(f.Fd()) // makes it blocking, for ln too
	KeepNonblocking(ln)()
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	require.Zero(t, errno)
	require.NotZero(t, flags&syscall.O_NONBLOCK)
}

// TestOnlyIPv6 listens on all addresses of IPv6, with IPv4 and without.
func TestOnlyIPv6(t *testing.T) {
	for network, want := range map[string]bool{"tcp": false, "tcp6": true} {
		ln, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Skip("no IPv6 here")
		}
		require.Equal(t, want, OnlyIPv6(ln), network)
		ln.Close()
	}
}

func TestIsHere(t *testing.T) {
	leakcheck.Check(t)
	for ip, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, "192.0.2.1": false, "2001:db8::1": false} {
		require.Equal(t, want, IsHere(netip.MustParseAddr(ip)), ip)
	}
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if ip = ip.Unmap(); !ip.IsLinkLocalUnicast() {
			require.True(t, IsHere(ip), "%v", ip)
		}
	}
}

func TestNamespace(t *testing.T) {
	a, ok := NetNamespace()
	require.True(t, ok)
	b, ok := LikelyNamespace()
	require.True(t, ok)
	require.Equal(t, a, b)
	require.True(t, IsAbstract("@x"))
	require.False(t, IsAbstract("x@"))
}

func TestPorts(t *testing.T) {
	require.Greater(t, NonEphemeralPorts().Count(), 1000)
	rs := Ports{{1024, 1025}, {60000, 60000}}
	require.Equal(t, 3, rs.Count())
	for i, want := range []uint32{1024, 1025, 60000} {
		require.Equal(t, want, rs.At(i))
		require.True(t, rs.Has(uint16(want)))
	}
	for _, port := range []uint16{0, 1023, 1026, 59999, 60001} {
		require.False(t, rs.Has(port), port)
	}
}

// TestOwner asks for the owners of listeners, in both ways.
func TestOwner(t *testing.T) {
	leakcheck.Check(t)
	own := os.Geteuid()
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp": ":0", "tcp6": "[::1]:0"} {
		uids := []int{own}
		if own == 0 {
			uids = []int{0, 12345}
		}
		for _, uid := range uids {
			var ln net.Listener
			var err error
			asuser.Do(t, uid, func() {
				syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0) // it makes the socket's owner
				ln, err = net.Listen(network, address)
			})
			require.NoError(t, err)
			port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
			ip := netip.MustParseAddr("127.0.0.1")
			if network == "tcp6" {
				ip = netip.IPv6Loopback()
			}
			addr := netip.AddrPortFrom(ip, port)
			got, ok := askOwner(addr)
			require.True(t, ok)
			require.Equal(t, uid, got)
			require.Equal(t, uid, readOwner(addr))
			require.False(t, Owns(uid+1, net.TCPAddrFromAddrPort(addr)))
			require.True(t, Owns(uid, net.TCPAddrFromAddrPort(addr)))
			connected, err := net.Dial("tcp", addr.String())
			require.NoError(t, err)
			accepted, err := ln.Accept()
			require.NoError(t, err)
			ln.Close()
			require.Equal(t, -1, readOwner(addr), "a connection at the port is no listener")
			connected.Close()
			accepted.Close()
			require.True(t, Owns(uid, net.TCPAddrFromAddrPort(addr)), "it is remembered")
			require.False(t, Owns(uid+1, net.TCPAddrFromAddrPort(addr)))
			_, ok = askOwner(addr)
			require.False(t, ok)
			require.Equal(t, -1, readOwner(addr))
		}
	}
	dir := t.TempDir()
	ln, err := net.Listen("unix", dir+"/s")
	require.NoError(t, err)
	defer ln.Close()
	require.True(t, Owns(own, ln.Addr()))
	require.False(t, Owns(own+1, ln.Addr()))
	for _, path := range []string{dir, dir + "/none", "@x"} {
		require.False(t, Owns(own, &net.UnixAddr{Name: path}))
	}
}
