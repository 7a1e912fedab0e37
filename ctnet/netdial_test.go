package ctnet

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestResolvingDial makes connections through shared memory before and after a Dial of package
// net's, which resolves the address, returns. The program gets one connection: the first through
// shared memory if it comes in time. The others are closed.
func TestResolvingDial(t *testing.T) {
	made := func() *fakeIncoming {
		h := newFakeIncoming()
		h.answer()
		return h
	}
	app, err := NewApp(AppConfig{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer app.Close()
	var told *Fallback
	begin := func() (*resolvingDial, context.Context) {
		ctx, cancel := context.WithCancel(t.Context())
		told = nil
		n := netDial{app: app.a, network: "tcp", tell: func(f *Fallback) { told = f }}
		return &resolvingDial{netDial: n, cancel: cancel}, ctx
	}
	kernel, peer := net.Pipe()
	defer peer.Close()

	r, ctx := begin()
	first, second, late := made(), made(), made()
	require.Equal(t, errCutThrough, r.keep(&first.conn))
	require.Error(t, ctx.Err(), "package net's Dial goes on")
	require.Equal(t, context.Canceled, r.keep(&second.conn))
	c, err := r.result(kernel, nil)
	require.NoError(t, err)
	require.Same(t, &first.conn, c.(*Conn).c)
	_, err = peer.Read(make([]byte, 1))
	require.Error(t, err, "the kernel's connection is still open")
	require.Equal(t, context.Canceled, r.keep(&late.conn))
	requireFates(t, []*fakeIncoming{first, second, late}, fateAnswered, fateReset, fateReset)
	require.Nil(t, told)

	r, ctx = begin()
	r.failed = []failedAttempt{{"x", attempt{err: errHandedOn}}, {"pipe", attempt{err: errLocalAddr}}, {"y", attempt{err: errHandedOn}}}
	late = made()
	c, err = r.result(kernel, nil)
	require.NoError(t, err)
	require.Same(t, kernel, c)
	require.Equal(t, ReasonHasLocalAddr, told.Reason, "of another address")
	require.Equal(t, context.Canceled, r.keep(&late.conn))
	require.NoError(t, ctx.Err())
	requireFates(t, []*fakeIncoming{late}, fateReset)

	r, _ = begin()
	_, err = r.result(nil, errCutThrough)
	require.Equal(t, errCutThrough, err)
	require.Nil(t, told)
}
