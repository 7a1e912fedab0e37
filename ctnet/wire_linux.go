package ctnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/syserr"
)

// The control channel of a pair is a SOCK_SEQPACKET socket, which keeps
// messages and the descriptors that come with them together. After the handshake
// it is silent but for segments that come and go; its end is the peer's end.

const (
	wireMagic   = 0x74656e74 // "tnet"
	wireVersion = 2
)

// The kinds of messages.
const (
	kindHello    = 1 + iota // client: asks to be attached; 3 descriptors
	kindWelcome             // server: yes, 2 descriptors; or no, with an errno
	kindAdd                 // client: a new segment; 1 descriptor
	kindAdded               // server: the segment is mapped, or an errno
	kindDrop                // client: a segment is not used any more
	kindRetire              // server: the listener is closed
	kindInspect             // in place of hello: asks for a snapshot
	kindSnapshot            // server: the snapshot; 1 descriptor
	kindTakeover            // in place of hello: another listener has the address now
	kindTaken               // server: no new connections come here
)

// A message is the same for all kinds; what a kind has no use for is 0.
type message struct {
	Magic    uint32
	Version  uint16
	Kind     uint16
	App      uint64 // the sender's
	Worker   uint32 // whose sleep word speaks for the sender
	Segment  uint32
	ToServer uint32 // fifo sizes: asked for, or decided
	ToClient uint32
	Errno    uint32
	Size     uint32 // of the snapshot
	NameLen  uint32
	Name     [maxTarget]byte // what was dialed, see target
}

// maxTarget is the longest name of a target: a network and a name, or a path.
const maxTarget = maxName + 8

var messageSize = binary.Size(message{})

// maxFDs is the most descriptors that come with a message.
const maxFDs = 3

// handshakeTimeout bounds how long either side waits for the other's first
// words. One that is alive answers within a millisecond.
const handshakeTimeout = 5 * time.Second

// A channel is one end of a control channel.
type channel struct {
	*net.UnixConn
}

// send sends a message and descriptors. It never waits: that many messages are
// not under way between processes that are well.
func (ch channel) send(m message, fds ...int) error {
	m.Magic, m.Version = wireMagic, wireVersion
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

// errProtocol is a peer that says what it must not.
var errProtocol = syserr.New(syscall.EPROTO, "the peer broke the protocol")

// broken is errProtocol with err for what the peer did, unless err is one of
// this system's.
func broken(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return err
	}
	return syserr.New(syscall.EPROTO, "the peer broke the protocol: "+err.Error())
}

// receive returns the next message, and its descriptors, which the caller owns.
// One of another version or size is an error; which kind it is, is for the caller
// to see.
func (ch channel) receive() (m message, fds []int, err error) {
	b := make([]byte, messageSize+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, readErr := ch.ReadMsgUnix(b, oob)
	// Also after an error: an empty packet looks like the end, but may have
	// brought descriptors.
	fds, err = parseRights(oob[:oobn])
	if readErr != nil {
		closeAll(fds)
		return m, nil, readErr
	}
	if err != nil || n < 8 || binary.LittleEndian.Uint32(b) != wireMagic {
		err = errProtocol
	} else if v := binary.LittleEndian.Uint16(b[4:]); v != wireVersion {
		err = versionProblem(v) // whose messages may have another size
	} else if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || n != messageSize {
		err = errProtocol
	}
	if err != nil {
		closeAll(fds)
		return m, nil, err
	}
	binary.Decode(b[:n], binary.LittleEndian, &m)
	return m, fds, nil
}

// expect receives a message of one kind with a number of descriptors.
func (ch channel) expect(kind uint16, nfds int) (message, []int, error) {
	m, fds, err := ch.receive()
	if err == nil {
		err = m.check(kind, nfds, fds)
	}
	return m, fds, err
}

// check checks that m is of one kind and came with a number of descriptors, and
// closes these otherwise.
func (m *message) check(kind uint16, nfds int, fds []int) (err error) {
	switch {
	case m.Kind == kind && m.Errno != 0:
		err = syscall.Errno(m.Errno)
	case m.Kind != kind || len(fds) != nfds:
		err = errProtocol
	default:
		return nil
	}
	closeAll(fds)
	return err
}

func parseRights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		// Credentials and the like don't come unless asked for.
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// peerCred returns who is at the other end, as the kernel says.
func (ch channel) peerCred() (Cred, error) {
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

// trusted is the rule for who may be at the other end if there is no other.
func trusted(c Cred) bool { return c.UID == os.Geteuid() || c.UID == 0 }

// aLongTimeAgo is a deadline that ends what is under way.
var aLongTimeAgo = time.Unix(1, 0)

// limitHandshake makes what is done on ch fail when the handshake takes too
// long or ctx ends, until the returned function is called. That one returns false
// if ctx has ended: then ch can't be used any more.
func (ch channel) limitHandshake(ctx context.Context) (done func() bool) {
	ch.SetDeadline(time.Now().Add(handshakeTimeout))
	stop := context.AfterFunc(ctx, func() { ch.SetDeadline(aLongTimeAgo) })
	return func() bool {
		if !stop() {
			return false
		}
		ch.SetDeadline(time.Time{})
		return true
	}
}
