//go:build before

package main

import (
	"context"
	"net"

	"cutthrough.example/ctnet"
)

// dial connects. Commits before Dialer.Fallback can't say why not through shared memory.
func dial(ctx context.Context, network, address string) (c net.Conn, why string, err error) {
	c, err = ctnet.DialContext(ctx, network, address)
	return c, "unknown", err
}
