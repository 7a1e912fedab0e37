//go:build !linux

package ctnet

import (
	"net"
	"path/filepath"
)

// netNamespace returns the same for all: there is one network.
func netNamespace() (id string, ok bool) { return "", true }

func likelyNamespace() (id string, ok bool) { return netNamespace() }

// pendingIn can't tell.
func pendingIn(kernel net.Listener) func() bool { return nil }

// keepNonblocking returns a function that does nothing.
func keepNonblocking(kernel net.Listener) func() { return func() {} }

func socketOnlyIPv6(fd uintptr) bool { return true }

// unixTarget returns the target for the path of a socket file.
func unixTarget(path string) (target, error) {
	key, err := unixKey(path)
	return target{name: "unix:" + path, keys: []string{key}, addr: &net.UnixAddr{Name: path, Net: "unix"}}, err
}

// unixKey returns the key of a listener on a path. It is used within one process.
func unixKey(path string) (string, error) {
	path, err := filepath.Abs(path)
	return "unix:" + path, err
}
