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

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/asuser"
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

// TestBothHaveIt has a connection of the kernel's with the addresses of one of ctnet's: whichever of them
// the request has come over, both users are to be trusted.
func TestBothHaveIt(t *testing.T) {
	needRoot(t)
	leakcheck.Check(t)
	app := newApp(t)
	s := newServer(t, Handler(app))
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 20024}}).Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = c.LocalAddr().String()
	r.Host = "localhost"
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.RemoteAddr()))
	g := &ownUser{app: app}
	require.Empty(t, g.refuse(r))
	giveTo(t, c, stranger)
	require.NotEmpty(t, g.refuse(r))
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
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
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = "localhost"
		r.RemoteAddr = remote
		for _, local := range []net.Addr{nil, s.Listener.Addr(), &net.UnixAddr{Net: "unix", Name: "/x"}} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
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
