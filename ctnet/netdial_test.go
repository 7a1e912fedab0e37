package ctnet

import (
	"context"
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
	begin := func() (*resolvingDial, context.Context) {
		ctx, cancel := context.WithCancel(t.Context())
		return &resolvingDial{cancel: cancel}, ctx
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

	r, ctx = begin()
	late = made()
	c, err = r.result(kernel, nil)
	require.NoError(t, err)
	require.Same(t, kernel, c)
	require.Equal(t, context.Canceled, r.keep(&late.conn))
	require.NoError(t, ctx.Err())
	requireFates(t, []*fakeIncoming{late}, fateReset)

	r, _ = begin()
	_, err = r.result(nil, errCutThrough)
	require.Equal(t, errCutThrough, err)
}
