// Package ctgrpc lets gRPC clients connect to the names that package ctnet
// listens on. Importing it registers the scheme ct for targets:
//
//	conn, err := grpc.NewClient("ct:///svc/echo", ctgrpc.WithDialer(),
//		grpc.WithTransportCredentials(insecure.NewCredentials()))
//
// connects to the server of
//
//	ln, err := ctnet.Listen("ct", "svc/echo")
//	err = server.Serve(ln)
//
// A server needs nothing from this package.
//
// What follows ct:/// is the name, written as the path of a URL is: a "%", "?"
// or "#" in it is escaped, as url.URL does. The authority of calls is
// "localhost", as it is for gRPC's scheme unix, so with TLS that is the name the
// server's certificate must have, unless grpc.WithAuthority says otherwise.
//
// The option is needed because gRPC opens by itself only connections that package
// net knows how to open. Without it every call on a ct target fails with
// codes.Unavailable, and says so.
package ctgrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"cutthrough.example/ctnet"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
)

const scheme = "ct"

func init() { resolver.Register(builder{}) }

// WithDialer returns an option by which a client connects to ct targets. Those of
// other schemes it connects to through package ctnet as well: through shared memory
// if a listener of that package is there, and otherwise as gRPC would without a
// proxy. So a program can have it always and leave the target to its configuration.
//
// A program that wants to choose the ctnet.Dialer gives this in place of it:
//
//	grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
//		return dialer.DialContext(ctx, "ct", name)
//	})
func WithDialer() grpc.DialOption { return grpc.WithContextDialer(dial) }

func dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	// What a resolver says about an address reaches the dialer with the context.
	if credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(isName{}) != nil {
		network = "ct"
	} else if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", strings.TrimPrefix(path, "//")
	}
	return ctnet.DialContext(ctx, network, address)
}

// isName is the key of the attribute of addresses that are ctnet's names.
type isName struct{}

// A builder resolves a target to the one name that it contains.
type builder struct{}

func (builder) Scheme() string { return scheme }

// OverrideAuthority returns what can be the name in a certificate.
func (builder) OverrideAuthority(resolver.Target) string { return "localhost" }

func (builder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	u := &target.URL
	name := strings.TrimPrefix(u.Path, "/")
	if u.Opaque != "" { // as in ct:svc/echo
		var err error
		if name, err = url.PathUnescape(u.Opaque); err != nil {
			return nil, fmt.Errorf("ctgrpc: target %s: %w", u, err)
		}
	}
	switch {
	case u.Host != "":
		return nil, fmt.Errorf("ctgrpc: target %s has the authority %q; a name follows three slashes, as in ct:///svc/echo", u, u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf(`ctgrpc: target %s has more than a path; in a name "?" is written %%3F and "#" is written %%23`, u)
	case name == "":
		return nil, errors.New("ctgrpc: target ct:/// has no name")
	case opts.Dialer == nil:
		return nil, fmt.Errorf("ctgrpc: target %s needs the option ctgrpc.WithDialer", u)
	}
	err := cc.UpdateState(resolver.State{Addresses: []resolver.Address{
		{Addr: name, Attributes: attributes.New(isName{}, true)},
	}})
	return static{}, err
}

// static is a resolver that has said all it has to say.
type static struct{}

func (static) ResolveNow(resolver.ResolveNowOptions) {}
func (static) Close()                                {}
