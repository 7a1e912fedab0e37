package conformance

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// Where a Dial arrives. A ctnet.Listener accepts the connections of both kinds, so the same listeners
// say what package net's Dial reaches and what ctnet's does.

// A listenSpec is a listener: a network and a host.
type listenSpec struct{ network, host string }

func (s listenSpec) String() string { return s.network + " " + s.host }

// A listening is listeners on one port, and the connections that they have accepted.
type listening struct {
	port     string
	accepted chan arrival
	close    func()
}

// An arrival is a connection at one of the listeners.
type arrival struct {
	at   string // the listener's spec
	conn net.Conn
}

// listenOnPort listens on all of the hosts, on one port that is free there. The listeners share the
// port as far as they overlap.
func listenOnPort(t testing.TB, server *ctnet.App, specs []listenSpec) *listening {
	lc := ctnet.ListenConfig{App: server, Kernel: net.ListenConfig{
		Control: func(network, address string, c syscall.RawConn) error {
			var err error
			c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			})
			return err
		},
	}}
	// The probe shows which port is free for all of them. Its port stays taken until they listen.
	probe, err := lc.Kernel.Listen(t.Context(), "tcp", ":0")
	require.NoError(t, err)
	defer probe.Close()
	_, port, err := net.SplitHostPort(probe.Addr().String())
	require.NoError(t, err)
	l := &listening{port: port, accepted: make(chan arrival, 16)}
	var wg sync.WaitGroup
	var all []net.Listener
	for _, s := range specs {
		ln, err := lc.Listen(t.Context(), s.network, net.JoinHostPort(s.host, port))
		require.NoError(t, err, "%v", s)
		require.IsType(t, &ctnet.Listener{}, ln)
		all = append(all, ln)
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				l.accepted <- arrival{s.String(), c}
			}
		})
	}
	l.close = sync.OnceFunc(func() {
		for _, ln := range all {
			ln.Close()
		}
		wg.Wait()
	})
	t.Cleanup(l.close)
	return l
}

// A dialResult is what a program learns of a Dial.
type dialResult struct {
	at     string   // the listener that has accepted; "" after an error
	remote string   // address of the connection
	err    string   // the error with all that is in it
	trace  []string // of httptrace, sorted
}

// dialAndSee dials, and returns what it has learned, and whether the connection goes through shared memory.
func (l *listening) dialAndSee(t testing.TB, network, address string,
	dial func(ctx context.Context, network, address string) (net.Conn, error)) (r dialResult, cut bool) {
	var mu sync.Mutex
	see := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		r.trace = append(r.trace, fmt.Sprintf(format, args...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(i httptrace.DNSStartInfo) { see("dns %s", i.Host) },
		DNSDone:      func(i httptrace.DNSDoneInfo) { see("dns %v %v", i.Addrs, i.Err) },
		ConnectStart: func(network, address string) { see("start %s %s", network, address) },
		ConnectDone:  func(network, address string, err error) { see("done %s %s %v", network, address, err) },
	})
	c, err := dial(traced, network, address)
	if err != nil {
		require.Nil(t, c)
		r.err = describe(err, strings.NewReplacer())
	} else {
		cut = harness.IsCut(c)
		r.remote = c.RemoteAddr().String()
		// A connection to another address may have come and gone at the same time.
		_, err := io.WriteString(c, "it is this one")
		require.NoError(t, err)
		for r.at == "" {
			select {
			case a := <-l.accepted:
				b := make([]byte, 100)
				if n, _ := a.conn.Read(b); n > 0 {
					r.at = a.at
					require.Equal(t, cut, harness.IsCut(a.conn))
				}
				a.conn.Close()
			case <-ctx.Done():
				t.Fatalf("nobody has accepted %s %s", network, address)
			}
		}
		c.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(r.trace)
	return r, cut
}

// ownAddresses returns an address of this host for each family that is no loopback, if there is one.
func ownAddresses(t testing.TB) (own []string) {
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, is4 := range []bool{true, false} {
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if ip := p.Addr(); err == nil && ip.Is4() == is4 && ip.IsGlobalUnicast() {
				own = append(own, ip.String())
				break
			}
		}
	}
	return own
}

// TestListenersOnePort has listeners on a port of wildcards and of addresses, in all combinations.
// Which one gets a connection is the kernel's choice. Each set is dialed by an application of its own: with
// one for all of them, its pairs would not fit into the address space that it has on 32-bit systems.
func TestListenersOnePort(t *testing.T) {
	specs := []listenSpec{{"tcp4", "0.0.0.0"}, {"tcp", "127.0.0.1"}, {"tcp4", "127.0.0.2"}}
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "0.0.0.0", "", "::ffff:127.0.0.1"}
	if nettest.SupportsIPv6() {
		specs = append(specs, listenSpec{"tcp6", "::"}, listenSpec{"tcp", "::1"}, listenSpec{"tcp", ""})
		hosts = append(hosts, "::1", "::")
	}
	hosts = append(hosts, ownAddresses(t)...)
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		cuts := 0
		for set := range 1 << len(specs) {
			var chosen []listenSpec
			for i, s := range specs {
				if set>>i&1 != 0 {
					chosen = append(chosen, s)
				}
			}
			l := listenOnPort(t, server, chosen)
			app := client
			if client != server {
				var err error
				app, err = ctnet.NewApp(ctnet.AppConfig{})
				require.NoError(t, err)
			}
			for _, network := range []string{"tcp", "tcp4", "tcp6"} {
				for _, host := range hosts {
					address := net.JoinHostPort(host, l.port)
					want, _ := l.dialAndSee(t, network, address, new(net.Dialer).DialContext)
					d := ctnet.Dialer{App: app}
					got, cut := l.dialAndSee(t, network, address, d.DialContext)
					require.Equal(t, want, got, "listeners %v, dialed %s %q", chosen, network, host)
					require.Equal(t, got.at != "", cut, "listeners %v, dialed %s %q", chosen, network, host)
					if cut {
						cuts++
					}
				}
			}
			l.close()
			if app != server {
				require.NoError(t, app.Close())
			}
		}
		require.Greater(t, cuts, 100)
	})
}

