package ctnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
)

// A netDial is one Dial on a network that the kernel has too: "tcp", "tcp4", "tcp6" or
// "unix". It connects through shared memory if a listener of this package is at the address,
// and through the kernel's socket otherwise.
//
// The functions are in the order in which a Dial calls them:
//
//	dialNet      checks whether shared memory may be used at all
//	run          tries the address as it is; then resolves it, or uses the kernel's socket
//	resolve      has package net resolve the address, and tries each result
//	tryAddress   parses the address that the program gave
//	tryResolved  parses an address that package net has resolved
//	tryTCP, tryUnix, tryTarget  look for a listener
//	connect      connects to that listener
type netDial struct {
	app              *app
	path             Path       // AnyPath or CutThrough
	kernel           net.Dialer // for the kernel's socket
	network, address string     // the arguments of Dial
	ask              sizes
	allow            func(rendezvous.Cred) bool // Dialer.Allow, or nil
	tell             func(*Fallback)            // Dialer.Fallback, or nil
}

// An attempt is the result of trying to connect through shared memory.
type attempt struct {
	outcome outcome
	conn    *conn   // if connected
	err     error   // if nobodyThere or failed
	target  *target // nil if there is none
}

// An outcome says how an attempt ended.
type outcome int

const (
	// connected: there is a connection.
	connected outcome = iota
	// nobodyThere: no listener of this package is at the address.
	nobodyThere
	// unresolved: the address is a name, or stands for other addresses, and has to be
	// resolved first.
	unresolved
	// failed: a listener may be there, and the connection was not made.
	failed
)

// attemptOf returns the attempt for the results of a call that connects.
func attemptOf(c *conn, err error) attempt {
	if err != nil {
		return attempt{outcome: failed, err: err}
	}
	return attempt{outcome: connected, conn: c}
}

// at returns the attempt with its target.
func (a attempt) at(t *target) attempt {
	a.target = t
	return a
}

// foundNobody returns the attempt to connect to a target where no listener is.
func foundNobody(t *target) attempt {
	return attempt{outcome: nobodyThere, err: rendezvous.ErrNobody, target: t}
}

// cutPatience is how long a Dial that can fall back to the kernel's socket waits for a
// connection through shared memory. A process that runs answers within a millisecond. A
// process that is stopped doesn't answer, but the kernel accepts for it.
const cutPatience = 250 * time.Millisecond

// dialNet connects on a network that the kernel has too.
func (d *Dialer) dialNet(ctx context.Context, network, address string) (net.Conn, error) {
	barrier := d.Path.barrier()
	if barrier == errPathKernel {
		return d.Kernel.DialContext(ctx, network, address) // as the program wants it: no fallback
	}
	n := netDial{app: d.App.app(), path: d.Path, kernel: d.Kernel, network: network, address: address, allow: d.allow(), tell: d.Fallback}
	if barrier == nil && d.Path == AnyPath && d.Kernel.LocalAddr != nil {
		barrier = errLocalAddr
	}
	if barrier != nil {
		return n.fallBack(ctx, attempt{outcome: failed, err: barrier})
	}
	if ctx.Err() != nil {
		_, err := d.Kernel.DialContext(ctx, network, address) // it doesn't connect; its error is package net's
		return nil, asTimeout(err)
	}
	var err error
	if n.ask, err = d.sizes(); err != nil {
		return nil, failure("dial", network, address, err)
	}
	return n.run(ctx)
}

// run connects.
func (n *netDial) run(ctx context.Context) (net.Conn, error) {
	if n.kernel.Control != nil || n.kernel.ControlContext != nil {
		// The program may forbid an address. beforeConnect asks it for each address that
		// package net has resolved.
		return n.resolve(ctx)
	}
	switch a := n.tryAddress(ctx); {
	case a.outcome == connected:
		traceConnect(ctx, n.network, a.conn.remote)
		return n.app.dialed(a.conn), nil
	case a.outcome == unresolved:
		return n.resolve(ctx)
	case n.hasFallback():
		return n.fallBack(ctx, a)
	default:
		return nil, failure("dial", n.network, n.address, explain(n.network, n.address, a.target, a.err))
	}
}

// fallBack connects through the kernel's socket, as a has not succeeded.
func (n *netDial) fallBack(ctx context.Context, a attempt) (net.Conn, error) {
	c, err := n.kernel.DialContext(ctx, n.network, n.address)
	if err == nil {
		n.report(a, n.address, c)
	}
	return c, err
}

