package ctnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
)

// A Path says which way connections may take.
type Path int

const (
	// AnyPath prefers shared memory, and uses the kernel's socket where it
	// can't be had. On network "ct" there is no other way.
	AnyPath Path = iota
	// CutThrough is shared memory only: a Dial that would need the kernel's
	// socket fails with ECONNREFUSED, and a Listen that can't offer it fails.
	CutThrough
	// Kernel is the kernel's socket only, as package net would do it.
	Kernel
)

// kernelOnly reports whether the environment turns the cut-through off for the
// whole process, for those who want to see its traffic with the system's tools.
// It does not concern network "ct".
var kernelOnly = sync.OnceValue(func() bool { return os.Getenv("CTNET_KERNEL_ONLY") != "" })

// cutPatience is how long a Dial on a network with a fallback lets the way through
// shared memory take, from the listener's socket to the connection. A process
// that is alive needs a millisecond; one that is stopped still has the kernel.
const cutPatience = 250 * time.Millisecond

// errElsewhere ends the kernel's Dial when it turns out that the cut-through leads
// to the address that it was about to connect to.
var errElsewhere = errors.New("another way was taken")

// dialEither connects on a network of the kernel's: through shared memory if a
// listener there offers it, otherwise as package net does.
func (d *Dialer) dialEither(ctx context.Context, network, address string) (net.Conn, error) {
	kernel := d.Kernel
	if d.Path == Kernel || d.Path == AnyPath && (kernelOnly() || currentBubble() != 0 || kernel.LocalAddr != nil) {
		return kernel.DialContext(ctx, network, address)
	}
	if ctx.Err() != nil {
		_, err := kernel.DialContext(ctx, network, address) // never connects
		return nil, asTimeout(err)
	}
	ask, err := checkSizes(sizes{toServer: d.WriteBuffer, toClient: d.ReadBuffer})
	if err != nil {
		return nil, failure("dial", network, address, err)
	}
	if kernel.Control == nil && kernel.ControlContext == nil {
		c, known, err := d.dialCut(ctx, network, address, ask)
		if c != nil {
			traceConnect(ctx, network, address)
			return c, nil
		}
		if d.Path == CutThrough {
			if known {
				return nil, failure("dial", network, address, err)
			}
		} else if known {
			return kernel.DialContext(ctx, network, address)
		}
	}

	// A name, or an address that stands for others. The kernel's Dial finds
	// out which it means, and asks before it connects to one. If the caller has
	// a say in that, it comes first: it may forbid the address.
	ctx, cancel := context.WithCancel(withTrace(ctx))
	defer cancel()
	var mu sync.Mutex
	var cut *Conn // the first one
	var over bool // the kernel's Dial, whose goroutines may outlive it
	control := kernel.ControlContext
	if control == nil && kernel.Control != nil {
		control = func(_ context.Context, network, address string, c syscall.RawConn) error {
			return d.Kernel.Control(network, address, c)
		}
	}
	kernel.ControlContext = func(ctx context.Context, network, address string, rc syscall.RawConn) error {
		if control != nil {
			if err := control(ctx, network, address, rc); err != nil {
				return err
			}
		}
		c, err := d.dialResolved(ctx, network, address, ask)
		if c != nil {
			mu.Lock()
			defer mu.Unlock()
			if cut != nil || over {
				c.end.Abort()
				return context.Canceled
			}
			cut = c
			cancel()
			return errElsewhere
		}
		if d.Path == CutThrough {
			return err
		}
		return nil
	}
	k, err := kernel.DialContext(ctx, network, address)
	mu.Lock()
	defer mu.Unlock()
	over = true
	if cut != nil {
		if k != nil {
			k.Close()
		}
		return cut, nil
	}
	return k, err
}

