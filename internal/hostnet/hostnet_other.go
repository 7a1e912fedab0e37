//go:build !linux

package hostnet

import (
	"net"
	"path/filepath"
)

// NetNamespace returns the same for all: there is one network.
func NetNamespace() (id string, ok bool) { return "", true }

// LikelyNamespace is NetNamespace.
func LikelyNamespace() (id string, ok bool) { return NetNamespace() }

// Pending can't tell.
func Pending(kernel net.Listener) func() bool { return nil }

// KeepNonblocking returns a function that does nothing.
func KeepNonblocking(kernel net.Listener) func() { return func() {} }

func socketOnlyIPv6(fd uintptr) bool { return true }

// SocketFile returns what identifies the socket file at a path, within this process.
func SocketFile(path string) (id string, err error) { return filepath.Abs(path) }

// MayConnect returns nil: what the file is found by is private to this process.
func MayConnect(path string) error { return nil }

// IsAbstract returns false: only Linux has the abstract namespace.
func IsAbstract(path string) bool { return false }