// report says why a connection takes the kernel's socket.
func (n *netDial) report(a attempt, address string, kernel net.Conn) {
	cause := n.app.fellBack("dial", n.network, address, a.err, kernel)
	if n.tell != nil {
		n.tell(newFallback(n.network, address, a.target, cause))
	}
}

// hasFallback reports whether the kernel's socket may be used.
func (n *netDial) hasFallback() bool { return n.path != CutThrough }

// resolve starts a Dial of package net's, which resolves the address. Before that Dial
// connects to a resolved address, beforeConnect tries to connect there through shared memory.
// The first success ends the Dial of package net's.
func (n *netDial) resolve(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithCancel(withTrace(ctx))
	defer cancel()
	r := resolvingDial{netDial: *n, cancel: cancel}
	kernel := n.kernel
	kernel.ControlContext = r.beforeConnect
	return r.result(kernel.DialContext(ctx, n.network, n.address))
}

// A resolvingDial is a netDial while a Dial of package net's resolves the address. The latter
// may try several addresses at a time, each in a goroutine, and may return before they end.
type resolvingDial struct {
	netDial                    // a copy: the resolvingDial outlives the Dial, so it is on the heap
	cancel  context.CancelFunc // of package net's Dial

	mu       sync.Mutex
	cut      *conn // the first connection through shared memory
	failed   []failedAttempt
	returned bool // package net's Dial has returned
}

// A failedAttempt is an attempt after which package net connects to the address.
type failedAttempt struct {
	address string
	attempt
}

// errCutThrough ends package net's Dial when the connection through shared memory was made.
var errCutThrough = errors.New("connected through shared memory")

// beforeConnect is called by package net's Dial, with a socket, when it is about to connect
// that socket to an address. If it returns an error, the socket is not connected.
func (r *resolvingDial) beforeConnect(ctx context.Context, network, address string, socket syscall.RawConn) error {
	if err := r.askProgram(ctx, network, address, socket); err != nil {
		return err
	}
	switch a := r.tryResolved(ctx, network, address); {
	case a.outcome == connected:
		return r.keep(a.conn)
	case r.hasFallback():
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failed = append(r.failed, failedAttempt{address, a})
		return nil
	default:
		return explain(r.network, address, a.target, a.err)
	}
}

// askProgram calls the Control function of the program's Dialer, if there is one.
func (r *resolvingDial) askProgram(ctx context.Context, network, address string, socket syscall.RawConn) error {
	switch {
	case r.kernel.ControlContext != nil:
		return r.kernel.ControlContext(ctx, network, address, socket)
	case r.kernel.Control != nil:
		return r.kernel.Control(network, address, socket)
	}
	return nil
}

// keep keeps the first connection through shared memory, and ends package net's Dial.
func (r *resolvingDial) keep(c *conn) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut != nil || r.returned {
		c.end.Abort()
		return context.Canceled
	}
	r.cut = c
	r.cancel()
	return errCutThrough
}

// result returns the result of the Dial, given the result of package net's Dial.
func (r *resolvingDial) result(kernel net.Conn, err error) (net.Conn, error) {
	r.mu.Lock()
	r.returned = true
	cut, failed := r.cut, r.failed // others may still append
	r.mu.Unlock()
	switch {
	case cut != nil:
		if kernel != nil {
			kernel.Close() // it connected to another address at the same time
		}
		return r.app.dialed(cut), nil
	case err == nil:
		address := kernel.RemoteAddr().String()
		r.report(attemptAt(failed, address), address, kernel)
	}
	return kernel, err
}

// attemptAt returns the attempt at an address, or the last one: the address that package net connects
// to can stand for another one, as ":80" does.
func attemptAt(failed []failedAttempt, address string) (a attempt) {
	for _, f := range failed {
		a = f.attempt
		if f.address == address {
			break
		}
	}
	return a
}

// tryAddress tries to connect through shared memory to the address that the program gave.
func (n *netDial) tryAddress(ctx context.Context) attempt {
	if n.network == "unix" {
		return n.tryUnix(ctx, n.address)
	}
	addr, err := netip.ParseAddrPort(n.address)
	if err != nil || addr.Addr().IsUnspecified() {
		return attempt{outcome: unresolved}
	}
	if is4 := addr.Addr().Unmap().Is4(); n.network == "tcp4" && !is4 || n.network == "tcp6" && is4 {
		return attempt{outcome: unresolved} // package net's Dial returns the error
	}
	return n.tryTCP(ctx, addr)
}

