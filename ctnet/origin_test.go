package ctnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/hostnet"
)

// TestOrigins allocates all origins: no two are the same, none has the listener's own port or an
// ephemeral one, and each address is this host's.
func TestOrigins(t *testing.T) {
	defer func(f func() hostnet.Ports) { originPorts = f }(originPorts)
	originPorts = func() hostnet.Ports { return hostnet.Ports{{First: 1024, Last: 1100}, {First: 8000, Last: 8100}} }
	n := originPorts().Count()
	for dialed, most := range map[string]int{
		"127.0.0.1:8080": loopbacks * (n - 1),
		"10.1.2.3:8080":  n - 1,
		"[::1]:8080":     n - 1,
		"127.0.0.1:1":    loopbacks * n, // not among them
	} {
		at := netip.MustParseAddrPort(dialed)
		var o originTable
		seen := make(map[string]bool)
		for range most {
			got := o.alloc(at)
			require.NotZero(t, got, dialed)
			addr := got.addr(at.Addr())
			ap := addr.AddrPort()
			if seen[addr.String()] || ap.Port() == at.Port() || ap.Port() < 1024 ||
				ap.Addr() != at.Addr() && !ap.Addr().IsLoopback() {
				t.Fatalf("%v to %v", addr, at)
			}
			seen[addr.String()] = true
		}
		require.Zero(t, o.alloc(at), dialed)
		o.free(origin(originPorts().At(1)))
		require.Equal(t, origin(originPorts().At(1)), o.alloc(at))
	}
}

// TestOriginHostile sets the origins of a hostile listener: any value is an address.
func TestOriginHostile(t *testing.T) {
	for _, o := range []origin{0, 1, 1 << 16, 1<<32 - 1} {
		for _, ip := range []string{"127.0.0.1", "127.255.255.255", "10.0.0.1", "::1"} {
			require.NotNil(t, o.addr(netip.MustParseAddr(ip)))
		}
	}
}
