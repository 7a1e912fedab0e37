//go:build !before

package main

import (
	"context"
	"fmt"
	"net"

	"cutthrough.example/ctnet"
)

// dial connects, and says why not through shared memory.
func dial(ctx context.Context, network, address string) (c net.Conn, why string, err error) {
	d := ctnet.Dialer{Fallback: func(f *ctnet.Fallback) { why = fmt.Sprintf("%s: %v", f.Reason, f.Err) }}
	if c, err = d.DialContext(ctx, network, address); err != nil {
		why = err.Error()
	}
	return c, why, err
}
