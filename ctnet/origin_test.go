package ctnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOrigins takes all that there are: no two are the same, none is the
// listener's own port or one that the kernel would choose, and each stays on the
// host.
func TestOrigins(t *testing.T) {
	defer func(f func() portRanges) { freePorts = f }(freePorts)
	freePorts = func() portRanges { return portRanges{{1024, 1100}, {8000, 8100}} }
	n := freePorts().count()
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
			got := o.take(at)
			require.NotZero(t, got, dialed)
			addr := got.addr(at.Addr())
			ap := addr.AddrPort()
			if seen[addr.String()] || ap.Port() == at.Port() || ap.Port() < 1024 ||
				ap.Addr() != at.Addr() && !ap.Addr().IsLoopback() {
				t.Fatalf("%v to %v", addr, at)
			}
			seen[addr.String()] = true
		}
		require.Zero(t, o.take(at), dialed)
		o.give(origin(freePorts().at(1)))
		require.Equal(t, origin(freePorts().at(1)), o.take(at))
	}
}

func TestFreePorts(t *testing.T) {
	require.Greater(t, freePorts().count(), 1000)
	rs := portRanges{{1024, 1025}, {60000, 60000}}
	require.Equal(t, 3, rs.count())
	for i, want := range []uint32{1024, 1025, 60000} {
		require.Equal(t, want, rs.at(i))
	}
}

// TestOriginHostile shows what a hostile listener may say: any word is an address.
func TestOriginHostile(t *testing.T) {
	for _, o := range []origin{0, 1, 1 << 16, 1<<32 - 1} {
		for _, ip := range []string{"127.0.0.1", "127.255.255.255", "10.0.0.1", "::1"} {
			require.NotNil(t, o.addr(netip.MustParseAddr(ip)))
		}
	}
}
