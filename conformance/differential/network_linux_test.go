package differential

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// A network is a network on which scripts run.
type network struct {
	name     string
	proto    string // what Listen and Dial are given
	kernel   bool   // package net's
	listen   func(address string) (net.Listener, error)
	dialer   func(buffer int, closed bool, o dialOptions) (dial func(ctx context.Context, network, address string) (net.Conn, error))
	dir      string
	host     string       // an address of its own: no other bench gets a port that was closed
	listener net.Listener // for the scripts that need none of their own
}

// dialOptions are the options of a Dial that package net has too.
type dialOptions struct {
	timeout        time.Duration
	kernelTimeout  time.Duration // the same for package net
	kernelDeadline time.Time
}

// addresses counts the addresses that were listened on.
var addresses atomic.Int64

// benches counts the benches.
var benches atomic.Int64

// address returns an address to listen on.
func (n *network) address() string {
	switch n.proto {
	case "tcp":
		return n.host + ":0"
	case "unix":
		return filepath.Join(n.dir, fmt.Sprint(addresses.Add(1)))
	}
	return fmt.Sprintf("differential/%d", addresses.Add(1))
}

// kernelBuffer is the size of the kernel's buffers: so much smaller than bigBytes that a Write of
// bigBytes blocks.
const kernelBuffer = 64 << 10

// kernelNetwork returns a network of package net's.
func kernelNetwork(proto string) *network {
	return &network{
		name:   "net, " + proto,
		proto:  proto,
		kernel: true,
		listen: func(address string) (net.Listener, error) { return net.Listen(proto, address) },
		dialer: func(_ int, _ bool, o dialOptions) func(context.Context, string, string) (net.Conn, error) {
			d := net.Dialer{Timeout: o.timeout + o.kernelTimeout, Deadline: o.kernelDeadline}
			return d.DialContext
		},
	}
}

// cutNetwork returns a network of ctnet's.
func cutNetwork(proto string, server, client *ctnet.App) *network {
	apps := "one app"
	if server != client {
		apps = "two apps"
	}
	return &network{
		name:  fmt.Sprintf("ctnet, %s, %s", proto, apps),
		proto: proto,
		listen: func(address string) (net.Listener, error) {
			lc := ctnet.ListenConfig{App: server}
			if proto != "ct" {
				lc.Path = ctnet.CutThrough
			}
			return lc.Listen(context.Background(), proto, address)
		},
		dialer: func(buffer int, closed bool, o dialOptions) func(context.Context, string, string) (net.Conn, error) {
			d := ctnet.Dialer{App: client, ReadBuffer: buffer, WriteBuffer: buffer, Timeout: o.timeout,
				Kernel: net.Dialer{Timeout: o.kernelTimeout, Deadline: o.kernelDeadline}}
			// Its error without a listener is the kernel's.
			if proto != "ct" && !closed {
				d.Path = ctnet.CutThrough
			}
			return d.DialContext
		},
	}
}

// dial dials in the way that a step says.
func (n *network) dial(way, address string, buffer int, closed bool) (net.Conn, error) {
	var o dialOptions
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch way {
	case "canceled":
		cancel()
	case "expired":
		ctx, cancel = context.WithDeadline(ctx, time.Now().Add(-time.Second))
		defer cancel()
	case "timeout":
		o.timeout = -1
	case "kerneltimeout":
		o.kernelTimeout = -1
	case "kerneldeadline":
		o.kernelDeadline = time.Now().Add(-time.Second)
	case "future":
		o.timeout = time.Hour
		o.kernelDeadline = time.Now().Add(time.Hour)
		ctx, cancel = context.WithTimeout(ctx, time.Hour)
		defer cancel()
	}
	c, err := n.dialer(buffer, closed, o)(ctx, n.proto, address)
	if err != nil {
		return nil, err
	}
	return c, n.limit(c)
}

// limit makes the kernel's buffers small.
func (n *network) limit(c net.Conn) error {
	if !n.kernel {
		return nil
	}
	b := c.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	if err := b.SetReadBuffer(kernelBuffer); err != nil {
		return err
	}
	return b.SetWriteBuffer(kernelBuffer)
}

// A bench has the networks on which one goroutine runs scripts.
type bench struct {
	kernel map[string]*network // by the script's network
	cut    map[string][]*network
}

func newBench(t *testing.T) *bench {
	one, server, client := harness.NewApp(t), harness.NewApp(t), harness.NewApp(t)
	b := &bench{
		kernel: map[string]*network{"tcp": kernelNetwork("tcp"), "unix": kernelNetwork("unix")},
		cut: map[string][]*network{
			"tcp":  {cutNetwork("tcp", one, one), cutNetwork("tcp", server, client)},
			"unix": {cutNetwork("unix", one, one), cutNetwork("unix", server, client), cutNetwork("ct", one, one), cutNetwork("ct", server, client)},
		},
	}
	dir := t.TempDir()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 100+pid>>12&127, pid>>4&255, 16*(pid&15)+int(benches.Add(1))&15)
	for _, proto := range []string{"tcp", "unix"} {
		for _, n := range append(b.cut[proto], b.kernel[proto]) {
			n.dir, n.host = dir, host
			ln, err := n.listen(n.address())
			require.NoError(t, err)
			t.Cleanup(func() { ln.Close() })
			n.listener = ln
		}
	}
	return b
}
