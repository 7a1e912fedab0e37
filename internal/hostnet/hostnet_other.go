//go:build !linux

package hostnet

import (
	"net"
	"net/netip"
	"path/filepath"
)

// NetNamespace returns the same for all threads: there is only one namespace.
func NetNamespace() (id string, ok bool) { return "", true }

// LikelyNamespace is NetNamespace.
func LikelyNamespace() (id string, ok bool) { return NetNamespace() }

// OneNamespace returns true.
func OneNamespace() bool { return true }

// Pending returns nil: the socket can't be asked.
func Pending(kernel net.Listener) func() bool { return nil }

// KeepNonblocking returns a function that does nothing.
func KeepNonblocking(kernel net.Listener) func() { return func() {} }

func socketOnlyIPv6(fd uintptr) bool { return true }

// SocketFile returns an identity of the socket file at a path, for use within this process.
func SocketFile(path string) (id string, err error) { return filepath.Abs(path) }

// MayConnect returns nil: only this process finds a listener by the file.
func MayConnect(path string) error { return nil }

// IsAbstract returns false: only Linux has the abstract namespace.
func IsAbstract(path string) bool { return false }

// Owns returns false: only on Linux is there another process at the other end.
func Owns(uid int, addr net.Addr) bool { return false }

// PeerElsewhere returns false: there is only one namespace.
func PeerElsewhere(kernel net.Conn) bool { return false }

// SocketUID returns false: the kernel can't be asked.
func SocketUID(local, remote netip.AddrPort) (uid int, ok bool) { return -1, false }

// PeerUID returns false: the kernel can't be asked.
func PeerUID(kernel net.Conn) (uid int, ok bool) { return -1, false }
