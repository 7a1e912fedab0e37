package ctdebug

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/hostnet"
	"cutthrough.example/internal/rendezvous"
)

// A guard decides who gets an answer.
type guard interface {
	// refuse returns why a request gets none, or "".
	refuse(r *http.Request) string
}

// guardFunc is the guard of [Guarded].
type guardFunc func(*http.Request) bool

func (allow guardFunc) refuse(r *http.Request) string {
	if !allow(r) {
		return "ctdebug: not allowed"
	}
	return ""
}

// refuse returns why a request for the file of that name gets no answer, or "".
func (h *handler) refuse(r *http.Request, name string) string {
	if crossSite(r, name) {
		return "ctdebug: another site's page has asked for this"
	}
	return h.guard.refuse(r)
}

// crossSite reports whether a page of another origin makes a browser send the request. To follow a
// link to the page is no such request: it shows the user the page, and the other site nothing.
func crossSite(r *http.Request, name string) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return name != "" || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// ownUser is the guard of [Handler]: it lets this user and root pass.
type ownUser struct {
	look    func() ctnet.Snapshot
	waiting atomic.Int32 // calls of snapshot that have not returned

	mu   sync.Mutex
	at   time.Time // when last was begun
	last ctnet.Snapshot
}

func (g *ownUser) refuse(r *http.Request) string {
	if !isLocalName(r.Host) {
		// A name that somebody else has made point here: DNS rebinding.
		return "ctdebug: use localhost or an IP address as the host's name, not " + r.Host
	}
	for _, name := range proxyHeaders {
		if r.Header.Get(name) != "" {
			return "ctdebug: this request has come through a proxy (" + name + "), so who asks is not known. See ctdebug.Guarded"
		}
	}
	switch uids, ok := g.users(r); {
	case !ok || len(uids) == 0:
		return "ctdebug: only this process's user and root get an answer, and who asks is not known. " +
			"Ask from this host; over a unix socket, set http.Server.ConnContext to ctdebug.ConnContext; or see ctdebug.Guarded"
	default:
		for _, uid := range uids {
			if !rendezvous.Ours(rendezvous.Cred{UID: uid}) {
				return "ctdebug: only this process's user and root get an answer"
			}
		}
	}
	return ""
}

// proxyHeaders are what proxies add to requests. Whoever asks a proxy is not the user who runs it.
var proxyHeaders = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}

// isLocalName reports whether a Host header names this host in a way that no one else can: DNS has
// no say in what localhost and an IP address are.
func isLocalName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

type connKey struct{}

// ConnContext is for [http.Server.ConnContext]. With it [Handler] knows the connection of each
// request, and so who asks: also over unix sockets, with TLS, and through another App's listener.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// users returns the users who may have sent a request: mostly one. It returns false if that can't
// be found out.
func (g *ownUser) users(r *http.Request) (uids []int, ok bool) {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		uid, ok := connUser(c)
		return []int{uid}, ok
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return nil, false
	}
	switch a := local.(type) {
	case *net.TCPAddr:
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return nil, false
		}
		if uid, ok := hostnet.SocketUID(remote, a.AddrPort()); ok {
			uids = append(uids, uid)
			if !hostnet.NonEphemeralPorts().Has(remote.Port()) {
				return uids, true // no ctnet connection has such a port
			}
			if !rendezvous.Ours(rendezvous.Cred{UID: uid}) {
				return uids, true // and a snapshot costs more
			}
		}
		// The kernel may have a connection with the same addresses as ctnet, if a program has
		// bound the port: then both users are to be trusted.
		return append(uids, g.ctnetUsers(r.Context(), local, r.RemoteAddr)...), true
	case *ctnet.Addr:
		return g.ctnetUsers(r.Context(), local, r.RemoteAddr), true
	}
	return nil, false // the dialing ends of unix sockets have no address
}

// connUser returns the user at the other end of a connection.
func connUser(c net.Conn) (uid int, ok bool) {
	for {
		wrapped, ok := c.(interface{ NetConn() net.Conn }) // *tls.Conn has it
		if !ok {
			break
		}
		c = wrapped.NetConn()
	}
	switch c := c.(type) {
	case *ctnet.Conn:
		return c.PeerCred().UID, true
	case *net.TCPConn:
		return hostnet.SocketUID(c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort())
	case *net.UnixConn:
		return hostnet.PeerUID(c)
	}
	return -1, false
}

// lookGap is the least time between two snapshots that are made to find out who asks. One costs
// some ms if there are thousands of connections, and any user can have it made.
const lookGap = 100 * time.Millisecond

// ctnetUsers returns the users at the other ends of the application's connections that have these
// addresses. No two of networks tcp and ct have the same at a time.
func (g *ownUser) ctnetUsers(ctx context.Context, local net.Addr, remote string) (uids []int) {
	for _, c := range g.snapshot(ctx).Connections {
		if c.Network == local.Network() && c.Local == local.String() && c.Remote == remote {
			uids = append(uids, c.Peer.UID)
		}
	}
	return uids
}

// snapshot returns one that was begun after the call. Requests that wait meanwhile share it.
func (g *ownUser) snapshot(ctx context.Context) ctnet.Snapshot {
	g.waiting.Add(1)
	asked := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() {
		// Whoever shares it has asked before it was begun, and so is counted since then.
		if g.waiting.Add(-1) == 0 {
			g.last = ctnet.Snapshot{}
		}
	}()
	if g.at.After(asked) {
		return g.last
	}
	if wait := time.Until(g.at.Add(lookGap)); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctnet.Snapshot{}
		}
	}
	g.at = time.Now()
	g.last = g.look()
	return g.last
}
