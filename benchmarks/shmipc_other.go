//go:build linux && !amd64 && !arm64

package main

import (
	"context"
	"errors"
	"net"
)

// shmipc-go is for amd64 and arm64 only.

func listenShmipc(string) (net.Listener, string, error) {
	return nil, "", errors.ErrUnsupported
}

func dialShmipc(context.Context, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