// resolved parses an address that package net is about to connect to. One that
// stands for this host is its loopback address, as the kernel has it.
func resolved(network, address string) (netip.AddrPort, bool) {
	if strings.HasPrefix(address, ":") {
		address = "[::]" + address
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return addr, false
	}
	if addr.Addr().IsUnspecified() {
		ip := netip.IPv6Loopback()
		if network == "tcp4" || addr.Addr().Is4() {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		addr = netip.AddrPortFrom(ip, addr.Port())
	}
	return addr, true
}

// dialCut connects through shared memory. It reports whether it knew where to: if
// not, the address has to be resolved first.
func (d *Dialer) dialCut(ctx context.Context, network, address string, ask sizes) (c *Conn, known bool, err error) {
	if network == "unix" {
		c, err = d.dialUnix(ctx, address, ask)
		return c, true, err
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil || addr.Addr().IsUnspecified() {
		return nil, false, nil
	}
	if is4 := addr.Addr().Unmap().Is4(); network == "tcp4" && !is4 || network == "tcp6" && is4 {
		return nil, false, nil // the kernel's Dial says what is wrong
	}
	c, err = d.dialTCP(ctx, addr, ask)
	return c, true, err
}

// dialResolved connects through shared memory to an address that package net is about to
// connect to.
func (d *Dialer) dialResolved(ctx context.Context, network, address string, ask sizes) (*Conn, error) {
	if network == "unix" {
		return d.dialUnix(ctx, address, ask)
	}
	addr, ok := resolved(network, address)
	if !ok {
		return nil, rendezvous.ErrNobody
	}
	return d.dialTCP(ctx, addr, ask)
}

func (d *Dialer) dialUnix(ctx context.Context, path string, ask sizes) (*Conn, error) {
	t, err := unixTarget(path)
	if err != nil {
		return nil, err
	}
	absent, stamp := d.App.app().absent(t.name)
	if absent && d.Path != CutThrough {
		return nil, rendezvous.ErrNobody
	}
	return d.dialTarget(ctx, t, stamp, ask)
}

func (d *Dialer) dialTCP(ctx context.Context, addr netip.AddrPort, ask sizes) (*Conn, error) {
	// What is known to lead nowhere is found out first: of one in another
	// network namespace that may be wrong, but then the kernel is right.
	a := d.App.app()
	name := tcpName(addr)
	absent, stamp := a.absent(name)
	if absent && d.Path != CutThrough {
		return nil, rendezvous.ErrNobody
	}
	t, ok := tcpTarget(addr)
	if !ok {
		a.remote.absences.Remember(name, stamp)
		return nil, rendezvous.ErrNobody
	}
	return d.dialTarget(ctx, t, stamp, ask)
}

// dialTarget connects to a listener on a network of the kernel's, within a moment if
// there is another way to connect.
func (d *Dialer) dialTarget(parent context.Context, t target, stamp rendezvous.Stamp, ask sizes) (*Conn, error) {
	a := d.App.app()
	for i, key := range t.keys {
		l := a.listener(key, 0)
		if l != nil && l.retired.Load() {
			l = nil
		}
		if l == nil && !rendezvous.Present(key) {
			continue
		}
		if now, _ := hostnet.NetNamespace(); t.netns != "" && now != t.netns {
			return nil, rendezvous.ErrNobody // here; the next Dial looks here
		}
		if i > 0 && !hostnet.IsHere(t.addr.(*net.TCPAddr).AddrPort().Addr()) {
			continue
		}
		ctx := parent
		if d.Path != CutThrough { // there is something to fall back to
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(parent, cutPatience)
			defer cancel()
		}
		if l != nil && l.elsewhere() {
			return nil, errHandedOn
		}
		if l != nil {
			return a.dialLocal(ctx, l, t, ask)
		}
		c, err := a.dialRemote(ctx, key, t, ask)
		if err == rendezvous.ErrNobody {
			continue // a dead process's file; the kernel would find the next one too
		}
		if err != nil && err != errHandedOn.Errno && err != syscall.ECONNREFUSED && parent.Err() == nil {
			a.remote.absences.Distrust(t.name, stamp)
		}
		return c, err
	}
	a.remote.absences.Remember(t.name, stamp)
	return nil, rendezvous.ErrNobody
}
