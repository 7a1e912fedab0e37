package pair

import (
	"bytes"
	"context"
	"os"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
)

// maxAnswer is the size of the largest answer that Inspect reads, in bytes.
const maxAnswer = 256 << 20

// Inspect asks the application that listens on a socket for what its [Config.Inspect]
// returns. Only an application of this user or of root is asked; for root, of any user.
func Inspect(ctx context.Context, name string) ([]byte, rendezvous.Cred, error) {
	ch, cred, err := rendezvous.DialName(ctx, name, func(c rendezvous.Cred) bool {
		return rendezvous.Ours(c) || rendezvous.Known(c) && os.Geteuid() == 0
	})
	if err != nil {
		return nil, cred, err
	}
	defer ch.Close()
	done := ch.LimitHandshake(ctx)
	defer done()
	if err := ch.Send(rendezvous.Message{Kind: rendezvous.KindInspect}); err != nil {
		return nil, cred, err
	}
	m, fds, err := ch.Expect(rendezvous.KindSnapshot, 1)
	defer func() { go fds.Close() }() // the other process can make that block
	if err != nil {
		return nil, cred, err
	}
	if m.Size > maxAnswer {
		return nil, cred, rendezvous.ErrProtocol
	}
	mem, err := segpool.OpenShared(fds[0], int(m.Size), segpool.ByMaker)
	if err != nil {
		return nil, cred, err
	}
	defer mem.Free()
	return bytes.Clone(mem.Bytes), cred, nil
}

// answerInspect sends what Config.Inspect returns.
func (h *Host) answerInspect(ch rendezvous.Channel) error {
	b, err := h.Config.Inspect()
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
