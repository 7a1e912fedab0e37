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
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
)

// A network is one that the tests run on.
type network struct {
	name string
	kind string // what Listen and Dial get as the network

	// apart puts the servers into an application of their own, so that they
	// and their clients meet as separate processes do.
	apart bool

	// What is of package net in place of ctnet.
	netServer, netClient bool
}

var networks = []network{
	{name: "ct", kind: "ct"},
	{name: "ct-apart", kind: "ct", apart: true},
	{name: "tcp", kind: "tcp", apart: true},
	{name: "unix", kind: "unix", apart: true},
	{name: "tcp-from-net", kind: "tcp", netClient: true},
	{name: "tcp-to-net", kind: "tcp", netServer: true},
	{name: "net", kind: "tcp", netServer: true, netClient: true},
}

var lastName atomic.Int64

// address returns one to listen on.
func (n *network) address(t testing.TB) string {
	switch n.kind {
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
		ln, err = net.Listen(p.kind, address)
	} else {
		lc := ctnet.ListenConfig{App: p.app}
		ln, err = lc.Listen(t.Context(), p.kind, address)
	}
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })

	l := &listener{Listener: ln, place: p, host: "localhost"}
	switch {
	case p.kind != "tcp":
		network, address := p.kind, ln.Addr().String()
		l.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, network, address)
		}
	case p.netClient:
		l.dial = new(net.Dialer).DialContext
	default:
		l.dial = ctnet.DialContext
	}
	if p.kind == "tcp" {
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

// TestWay looks which way connections take. A listener that has not answered after
// a quarter of a second is passed over, so it may take another one.
func TestWay(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		want := !n.netServer && !n.netClient
		for attempt := 1; ; attempt++ {
			ln := n.listen(t)
			client := ln.connect(t)
			server, err := ln.Accept()
			require.NoError(t, err)
			defer server.Close()
			_, atClient := client.(*ctnet.Conn)
			_, atServer := server.(*ctnet.Conn)
			require.Equal(t, atClient, atServer)
			if atClient == want {
				return
			}
			require.Less(t, attempt, 5, "%T", client)
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

// acceptAll calls serve for each connection until the test ends. Then it closes the
// connections and waits until the calls have returned.
func acceptAll(t testing.TB, ln net.Listener, serve func(net.Conn)) {
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	var accepting, serving sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			serving.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
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

// checkLeaks fails a test that leaves anything behind.
func checkLeaks(t testing.TB) {
	t.Helper()
	warmUp()
	leakcheck.Check(t)
}

// warmUp has the runtime and the process's own application open what they keep.
var warmUp = sync.OnceFunc(func() {
	before := leakcheck.Now().Goroutines
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	check(err)
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
	app.Close()
	for end := time.Now().Add(leakcheck.Patience); leakcheck.Now().Goroutines > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			panic("goroutines are left")
		}
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
