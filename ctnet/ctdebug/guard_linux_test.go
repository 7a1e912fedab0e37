package ctdebug

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/leakcheck"
)

// wantStatus is what a request over TCP from this process gets.
const wantStatus = http.StatusOK

const stranger = 12345

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
}

// giveTo makes a user the owner of a socket.
func giveTo(t *testing.T, c net.Conn, uid int) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	raw.Control(func(fd uintptr) { require.NoError(t, unix.Fchown(int(fd), uid, -1)) })
}

// TestTCPUser asks over TCP as this user and as another one, from the kernel's ports and from those that
// ctnet's connections have too.
func TestTCPUser(t *testing.T) {
	needRoot(t)
	leakcheck.Check(t)
	app := newApp(t)
	for _, connContext := range []func(context.Context, net.Conn) context.Context{nil, ConnContext} {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
			ln, err := net.Listen("tcp", address)
			require.NoError(t, err)
			s := httptest.NewUnstartedServer(Handler(app))
			s.Listener.Close()
			s.Listener = ln
			s.Config.ConnContext = connContext
			s.Start()
			_, port, err := net.SplitHostPort(ln.Addr().String())
			require.NoError(t, err)
			host := "127.0.0.1"
			if address == "[::1]:0" {
				host = "::1"
			}
			for _, local := range []*net.TCPAddr{nil, {IP: net.ParseIP(host), Port: 1023}, {IP: net.ParseIP(host), Port: 20023}} {
				for uid, want := range map[int]int{0: 200, stranger: 403} {
					d := net.Dialer{}
					if local != nil {
						d.LocalAddr = local
						d.Control = reuse
					}
					for _, path := range []string{"/", "/snapshot"} {
						c, err := d.Dial("tcp", net.JoinHostPort(host, port))
						require.NoError(t, err)
						giveTo(t, c, uid)
						require.Equal(t, want, ask(t, c, path), "%v %v %v", address, local, uid)
						require.NoError(t, c.(*net.TCPConn).SetLinger(0)) // the port is free at once
						c.Close()
					}
				}
			}
			s.Close()
		}
	}
}

// request returns a request as a server has it from a connection with these addresses.
func request(local net.Addr, remote string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "localhost"
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
}

// TestCtnetUser asks over connections of ctnet that this user and others have: the one with both of the
// addresses counts, and if there were two with the same ones, both.
func TestCtnetUser(t *testing.T) {
	ct := listen(t, newApp(t), "svc/x").Addr()
	tcp := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3}
	conn := func(network, local, remote string, uid int) ctnet.ConnInfo {
		return ctnet.ConnInfo{Network: network, Local: local, Remote: remote, Peer: ctnet.Cred{UID: uid}}
	}
	own := os.Geteuid()
	g := &ownUser{look: func() ctnet.Snapshot {
		return ctnet.Snapshot{Connections: []ctnet.ConnInfo{
			conn("ct", "svc/x", "a:1", own),
			conn("ct", "svc/x", "a:2", stranger),
			conn("ct", "svc/y", "a:1", stranger),
			conn("ct", "svc/y", "a:3", own),
			conn("tcp", "svc/x", "a:1", stranger),
			conn("tcp", "svc/x", "a:4", own),
			conn("tcp", "127.0.0.1:3", "127.0.0.1:20030", own),
			conn("tcp", "127.0.0.1:3", "127.0.0.1:20031", stranger),
			conn("tcp", "127.0.0.1:3", "127.0.0.1:20032", own),
			conn("tcp", "127.0.0.1:3", "127.0.0.1:20032", stranger),
			conn("tcp", "127.0.0.1:4", "127.0.0.1:20033", own),
		}}
	}}
	for remote, pass := range map[string]bool{"a:1": true, "a:2": false, "a:3": false, "a:4": false} {
		require.Equal(t, pass, g.refuse(request(ct, remote)) == "", remote)
	}
	for remote, pass := range map[string]bool{"127.0.0.1:20030": true, "127.0.0.1:20031": false, "127.0.0.1:20032": false, "127.0.0.1:20033": false} {
		require.Equal(t, pass, g.refuse(request(tcp, remote)) == "", remote)
	}
}

