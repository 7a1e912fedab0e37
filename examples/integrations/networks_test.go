package integrations

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// A network is one that the tests run on.
type network struct {
	name    string
	network string // what Listen and Dial get

	// apart puts the servers into an application of their own, so that they
	// and their clients meet as separate processes do.
	apart bool

	// What is of package net in place of ctnet.
	netServer, netClient bool
}

var networks = []network{
	{name: "ct", network: "ct"},
	{name: "ct-apart", network: "ct", apart: true},
	{name: "tcp", network: "tcp", apart: true},
	{name: "unix", network: "unix", apart: true},
	{name: "tcp-from-net", network: "tcp", netClient: true},
	{name: "tcp-to-net", network: "tcp", netServer: true},
	{name: "net", network: "tcp", netServer: true, netClient: true},
}

var lastName atomic.Int64

// address returns one to listen on.
func (n *network) address(t testing.TB) string {
	switch n.network {
	case "ct":
		return fmt.Sprintf("%s-%d", t.Name(), lastName.Add(1))
	case "unix":
		dir, err := os.MkdirTemp("", "ctnet-") // t.TempDir can be too long
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		return filepath.Join(dir, "socket")
	}
	return "localhost:0"
}

// A place is where a test's servers listen.
type place struct {
	network
	app *ctnet.App
}

// eachNetwork runs a test on each network.
func eachNetwork(t *testing.T, test func(t *testing.T, n *place)) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			checkLeaks(t)
			p := &place{network: n}
			if n.apart && runtime.GOOS == "linux" { // elsewhere applications don't meet
				var err error
				p.app, err = ctnet.NewApp(ctnet.AppConfig{})
				require.NoError(t, err)
				t.Cleanup(func() { p.app.Close() })
			}
			test(t, p)
		})
	}
}

// A listener is one with what its clients need.
type listener struct {
	net.Listener
	place *place

	// host is what goes into the URLs of clients. On networks where addresses
	// don't fit into URLs it has no meaning.
	host string

	// dial is the dialer that is given to libraries. On tcp it is
	// ctnet.DialContext; elsewhere it dials to the listener whatever it is told.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// listen listens until the test ends.
func (p *place) listen(t testing.TB) *listener {
	t.Helper()
	return p.listenOn(t, p.address(t))
}

func (p *place) listenOn(t testing.TB, address string) *listener {
	t.Helper()
	var ln net.Listener
	var err error
	if p.netServer {
		ln, err = net.Listen(p.network.network, address)
	} else {
		lc := ctnet.ListenConfig{App: p.app}
		ln, err = lc.Listen(t.Context(), p.network.network, address)
	}
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })

	l := &listener{Listener: ln, place: p, host: "localhost"}
	switch {
	case p.network.network != "tcp":
		network, address := p.network.network, ln.Addr().String()
		l.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, network, address)
		}
	case p.netClient:
		l.dial = new(net.Dialer).DialContext
	default:
		l.dial = ctnet.DialContext
	}
	if p.network.network == "tcp" {
		l.host = fmt.Sprintf("localhost:%d", ln.Addr().(*net.TCPAddr).Port)
	}
	return l
}

// connect dials, and closes the connection when the test ends.
func (ln *listener) connect(t testing.TB) net.Conn {
	t.Helper()
	c, err := ln.dial(t.Context(), "tcp", ln.host)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestWay looks which way connections take.
func TestWay(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		client := ln.connect(t)
		server, err := ln.Accept()
		require.NoError(t, err)
		defer server.Close()
		for _, c := range []net.Conn{client, server} {
			_, ok := c.(*ctnet.Conn)
			require.Equal(t, !n.netServer && !n.netClient, ok, "%T", c)
		}
	})
}

// background runs a server until the test ends: then it stops it and waits until
// it has returned.
func background(t testing.TB, serve func() error, stop func() error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve()
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

// acceptAll calls serve for each connection until the test ends, and waits until
// the calls have returned. Those that have not then find their connection closed.
func acceptAll(t testing.TB, ln net.Listener, serve func(net.Conn)) {
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	var calls sync.WaitGroup
	background(t, func() error {
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			calls.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	}, func() error {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		calls.Wait()
		return nil
	})
}

// inParallel calls f n times and fails the test with the first error.
func inParallel(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	errs := make(chan error)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; first == nil {
			first = err
		}
	}
	require.NoError(t, first)
}

// random returns a stream of n bytes that the seed determines.
func random(seed string, n int) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(seed))), int64(n))
}

func randomBytes(seed string, n int) []byte {
	b := make([]byte, n)
	io.ReadFull(random(seed, n), b)
	return b
}

// sum reads r and returns its checksum, or the error.
func sum(r io.Reader) string {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

// checkSum returns an error if r is not what random returns.
func checkSum(r io.Reader, seed string, n int) error {
	if got, want := sum(r), sum(random(seed, n)); got != want {
		return fmt.Errorf("stream of %d bytes has checksum %s, want %s", n, got, want)
	}
	return nil
}

// certificate returns the configurations of a server called localhost and of a
// client that trusts it.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// checkLeaks fails a test at whose end there are more goroutines or file
// descriptors than there are now.
func checkLeaks(t testing.TB) {
	t.Helper()
	warmUp()
	goroutines, fds := runtime.NumGoroutine(), countFDs()
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines || countFDs() > fds; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines and %d descriptors before, %d and %d now\n%s", goroutines, fds,
					runtime.NumGoroutine(), countFDs(), stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// countFDs returns 0 where there is no such directory.
func countFDs() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// warmUp has the runtime and the process's own application open what they keep.
var warmUp = sync.OnceFunc(func() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	check(err)
	defer app.Close()
	const name = "warm-up"
	lc := ctnet.ListenConfig{App: app}
	_, err = lc.Listen(context.Background(), "ct", name)
	check(err)
	c, err := ctnet.Dial("ct", name)
	if err == nil {
		c.Close()
	} else if runtime.GOOS == "linux" {
		panic(err)
	}
})

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// TestMain gives the tests a directory of their own.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctnet-integrations-")
	check(err)
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}
