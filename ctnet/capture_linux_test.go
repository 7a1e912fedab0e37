package ctnet

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/asuser"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/tap"
)

// askCapture sends the message that asks for a capture.
func askCapture(t *testing.T, ch rendezvous.Channel, id string) {
	t.Helper()
	m := rendezvous.Message{Kind: rendezvous.KindCapture}
	m.NameLen = uint32(copy(m.Name[:], id))
	require.NoError(t, ch.Send(m))
}

// TestCaptureForeign has another user ask for a capture, whom the listener lets connect and does not let connect.
func TestCaptureForeign(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	useRunDir(t)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	for name, allow := range map[string]bool{"allowed": true, "forbidden": false} {
		echoServer(t, server, ListenConfig{App: server, Allow: func(c Cred) bool { return allow || c.UID == os.Geteuid() }}, name)
		c, err := dialAs(client, name)
		require.NoError(t, err)
		defer c.Close()
		var id string
		for _, info := range server.Snapshot().Connections {
			if info.Remote == c.LocalAddr().String() {
				id = info.ID
			}
		}
		require.NotEmpty(t, id)
		var ch rendezvous.Channel
		asuser.Do(t, 54321, func() { ch = fakeDial(t, name) })
		askCapture(t, ch, id)
		requireRefused(t, ch, syscall.EACCES)

		// So it is because of the user.
		ch = fakeDial(t, name)
		askCapture(t, ch, id)
		_, _, err = ch.Expect(rendezvous.KindDone, 0)
		require.NoError(t, err)
	}
}

// TestCaptureAskerTalks has an asker say more than it may, and shut down a part of its channel: its capture is over,
// and the connection can be captured again.
func TestCaptureAskerTalks(t *testing.T) {
	useRunDir(t)
	server, client := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	echoServer(t, server, ListenConfig{App: server}, "echo")
	c, err := dialAs(client, "echo")
	require.NoError(t, err)
	defer c.Close()
	id := server.Snapshot().Connections[0].ID
	for _, say := range []func(ch rendezvous.Channel) error{
		func(ch rendezvous.Channel) error { return ch.Send(rendezvous.Message{Kind: rendezvous.KindFull}) },
		func(ch rendezvous.Channel) error { _, err := ch.Write([]byte("garbage")); return err },
		func(ch rendezvous.Channel) error { return ch.CloseWrite() },
	} {
		ch := fakeDial(t, "echo")
		askCapture(t, ch, id)
		_, _, err := ch.Expect(rendezvous.KindDone, 0)
		require.NoError(t, err)
		require.NoError(t, say(ch))
		var kinds []uint32
		block := make([]byte, tap.MaxBlock)
		for {
			n, _, err := ch.ReceiveBlock(block)
			if rendezvous.IsEnd(err) {
				break
			}
			require.NoError(t, err)
			r, _, err := tap.Cut(block[:n])
			require.NoError(t, err)
			kinds = append(kinds, r.Kind)
		}
		require.Equal(t, []uint32{tap.Start, tap.Over}, kinds)
	}
}