// tryResolved tries to connect through shared memory to an address that package net is about
// to connect to.
func (n *netDial) tryResolved(ctx context.Context, network, address string) attempt {
	if network == "unix" {
		return n.tryUnix(ctx, address)
	}
	addr, ok := parseResolved(network, address)
	if !ok {
		return foundNobody(nil)
	}
	return n.tryTCP(ctx, addr)
}

// parseResolved parses an address that package net is about to connect to. It returns the
// loopback address for an unspecified one, as the kernel connects there.
func parseResolved(network, address string) (netip.AddrPort, bool) {
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

// tryUnix tries to connect through shared memory to the listener at a socket file.
func (n *netDial) tryUnix(ctx context.Context, path string) attempt {
	if name, ok := strings.CutPrefix(path, "\x00"); ok {
		path = "@" + name // as package net returns it
	}
	t, err := unixTarget(path)
	if err != nil {
		return attempt{outcome: failed, err: err}
	}
	return n.tryTarget(ctx, t)
}

// tryTCP tries to connect through shared memory to the listener at an IP address and port.
func (n *netDial) tryTCP(ctx context.Context, addr netip.AddrPort) attempt {
	t, err := tcpTarget(addr)
	if err != nil {
		return attempt{outcome: failed, err: err}
	}
	a := n.tryTarget(ctx, t)
	if a.outcome == connected {
		a.conn.family = familyOf(n.network)
	}
	return a
}

// tryTarget tries to connect to the first listener that is found under one of the target's
// keys. If there is none, it remembers the absence.
//
// The check for an absence comes first, as it costs least. It may be wrong for a thread in another
// network namespace; then the Dial uses the kernel's socket, which works.
func (n *netDial) tryTarget(ctx context.Context, t *target) attempt {
	stamp, cause := n.app.absent(t.name)
	if cause != nil && n.hasFallback() {
		return attempt{outcome: nobodyThere, err: cause, target: t}
	}
	for i, key := range t.keys {
		if key == "" {
			break
		}
		own := n.app.listener(key, 0)
		if own != nil && own.retired.Load() {
			own = nil
		}
		if own == nil && !t.lookups[i].Present() {
			continue
		}
		if now, _ := hostnet.NetNamespace(); t.netns != "" && now != t.netns {
			// The keys are for another network namespace than this thread's. The next
			// Dial uses the right namespace.
			return foundNobody(t)
		}
		if forAllAddresses := i > 0; forAllAddresses && !hostnet.IsHere(t.addr.(*net.TCPAddr).AddrPort().Addr()) {
			continue
		}
		if a := n.connect(ctx, own, key, t, stamp); a.outcome != nobodyThere {
			return a
		}
		// A dead process has left its file under this key. The kernel would choose the
		// listener of the next key too.
	}
	n.app.remote.Absences.Remember(t.name, stamp)
	return foundNobody(t)
}

// connect connects to the listener under a key: to own, if that is not nil, and otherwise to a
// listener of another application. With a fallback it waits for cutPatience at most. After a
// failure later Dials leave the other application's listener alone for a while.
func (n *netDial) connect(parent context.Context, own *Listener, key string, t *target, stamp rendezvous.Stamp) attempt {
	ctx := parent
	if n.hasFallback() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(parent, cutPatience)
		defer cancel()
	}
	if own != nil {
		if own.elsewhere() {
			return attempt{outcome: failed, err: errHandedOn, target: t}
		}
		return attemptOf(n.app.dialLocal(ctx, own, t, n.ask)).at(t)
	}
	a := attemptOf(n.app.dialRemote(ctx, key, t, n.ask, n.allow)).at(t)
	if err := a.err; err == rendezvous.ErrNobody {
		return foundNobody(t)
	} else if a.outcome == failed && !isTransient(err) && !isStranger(err) && parent.Err() == nil {
		n.app.remote.Absences.Distrust(t.name, stamp, err)
	}
	return a
}

// isTransient reports whether err is the answer of a live listener that accepts no connection
// now: it is closing, another listener has taken over its address, or it was handed on. The
// next Dial may succeed.
func isTransient(err error) bool { return err == syscall.ECONNREFUSED || err == errHandedOn.Errno }

// isStranger reports whether err says that the listener's user is not trusted. Another Dial may
// trust him.
func isStranger(err error) bool {
	_, ok := err.(*rendezvous.Stranger)
	return ok
}
