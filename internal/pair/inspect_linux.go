package pair

import (
	"bytes"
	"context"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/syserr"
)

// MaxAnswer is the size of the largest answer that [Config.Inspect] may return, in bytes. No larger
// one is read.
const MaxAnswer = 128 << 20

// An Inspection is a connection to an application's socket, for one question.
type Inspection struct {
	Cred rendezvous.Cred // of the application's process
	ch   rendezvous.Channel
}

// Reach connects to a socket, as [rendezvous.List] names it. Only an application of this user or of
// root is asked; for root, of any user. The caller closes the Inspection.
func Reach(ctx context.Context, name string) (*Inspection, error) {
	ch, cred, err := rendezvous.DialName(ctx, name, func(c rendezvous.Cred) bool {
		return rendezvous.Ours(c) || rendezvous.Known(c) && os.Geteuid() == 0
	})
	if err != nil {
		return nil, err
	}
	return &Inspection{cred, ch}, nil
}

// Close ends the Inspection.
func (i *Inspection) Close() { i.ch.Close() }

// ask asks a question about the connection with an ID, and returns the answer, which may be anything. The caller
// closes the descriptors, also with an error, in a goroutine of its own: the other process can make that block.
// The error is ESRCH if the ID is longer than any is.
func (i *Inspection) ask(ctx context.Context, kind uint16, id string) (m rendezvous.Message, fds foreign.FDs, err error) {
	defer i.ch.LimitHandshake(ctx)()
	m.Kind = kind
	if len(id) > len(m.Name) {
		return m, nil, syscall.ESRCH
	}
	m.NameLen = uint32(copy(m.Name[:], id))
	if err := i.ch.Send(m); err != nil {
		return m, nil, err
	}
	return i.ch.Receive()
}

// Snapshot asks for what the application's [Config.Inspect] returns for an ID. A version that doesn't know
// the ID in the question takes it for "". The error is ESRCH if the ID is longer than any is.
func (i *Inspection) Snapshot(ctx context.Context, id string) ([]byte, error) {
	m, fds, err := i.ask(ctx, rendezvous.KindInspect, id)
	defer func() { go fds.Close() }()
	switch {
	case err != nil:
	case m.Kind == rendezvous.KindWelcome && i.Cred.UID != os.Geteuid():
		err = syscall.EACCES // root's, which tells nobody else
	default:
		err = m.Check(rendezvous.KindSnapshot, 1, fds)
	}
	if err != nil {
		return nil, err
	}
	if m.Size > MaxAnswer {
		return nil, ErrTooLarge
	}
	mem, err := segpool.OpenShared(fds[0], int(m.Size), segpool.ByMaker)
	if err != nil {
		return nil, rendezvous.Broken(err)
	}
	defer mem.Free()
	return bytes.Clone(mem.Bytes), nil
}

// ErrTooLarge means that an application's answer is larger than an honest one is.
var ErrTooLarge = syserr.New(syscall.EPROTO, "its answer is larger than any answer may be")

// Reset asks for the reset of the connection with an ID. The error is ESRCH if there is none, and
// EPROTO if the application's ctnet is of a version that doesn't know the question.
func (i *Inspection) Reset(ctx context.Context, id string) error {
	m, fds, err := i.ask(ctx, rendezvous.KindReset, id)
	defer func() { go fds.Close() }()
	if err == nil && m.Kind == rendezvous.KindWelcome {
		return ErrNoReset
	}
	if err == nil {
		err = m.Check(rendezvous.KindDone, 0, fds)
	}
	return err
}

// ErrNoReset is the answer of a version that can't reset a connection when it is asked to.
var ErrNoReset = syserr.New(syscall.EPROTO, "its version of ctnet can't reset a connection from outside")

// answerReset does what the message of an Inspection asks for.
func (h *Host) answerReset(ch rendezvous.Channel, m rendezvous.Message) error {
	answer := rendezvous.Message{Kind: rendezvous.KindDone}
	if !h.Config.Reset(m.Target()) {
		answer.Errno = uint32(syscall.ESRCH)
	}
	return ch.Send(answer)
}

// answerInspect sends what Config.Inspect returns for the message of an Inspection.
func (h *Host) answerInspect(ch rendezvous.Channel, m rendezvous.Message) error {
	b, err := h.Config.Inspect(m.Target())
	if err != nil {
		return err
	}
	mem, fd, err := segpool.CreateShared("ctnet snapshot", len(b), segpool.ByMaker)
	if err != nil {
		return err
	}
	defer mem.Free()
	defer unix.Close(fd)
	copy(mem.Bytes, b)
	return ch.Send(rendezvous.Message{Kind: rendezvous.KindSnapshot, Size: uint32(len(b))}, fd)
}
