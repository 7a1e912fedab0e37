package rendezvous

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/syserr"
)

// The control channel of a pair is a SOCK_SEQPACKET socket, which keeps a message and its
// descriptors together. After the handshake it carries only messages about segments, and
// retire. It ends when the peer's process ends.

// HandshakeTimeout is how long a client waits for each answer of the server. A process that
// runs answers within a millisecond.
const HandshakeTimeout = 5 * time.Second

// A Channel is one end of a control channel.
type Channel struct {
	*net.UnixConn
}

// Send sends a message and descriptors. It never waits: if the socket's queue is full it fails,
// which a peer that keeps to the protocol never causes.
func (ch Channel) Send(m Message, fds ...int) error {
	m.Magic, m.Version = Magic, Version
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, &m)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := ch.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), b.Bytes(), oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sendErr))
}

// versionError says that the peer speaks another version.
func versionError(v uint16) error {
	return syserr.New(syscall.EPROTONOSUPPORT,
		fmt.Sprintf("the other process speaks version %d of ctnet's protocol and this one version %d; build both with the same ctnet", v, Version))
}

// Receive returns the next message and its descriptors, which the caller owns, also if Receive
// fails. It fails if the message has another version or size, and with ErrNoRoom, returning the
// message, if some of its descriptors were lost. The caller checks the kind.
func (ch Channel) Receive() (m Message, fds foreign.FDs, err error) {
	m, fds, _, err = ch.receive(0)
	return m, fds, err
}

// receive is Receive with more room for control messages. It returns the number of the process that
// has sent the message, if the kernel was asked to say it and there is room, and -1 otherwise.
func (ch Channel) receive(more int) (m Message, fds foreign.FDs, sender int, err error) {
	b := make([]byte, MessageSize+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs)+more)
	n, oobn, flags, _, readErr := ch.ReadMsgUnix(b, oob)
	// Also after an error: an empty packet is reported as the end, but may carry
	// descriptors.
	fds, sender, err = parseControl(oob[:oobn])
	if readErr != nil {
		return m, fds, sender, readErr
	}
	if err != nil || n < 8 || binary.LittleEndian.Uint32(b) != Magic {
		err = ErrProtocol
	} else if v := binary.LittleEndian.Uint16(b[4:]); v != Version {
		err = versionError(v) // before the size, which may differ in another version
	} else if flags&unix.MSG_TRUNC != 0 || n != MessageSize {
		err = ErrProtocol
	}
	if err != nil {
		return m, fds, sender, err
	}
	binary.Decode(b[:n], binary.LittleEndian, &m)
	if flags&unix.MSG_CTRUNC != 0 {
		if len(fds) >= maxFDs {
			return m, fds, sender, ErrProtocol
		}
		err = ErrNoRoom // in this process
	}
	return m, fds, sender, err
}

// AskSender has the kernel say who sends the messages that come from now on, until
// [Channel.ExpectFrom].
func (ch Channel) AskSender() error { return ch.passCred(1) }

func (ch Channel) passCred(on int) error {
	raw, err := ch.SyscallConn()
	if err != nil {
		return err
	}
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		sockErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, on)
	})
	return errors.Join(err, os.NewSyscallError("setsockopt", sockErr))
}

// ExpectFrom is [Channel.Expect] for a message after AskSender that is to come from the process
// with credentials c. The error is ESTALE if another process has sent it: the socket that was
// dialed has been handed over since, and c are those of its owner then.
func (ch Channel) ExpectFrom(c Cred, kind uint16, nfds int) (Message, foreign.FDs, error) {
	m, fds, sender, err := ch.receive(unix.CmsgSpace(unix.SizeofUcred))
	switch {
	case err != nil:
	case sender != c.PID:
		err = syscall.ESTALE
	default:
		if err = ch.passCred(0); err == nil {
			err = m.Check(kind, nfds, fds)
		}
	}
	return m, fds, err
}

// IsShortage reports whether err says that the system is short of memory, which may be over soon.
func IsShortage(err error) bool {
	return errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)
}

