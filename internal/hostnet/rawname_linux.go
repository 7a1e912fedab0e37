package hostnet

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A RawName is an abstract unix name in the kernel's form, for a caller that connects to it often.
type RawName struct {
	addr   unix.RawSockaddrUnix
	length uintptr
}

// NewRawName returns the form of a name, which begins with @ and has at most 108 bytes.
func NewRawName(name string) *RawName {
	n := &RawName{addr: unix.RawSockaddrUnix{Family: unix.AF_UNIX}}
	for i := 1; i < len(name); i++ { // a NUL is in place of the @
		n.addr.Path[i] = int8(name[i])
	}
	n.length = unsafe.Offsetof(n.addr.Path) + uintptr(len(name))
	return n
}

// Connect connects a socket to the name. An error is an errno.
func (n *RawName) Connect(fd int) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&n.addr)), n.length)
	if errno != 0 {
		return errno
	}
	return nil
}
