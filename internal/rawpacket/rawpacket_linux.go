// Package rawpacket sends packets that no correct process sends, for tests.
package rawpacket

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Send sends a packet with descriptors on a socket. Without bytes it is empty, which package unix
// can't send with descriptors. Send does not wait.
func Send(fd int, b []byte, fds ...int) error {
	var hdr unix.Msghdr
	if len(b) > 0 {
		iov := unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		hdr.Iov = &iov
		hdr.SetIovlen(1)
	}
	if len(fds) > 0 {
		oob := unix.UnixRights(fds...)
		hdr.Control = &oob[0]
		hdr.SetControllen(len(oob))
	}
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdr)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if errno != 0 {
		return errno
	}
	return nil
}

// SendOn is Send for a connection of package net.
func SendOn(c syscall.Conn, b []byte, fds ...int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = Send(int(fd), b, fds...) }); err != nil {
		return err
	}
	return sendErr
}