// SendPatiently is Send for a goroutine that can wait: it tries for a while if there is no memory.
func (ch Channel) SendPatiently(m Message, fds ...int) error {
	for n := 0; ; n++ {
		err := ch.Send(m, fds...)
		if !IsShortage(err) || n == 100 {
			return err
		}
		time.Sleep(shortagePause)
	}
}

// shortagePause is the time between two tries when the system is short of memory.
const shortagePause = 10 * time.Millisecond

// ReceivePatiently is Receive, but waits while there is no memory.
func (ch Channel) ReceivePatiently() (m Message, fds foreign.FDs, err error) {
	for {
		if m, fds, err = ch.Receive(); !IsShortage(err) {
			return m, fds, err
		}
		time.Sleep(shortagePause)
	}
}

// Expect receives a message of one kind with nfds descriptors, which the caller owns, also if
// Expect fails.
func (ch Channel) Expect(kind uint16, nfds int) (Message, foreign.FDs, error) {
	m, fds, err := ch.Receive()
	if err == nil {
		err = m.Check(kind, nfds, fds)
	}
	return m, fds, err
}

// Check checks that m is of one kind, says no errno, and came with nfds descriptors.
func (m *Message) Check(kind uint16, nfds int, fds foreign.FDs) error {
	switch {
	case m.Kind == kind && m.Errno != 0:
		return syscall.Errno(m.Errno)
	case m.Kind != kind || len(fds) != nfds:
		return ErrProtocol
	}
	return nil
}

// parseControl returns the descriptors and the sender's number in control messages.
func parseControl(oob []byte) (fds foreign.FDs, sender int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, -1, err
	}
	sender = -1
	for i := range msgs {
		// The kernel sends no other kinds than these two, as nobody has asked for them.
		if u, err := unix.ParseUnixCredentials(&msgs[i]); err == nil {
			sender = int(u.Pid)
			continue
		}
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, sender, err
		}
		fds = append(fds, more...)
	}
	return fds, sender, nil
}

// HangUp ends the channel at both ends, and never blocks, as to close it can: the peer's
// messages may have come with descriptors whose close blocks. Messages that have come can
// still be received.
func (ch Channel) HangUp() {
	ch.CloseRead()
	ch.CloseWrite()
}

// PeerCred returns the credentials of the process at the other end, as the kernel says.
func (ch Channel) PeerCred() (Cred, error) {
	raw, err := ch.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var u *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		u, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, os.NewSyscallError("getsockopt", sockErr)); err != nil {
		return Cred{}, err
	}
	return Cred{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid)}, nil
}

// soPeerPidfd is SO_PEERPIDFD, since Linux 6.5.
const soPeerPidfd = 0x4d

// PeerProcess returns a descriptor that becomes readable when the process at the other end
// ends, which the caller closes, or -1 if there is none to be had. The channel's own end does
// not say that for sure: a child may have inherited the socket.
func (ch Channel) PeerProcess(c Cred) (fd int) {
	if c.PID == os.Getpid() {
		return -1 // another application of this process
	}
	fd = -1
	raw, err := ch.SyscallConn()
	if err != nil {
		return -1
	}
	raw.Control(func(s uintptr) {
		fd, err = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, soPeerPidfd)
	})
	if err == nil {
		return fd
	}
	if c.PID <= 0 {
		return -1
	}
	// The number may be another process's by now, but not if the first one is alive still,
	// which the caller finds out: it has the channel's end.
	if fd, err = unix.PidfdOpen(c.PID, 0); err != nil {
		return -1
	}
	return fd
}

// IsEnd reports whether err says that the other end of a channel was closed.
func IsEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// aLongTimeAgo is a deadline that ends the calls under way.
var aLongTimeAgo = time.Unix(1, 0)

// LimitHandshake makes calls on ch fail after HandshakeTimeout or when ctx ends, until done is
// called. done returns false if ctx has ended: then ch can't be used any more.
func (ch Channel) LimitHandshake(ctx context.Context) (done func() bool) {
	ch.SetDeadline(time.Now().Add(HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { ch.SetDeadline(aLongTimeAgo) })
	return func() bool {
		if !stop() {
			return false
		}
		ch.SetDeadline(time.Time{})
		return true
	}
}
