package rendezvous

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
)

// After the answer to a capture the channel carries blocks of records in place of messages, in one direction.

// SendBlock sends a block. Unlike Send it waits while the socket's queue is full, until the deadline for
// writing.
func (ch Channel) SendBlock(b []byte) error {
	raw, err := ch.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sendErr))
}

// ReceiveBlock receives a block into b. The error is ErrProtocol if the block is larger. The caller owns
// the descriptors that came with it, of which there should be none.
func (ch Channel) ReceiveBlock(b []byte) (n int, fds foreign.FDs, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, readErr := ch.ReadMsgUnix(b, oob)
	fds, _, err = parseControl(oob[:oobn])
	switch {
	case readErr != nil:
		return 0, fds, readErr
	case err != nil || len(fds) > 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return 0, fds, ErrProtocol
	}
	return n, fds, nil
}

// PeerClosed reports whether the other end of the channel is closed, or this one. It does not wait.
func (ch Channel) PeerClosed() bool {
	raw, err := ch.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ := unix.Poll(p, 0)
		closed = n > 0 // POLLHUP and POLLERR are always asked for
	})
	return closed || err != nil
}