// names are the host names of the tests.
var names = map[string][]string{
	"both.test.": {"127.0.0.1", "::1"},
	"four.test.": {"127.0.0.1"},
	"six.test.":  {"::1"},
	"two.test.":  {"127.0.0.3", "127.0.0.2"},
	"none.test.": {},
}

// resolver returns a resolver that knows the names, and no others.
func resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for serveName(server) == nil {
			}
		}()
		return client, nil
	}}
}

// serveName answers a question, in the form of DNS over TCP.
func serveName(c net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return err
	}
	q := m.Questions[0]
	addrs, ok := names[q.Name.String()]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := m.Pack()
	if err == nil {
		_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	}
	return err
}

// zoned returns addresses of this host with zones, if there are some.
func zoned(t testing.TB) (all []string) {
	all = []string{"::1%lo", "fe80::1%lo"}
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		require.NoError(t, err)
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				return append(all, p.Addr().WithZone(i.Name).String())
			}
		}
	}
	return all
}

// TestDialLikeNet dials addresses in all spellings, with listeners and without: the same listener
// accepts as of package net's Dial, the connection has the same address, an error is
// the same, and so is what a tracer sees.
func TestDialLikeNet(t *testing.T) {
	sets := [][]listenSpec{
		{},
		{{"tcp", ""}},
		{{"tcp4", "0.0.0.0"}},
		{{"tcp", "127.0.0.1"}},
		{{"tcp4", "127.0.0.2"}},
	}
	if nettest.SupportsIPv6() {
		sets = append(sets,
			[]listenSpec{{"tcp6", "::"}},
			[]listenSpec{{"tcp", "::1"}},
			[]listenSpec{{"tcp", "::1"}, {"tcp", "127.0.0.1"}},
			[]listenSpec{{"tcp6", "::1"}, {"tcp4", "0.0.0.0"}},
			[]listenSpec{{"tcp", "::ffff:127.0.0.1"}, {"tcp6", "::"}},
		)
		if all := zoned(t); len(all) > 2 {
			sets = append(sets, []listenSpec{{"tcp", all[2]}})
		}
	}
	// P stands for the listeners' port.
	addresses := []string{
		"127.0.0.1:P", "127.0.0.1:0P", "127.0.0.1:+P", "127.0.0.2:P", "127.255.255.254:P",
		"[::1]:P", "[0:0:0:0:0:0:0:1]:P", "[::FFFF:127.0.0.1]:P", "[::ffff:7f00:1]:P", "[127.0.0.1]:P",
		":P", "0.0.0.0:P", "[::]:P", "[::ffff:0.0.0.0]:P",
		"localhost:P", "LOCALHOST:P", "localhost.:P",
		"both.test:P", "four.test:P", "six.test:P", "two.test:P", "none.test:P", "unknown.test:P", "both.test.:P",
		"127.0.0.1:http", "127.0.0.1:nosuchservice", "127.0.0.1:0", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
		"127.0.0.1", "::1:P", "[::1]", "[::1:P", "", ":", "P", "127.0.0.1:P:P", "127.0.0.1:P ", "\x00:P",
		"224.0.0.1:P", "255.255.255.255:P", "[ff02::1%lo]:P", "[::1%nosuchzone]:P",
	}
	for _, a := range append(zoned(t), ownAddresses(t)...) {
		addresses = append(addresses, net.JoinHostPort(a, "P"))
	}
	dialers := map[string]net.Dialer{
		"":                 {Resolver: resolver()},
		"no race":          {Resolver: resolver(), FallbackDelay: -1},
		"local address":    {Resolver: resolver(), LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}},
		"asks the program": {Resolver: resolver(), Control: func(string, string, syscall.RawConn) error { return nil }},
		"forbids it": {Resolver: resolver(), Control: func(_, address string, _ syscall.RawConn) error {
			if strings.HasPrefix(address, "127.0.0.1") {
				return syscall.EPERM
			}
			return nil
		}},
	}
	inBoth(t, func(t *testing.T, server, client *ctnet.App) {
		cuts := 0
		for _, set := range sets {
			l := listenOnPort(t, server, set)
			for name, kernel := range dialers {
				for _, network := range []string{"tcp", "tcp4", "tcp6"} {
					for _, a := range addresses {
						address := strings.ReplaceAll(a, "P", l.port)
						want, _ := l.dialAndSee(t, network, address, kernel.DialContext)
						d := ctnet.Dialer{App: client, Kernel: kernel}
						got, cut := l.dialAndSee(t, network, address, d.DialContext)
						require.Equal(t, want, got, "listeners %v, dialer %q, dialed %s %q", set, name, network, a)
						if cut {
							cuts++
						}
					}
				}
			}
			l.close()
		}
		require.Greater(t, cuts, 100)
	})
}