// TestBothHaveIt has a connection of the kernel's with the addresses of one of ctnet's: whichever of them
// the request has come over, both users are to be trusted. Where ctnet can't have one no snapshot is taken.
func TestBothHaveIt(t *testing.T) {
	needRoot(t)
	leakcheck.Check(t)
	s := newServer(t, nil)
	for _, test := range []struct{ port, kernel, ctnet, looks int }{
		{0, 0, -1, 0},
		{0, stranger, -1, 0},
		{20024, 0, -1, 1},
		{20024, 0, 0, 1},
		{20024, 0, stranger, 1},
		{20024, stranger, 0, 0},
	} {
		d := net.Dialer{Control: reuse, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: test.port}}
		c, err := d.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		giveTo(t, c, test.kernel)
		looks := 0
		g := &ownUser{look: func() (s ctnet.Snapshot) {
			looks++
			if test.ctnet >= 0 {
				s.Connections = []ctnet.ConnInfo{{Network: "tcp", Local: c.RemoteAddr().String(), Remote: c.LocalAddr().String(), Peer: ctnet.Cred{UID: test.ctnet}}}
			}
			return s
		}}
		pass := test.kernel == 0 && test.ctnet <= 0
		require.Eventually(t, func() bool {
			_, ok := hostnet.SocketUID(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
			return ok
		}, leakcheck.Patience, time.Millisecond)
		require.Equal(t, pass, g.refuse(request(c.RemoteAddr(), c.LocalAddr().String())) == "", test)
		require.Equal(t, test.looks, looks, test)
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		c.Close()
	}
}

// reuse lets a port be bound again that was used just now.
func reuse(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return err
}

// TestOthers asks in ways that hide who asks.
func TestOthers(t *testing.T) {
	leakcheck.Check(t)
	s := newServer(t, Handler(newApp(t)))
	resp, _ := get(t, s.URL, nil)
	require.Equal(t, 200, resp.StatusCode)
	for _, name := range proxyHeaders {
		resp, body := get(t, s.URL, func(r *http.Request) { r.Header.Set(name, "127.0.0.1") })
		require.Equal(t, 403, resp.StatusCode)
		require.Contains(t, body, name)
	}
	resp, body := get(t, s.URL, func(r *http.Request) { r.Host = "evil.example" })
	require.Equal(t, 403, resp.StatusCode)
	require.Contains(t, body, "localhost")

	h := Handler(newApp(t))
	for _, remote := range []string{"", "@", "127.0.0.1", "127.0.0.1:1", "[::1]:1"} {
		for _, local := range []net.Addr{nil, s.Listener.Addr(), &net.UnixAddr{Net: "unix", Name: "/x"}} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, request(local, remote))
			require.Equal(t, 403, w.Code, "%v %v", remote, local)
		}
	}
}

// TestUnixUser asks over unix sockets. Without ConnContext nobody gets an answer there.
func TestUnixUser(t *testing.T) {
	needRoot(t)
	leakcheck.Check(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	app := newApp(t)
	for _, connContext := range []func(context.Context, net.Conn) context.Context{nil, ConnContext} {
		for _, address := range []string{filepath.Join(dir, "s"), "@" + dir} {
			ln, err := net.Listen("unix", address)
			require.NoError(t, err)
			s := &http.Server{Handler: Handler(app), ConnContext: connContext}
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Serve(ln)
			}()
			if address[0] != '@' {
				require.NoError(t, os.Chmod(address, 0o777))
			}
			for uid, want := range map[int]int{0: 200, stranger: 403} {
				if connContext == nil {
					want = 403
				}
				var c net.Conn
				asuser.Do(t, uid, func() { c, err = net.Dial("unix", address) })
				require.NoError(t, err)
				require.Equal(t, want, ask(t, c, "/snapshot"))
				c.Close()
			}
			require.NoError(t, s.Close())
			<-done
		}
	}
}

// TestTLSUser asks over TLS, which hides the socket.
func TestTLSUser(t *testing.T) {
	needRoot(t)
	leakcheck.Check(t)
	s := httptest.NewUnstartedServer(Handler(newApp(t)))
	s.Config.ConnContext = ConnContext
	s.StartTLS()
	defer s.Close()
	for uid, want := range map[int]int{0: 200, stranger: 403} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		giveTo(t, c, uid)
		secured := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		require.Equal(t, want, ask(t, secured, "/"))
		secured.Close()
	}
}
