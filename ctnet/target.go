package ctnet

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
)

// A target is what a Dial looks for.
type target struct {
	// name is the address with its network, such as "tcp:127.0.0.1:80". The dialer tells
	// it to the listener.
	name string
	// keys are the keys under which a listener at the address can be found, in the order
	// in which the kernel chooses among such listeners.
	// The rest are "".
	keys    [3]string
	lookups [3]rendezvous.Lookup // of the keys; none on network "ct"
	addr    net.Addr             // the remote address of the connection

	netns string // the network namespace in the keys; "" if they are valid in all
	dir   string // for which the lookups are, see [rendezvous.Dir]
}

// look sets the lookups.
func (t *target) look() {
	t.dir = rendezvous.Dir()
	for i, key := range t.keys {
		if key != "" {
			t.lookups[i] = rendezvous.NewLookup(key)
		}
	}
}

// looked returns the names or paths at which a Dial looks for the listener.
func (t *target) looked() (names []string) {
	for _, l := range t.lookups {
		if name := l.Name(); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// networkCT is this package's own network. Its addresses are names.
const networkCT = "ct"

// maxName is the largest length of a name, in bytes.
const maxName = 200

// checkName returns an error if an address can't be a name of network "ct".
func checkName(address string) error {
	switch {
	case address == "":
		return &net.AddrError{Err: "missing name"}
	case len(address) > maxName:
		return &net.AddrError{Err: fmt.Sprintf("name of %d bytes, the most is %d", len(address), maxName), Addr: address[:32] + "..."}
	case strings.Contains(address, "\x00"):
		return &net.AddrError{Err: "NUL in name", Addr: address}
	case strings.Contains(address, ".."):
		return &net.AddrError{Err: `".." in name`, Addr: address}
	}
	return nil
}

// ctTarget returns the target for a name of network "ct". It has one key.
func ctTarget(name string) *target {
	key := networkCT + ":" + name
	return &target{name: key, keys: [3]string{key}, addr: &Addr{name: name}}
}

// tcpKey returns the key of a listener on an address and port in a network namespace. If
// dual is true the listener is on all addresses of IPv4 and IPv6.
func tcpKey(netns string, addr netip.Addr, dual bool, port uint16) string {
	host := addr.String()
	if dual {
		host = "*"
	}
	return "tcp:" + netns + "/" + net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// tcpTargets are the targets that tcpTarget has returned last. To make one costs more than to look
// for its listener.
var tcpTargets struct {
	mu    sync.RWMutex
	known map[netip.AddrPort]*target
}

// maxTargets is the most targets that are kept.
const maxTargets = 4096

// tcpTarget returns the target for an IP address and port, which nobody changes. It fails if no
// listener of this host can be there. The key of a listener on the address itself comes before the
// keys of listeners on all addresses.
func tcpTarget(addr netip.AddrPort) (*target, error) {
	netns, ok := hostnet.LikelyNamespace()
	if !ok {
		return nil, hostnet.ErrNoNamespace
	}
	tcpTargets.mu.RLock()
	t := tcpTargets.known[addr]
	tcpTargets.mu.RUnlock()
	if t != nil && t.netns == netns && t.dir == rendezvous.Dir() {
		return t, nil
	}
	t, err := newTCPTarget(addr, netns)
	if err != nil {
		return nil, err
	}
	tcpTargets.mu.Lock()
	defer tcpTargets.mu.Unlock()
	if tcpTargets.known == nil || len(tcpTargets.known) == maxTargets {
		tcpTargets.known = make(map[netip.AddrPort]*target)
	}
	tcpTargets.known[addr] = t
	return t, nil
}

func newTCPTarget(addr netip.AddrPort, netns string) (*target, error) {
	ip := addr.Addr().Unmap()
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return nil, errNotShared
	}
	all := netip.IPv4Unspecified()
	if ip.Is6() {
		all = netip.IPv6Unspecified()
	}
	t := &target{
		netns: netns,
		name:  "tcp:" + netip.AddrPortFrom(ip, addr.Port()).String(),
		keys: [3]string{
			tcpKey(netns, ip, false, addr.Port()),
			tcpKey(netns, all, false, addr.Port()),
			tcpKey(netns, all, true, addr.Port()),
		},
		addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, addr.Port())),
	}
	t.look()
	return t, nil
}

// unixTarget returns the target for the path of a socket file. The key identifies the file
// and not the path, as another file may have the path later. It fails, as the kernel does, if
// this process may not connect to the file.
func unixTarget(path string) (*target, error) {
	key, err := unixKey(path)
	if err != nil {
		return nil, err
	}
	if !hostnet.IsAbstract(path) {
		if err := hostnet.MayConnect(path); err != nil {
			return nil, err
		}
	}
	t := &target{name: "unix:" + path, keys: [3]string{key}, addr: &net.UnixAddr{Name: path, Net: "unix"}}
	t.look()
	return t, nil
}

// unixKey returns the key of a listener on a path, or on an abstract name.
func unixKey(path string) (string, error) {
	if hostnet.IsAbstract(path) {
		netns, ok := hostnet.NetNamespace()
		if !ok {
			return "", hostnet.ErrNoNamespace
		}
		return "unix:" + netns + "/" + path, nil
	}
	id, err := hostnet.SocketFile(path)
	return "unix:" + id, err
}

// listenerKey returns the key by which dialers find a listener of the kernel's.
func listenerKey(kernel net.Listener) (string, error) {
	switch addr := kernel.Addr().(type) {
	case *net.TCPAddr:
		netns, ok := hostnet.NetNamespace()
		if !ok {
			return "", hostnet.ErrNoNamespace
		}
		ap := addr.AddrPort()
		ip := ap.Addr().Unmap().WithZone("")
		return tcpKey(netns, ip, ip == netip.IPv6Unspecified() && !hostnet.OnlyIPv6(kernel), ap.Port()), nil
	case *net.UnixAddr:
		return unixKey(addr.Name)
	}
	return "", fmt.Errorf("address is a %T", kernel.Addr())
}

// splitName returns the network and the address of a target's name.
func splitName(name string) (network, address string) {
	network, address, _ = strings.Cut(name, ":")
	return network, address
}
