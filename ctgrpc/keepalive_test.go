package ctgrpc_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	channelz "google.golang.org/grpc/channelz/service"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
)

// The hours in these tests are those of a testing/synctest bubble, where a
// connection's both ends must be: they pass at once.

var often = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}

// TestKeepalive has both ends send pings for an hour.
func TestKeepalive(t *testing.T) {
	checkLeaks(t)
	synctest.Test(t, func(t *testing.T) {
		server := grpc.NewServer(
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 5 * time.Second}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: often.Time, PermitWithoutStream: true}))
		channelz.RegisterChannelzServiceToServer(server)
		serve(t, listen(t, nil, "svc/echo"), server)
		cc := connect(t, "ct:///svc/echo", grpc.WithKeepaliveParams(often), grpc.WithIdleTimeout(0))

		stream, err := testpb.NewTestServiceClient(cc).FullDuplexCall(t.Context())
		require.NoError(t, err)
		echo(t, stream, "before")
		before := pings(t, cc)
		time.Sleep(time.Hour)
		echo(t, stream, "after")
		require.InDelta(t, before+int64(time.Hour/often.Time), pings(t, cc), 10)
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		require.Equal(t, io.EOF, err)

		time.Sleep(time.Hour) // without a stream
		requireEmptyCall(t, cc)
		require.InDelta(t, before+2*int64(time.Hour/often.Time), pings(t, cc), 20)
	})
}

// pings returns how many the client's only connection has sent.
func pings(t *testing.T, cc *grpc.ClientConn) int64 {
	t.Helper()
	client := channelzpb.NewChannelzClient(cc)
	channels, err := client.GetTopChannels(soon(t), &channelzpb.GetTopChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.GetChannel(), 1)
	require.Len(t, channels.GetChannel()[0].GetSubchannelRef(), 1)
	id := channels.GetChannel()[0].GetSubchannelRef()[0].GetSubchannelId()
	subchannel, err := client.GetSubchannel(soon(t), &channelzpb.GetSubchannelRequest{SubchannelId: id})
	require.NoError(t, err)
	require.Len(t, subchannel.GetSubchannel().GetSocketRef(), 1)
	id = subchannel.GetSubchannel().GetSocketRef()[0].GetSocketId()
	socket, err := client.GetSocket(soon(t), &channelzpb.GetSocketRequest{SocketId: id})
	require.NoError(t, err)
	return socket.GetSocket().GetData().GetKeepAlivesSent()
}

// TestKeepaliveServerHangs has a server that answers nothing once it has sent
// its settings.
func TestKeepaliveServerHangs(t *testing.T) {
	checkLeaks(t)
	synctest.Test(t, func(t *testing.T) {
		ln := listen(t, nil, "svc/hangs")
		go func() {
			conn, err := ln.Accept()
			check(err)
			ln.Close()
			defer conn.Close()
			io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			io.Copy(io.Discard, conn)
		}()
		cc := connect(t, "ct:///svc/hangs", grpc.WithKeepaliveParams(often))
		start := time.Now()
		_, err := testpb.NewTestServiceClient(cc).EmptyCall(t.Context(), &testpb.Empty{})
		requireUnavailable(t, err)
		require.ErrorContains(t, err, "keepalive ping failed")
		require.Equal(t, often.Time+often.Timeout, time.Since(start))
	})
}

// TestKeepaliveClientHangs has a client that does.
func TestKeepaliveClientHangs(t *testing.T) {
	checkLeaks(t)
	synctest.Test(t, func(t *testing.T) {
		server := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 5 * time.Second}))
		serve(t, listen(t, nil, "svc/echo"), server)
		conn := dial(t, "svc/echo")
		start := time.Now()
		io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		io.Copy(io.Discard, conn)
		require.Equal(t, time.Minute+5*time.Second, time.Since(start))
	})
}

// TestIdle leaves a connection alone for longer than gRPC keeps it.
func TestIdle(t *testing.T) {
	checkLeaks(t)
	synctest.Test(t, func(t *testing.T) {
		serve(t, listen(t, nil, "svc/echo"), grpc.NewServer())
		cc := connect(t, "ct:///svc/echo", grpc.WithIdleTimeout(time.Minute))
		for range 10 {
			requireEmptyCall(t, cc)
			time.Sleep(time.Hour)
		}
	})
}
