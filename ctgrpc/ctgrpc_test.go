package ctgrpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

func requireEmptyCall(t testing.TB, cc grpc.ClientConnInterface, opts ...grpc.CallOption) {
	t.Helper()
	_, err := testpb.NewTestServiceClient(cc).EmptyCall(soon(t), &testpb.Empty{}, opts...)
	require.NoError(t, err)
}

func requireUnavailable(t testing.TB, err error) {
	t.Helper()
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

func payload(b []byte) *testpb.Payload { return &testpb.Payload{Body: b} }

func TestUnary(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		serve(t, listen("svc/echo"), grpc.NewServer())
		client := testpb.NewTestServiceClient(connect(t, "ct:///svc/echo"))
		random := newRandom()
		for _, n := range []int{0, 1, 1000, 64 << 10, 3 << 20} {
			b := random.bytes(n)
			var trailer metadata.MD
			var p peer.Peer
			r, err := client.UnaryCall(soon(t), &testpb.SimpleRequest{Payload: payload(b)}, grpc.Trailer(&trailer), grpc.Peer(&p))
			require.NoError(t, err)
			require.True(t, bytes.Equal(b, r.GetPayload().GetBody()))
			require.Equal(t, []string{sumOf(b)}, trailer[sumKey])
			require.Equal(t, "ct svc/echo", p.Addr.Network()+" "+p.Addr.String())
		}
	})
}

// TestConcurrentCalls has calls of all kinds on one connection.
func TestConcurrentCalls(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		serve(t, listen("svc/echo"), grpc.NewServer())
		client := testpb.NewTestServiceClient(connect(t, "ct:///svc/echo"))
		ctx := soon(t)
		var wg sync.WaitGroup
		for range 4 {
			for _, f := range []func(context.Context, testpb.TestServiceClient) error{unary, serverStream, clientStream, bidiStream} {
				wg.Go(func() {
					if err := f(ctx, client); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	})
}

func unary(ctx context.Context, client testpb.TestServiceClient) error {
	b := newRandom().bytes(10_000)
	for range 50 {
		r, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(b)})
		if err != nil {
			return err
		}
		if !bytes.Equal(b, r.GetPayload().GetBody()) {
			return fmt.Errorf("unary: another answer")
		}
	}
	return nil
}

// sizes returns those of a stream's messages, together more than a fifo holds.
func sizes() []int {
	s := []int{0, 1}
	for i := range 50 {
		s = append(s, 1000*i)
	}
	return append(s, 300_000)
}

// checkSum compares the checksum in the trailer with one's own.
func checkSum(what string, trailer metadata.MD, sum []byte) error {
	if got, want := trailer.Get(sumKey), hex.EncodeToString(sum); len(got) != 1 || got[0] != want {
		return fmt.Errorf("%s: checksum %s, want %s", what, got, want)
	}
	return nil
}

func serverStream(ctx context.Context, client testpb.TestServiceClient) error {
	r := &testpb.StreamingOutputCallRequest{}
	for _, n := range sizes() {
		r.ResponseParameters = append(r.ResponseParameters, &testpb.ResponseParameters{Size: int32(n)})
	}
	stream, err := client.StreamingOutputCall(ctx, r)
	if err != nil {
		return err
	}
	sum := sha256.New()
	for _, n := range sizes() {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if len(m.GetPayload().GetBody()) != n {
			return fmt.Errorf("message of %d bytes, want %d", len(m.GetPayload().GetBody()), n)
		}
		sum.Write(m.GetPayload().GetBody())
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("%v, want EOF", err)
	}
	return checkSum("server stream", stream.Trailer(), sum.Sum(nil))
}

func clientStream(ctx context.Context, client testpb.TestServiceClient) error {
	stream, err := client.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	total, random, sum := 0, newRandom(), sha256.New()
	for _, n := range sizes() {
		b := random.bytes(n)
		sum.Write(b)
		total += n
		if err := stream.Send(&testpb.StreamingInputCallRequest{Payload: payload(b)}); err != nil {
			return err
		}
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if int(r.GetAggregatedPayloadSize()) != total {
		return fmt.Errorf("%d bytes arrived, want %d", r.GetAggregatedPayloadSize(), total)
	}
	return checkSum("client stream", stream.Trailer(), sum.Sum(nil))
}

func bidiStream(ctx context.Context, client testpb.TestServiceClient) error {
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	sent, received := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		random := newRandom()
		for _, n := range sizes() {
			b := random.bytes(n)
			sent.Write(b)
			if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload(b)}); err != nil {
				done <- err
				return
			}
		}
		done <- stream.CloseSend()
	}()
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		received.Write(m.GetPayload().GetBody())
	}
	if err := <-done; err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return fmt.Errorf("bidi stream: what came back is not what was sent")
	}
	return checkSum("bidi stream", stream.Trailer(), received.Sum(nil))
}

func TestServerStreaming(t *testing.T) { testStreaming(t, serverStream) }
func TestClientStreaming(t *testing.T) { testStreaming(t, clientStream) }
func TestBidiStreaming(t *testing.T)   { testStreaming(t, bidiStream) }

func testStreaming(t *testing.T, stream func(context.Context, testpb.TestServiceClient) error) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		serve(t, listen("svc/echo"), grpc.NewServer())
		require.NoError(t, stream(soon(t), testpb.NewTestServiceClient(connect(t, "ct:///svc/echo"))))
	})
}

// echo sends a message on a stream and receives it.
func echo(t testing.TB, stream testpb.TestService_FullDuplexCallClient, message string) {
	t.Helper()
	require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload([]byte(message))}))
	r, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, message, string(r.GetPayload().GetBody()))
}

// TestCancel cancels a call whose peer waits.
func TestCancel(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		serve(t, listen("svc/echo"), grpc.NewServer())
		cc := connect(t, "ct:///svc/echo")
		ctx, cancel := context.WithCancel(soon(t))
		stream, err := testpb.NewTestServiceClient(cc).FullDuplexCall(ctx)
		require.NoError(t, err)
		echo(t, stream, "hello")
		cancel()
		_, err = stream.Recv()
		require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
		requireEmptyCall(t, cc) // the connection is as it was
	})
}

// TestGracefulStop stops a server that has a stream in flight.
func TestGracefulStop(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		server := grpc.NewServer()
		serve(t, listen("svc/echo"), server)
		cc := connect(t, "ct:///svc/echo")
		client := testpb.NewTestServiceClient(cc)
		stream, err := client.FullDuplexCall(soon(t))
		require.NoError(t, err)
		echo(t, stream, "before")

		stopped := make(chan struct{})
		go func() {
			server.GracefulStop()
			close(stopped)
		}()
		require.True(t, cc.WaitForStateChange(soon(t), connectivity.Ready)) // GOAWAY came
		_, err = client.EmptyCall(soon(t), &testpb.Empty{})
		requireUnavailable(t, err)
		echo(t, stream, "after")
		select {
		case <-stopped:
			t.Fatal("GracefulStop did not wait for the stream")
		default:
		}
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		require.Equal(t, io.EOF, err)
		sum := sha256.Sum256([]byte("beforeafter"))
		require.NoError(t, checkSum("stream", stream.Trailer(), sum[:]))
		<-stopped
	})
}

func TestReflection(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		server := grpc.NewServer()
		reflection.Register(server)
		serve(t, listen("svc/echo"), server)
		stream, err := reflectionpb.NewServerReflectionClient(connect(t, "ct:///svc/echo")).ServerReflectionInfo(soon(t))
		require.NoError(t, err)
		ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
			require.NoError(t, stream.Send(r))
			answer, err := stream.Recv()
			require.NoError(t, err)
			return answer
		}
		var names []string
		for _, s := range ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
		}).GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		require.Contains(t, names, testpb.TestService_ServiceDesc.ServiceName)

		files := ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
				FileContainingSymbol: testpb.TestService_ServiceDesc.ServiceName,
			},
		}).GetFileDescriptorResponse().GetFileDescriptorProto()
		require.NotEmpty(t, files)
		var file descriptorpb.FileDescriptorProto
		require.NoError(t, proto.Unmarshal(files[0], &file))
		require.Equal(t, testpb.TestService_ServiceDesc.Metadata, file.GetName())

		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		require.Equal(t, io.EOF, err)
	})
}

// certificate returns a server's credentials for a name, and a client's that
// trust these.
func certificate(t testing.TB, name string) (server, client credentials.TransportCredentials) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}),
		credentials.NewClientTLSFromCert(roots, "")
}

func TestTLS(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		server, client := certificate(t, "localhost")
		serve(t, listen("svc/echo"), grpc.NewServer(grpc.Creds(server)))
		cc := connect(t, "ct:///svc/echo", grpc.WithTransportCredentials(client))
		var p peer.Peer
		requireEmptyCall(t, cc, grpc.Peer(&p))
		require.Equal(t, "tls", p.AuthInfo.AuthType())
		require.NoError(t, bidiStream(soon(t), testpb.NewTestServiceClient(cc)))
	})
}

// TestTLSName has a certificate for another name than localhost.
func TestTLSName(t *testing.T) {
	checkLeaks(t)
	server, client := certificate(t, "echo.example")
	serve(t, listen(t, nil, "svc/echo"), grpc.NewServer(grpc.Creds(server)))
	cc := connect(t, "ct:///svc/echo", grpc.WithTransportCredentials(client))
	_, err := testpb.NewTestServiceClient(cc).EmptyCall(soon(t), &testpb.Empty{})
	requireUnavailable(t, err)
	require.ErrorContains(t, err, "not localhost")

	requireEmptyCall(t, connect(t, "ct:///svc/echo",
		grpc.WithTransportCredentials(client), grpc.WithAuthority("echo.example")))
}

func TestWrongName(t *testing.T) {
	checkLeaks(t)
	serve(t, listen(t, nil, "svc/echo"), grpc.NewServer())
	_, err := testpb.NewTestServiceClient(connect(t, "ct:///svc/ohce")).EmptyCall(soon(t), &testpb.Empty{})
	requireUnavailable(t, err)
	require.ErrorContains(t, err, "dial ct svc/ohce")
}

// TestServerComesLater makes a call before there is a server.
func TestServerComesLater(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		cc := connect(t, "ct:///svc/echo")
		_, err := testpb.NewTestServiceClient(cc).EmptyCall(soon(t), &testpb.Empty{})
		requireUnavailable(t, err)
		answered := make(chan error, 1)
		go func() {
			_, err := testpb.NewTestServiceClient(cc).EmptyCall(soon(t), &testpb.Empty{}, grpc.WaitForReady(true))
			answered <- err
		}()
		serve(t, listen("svc/echo"), grpc.NewServer())
		require.NoError(t, <-answered)
	})
}

// TestServerReplaced has one client of ten servers, one after the other.
func TestServerReplaced(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		cc := connect(t, "ct:///svc/echo")
		client := testpb.NewTestServiceClient(cc)
		for range 10 {
			stop := serve(t, listen("svc/echo"), grpc.NewServer())
			requireEmptyCall(t, cc, grpc.WaitForReady(true))
			stream, err := client.FullDuplexCall(soon(t))
			require.NoError(t, err)
			echo(t, stream, "hello")
			stop()
			_, err = stream.Recv()
			requireUnavailable(t, err)
		}
	})
}

// TestManyClients has a hundred clients, four at a time.
func TestManyClients(t *testing.T) {
	eachWay(t, func(t *testing.T, listen func(string) net.Listener) {
		serve(t, listen("svc/echo"), grpc.NewServer())
		clients := make(chan *grpc.ClientConn, 100)
		for range cap(clients) {
			clients <- connect(t, "ct:///svc/echo")
		}
		close(clients)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for cc := range clients {
					if _, err := testpb.NewTestServiceClient(cc).EmptyCall(soon(t), &testpb.Empty{}); err != nil {
						t.Error(err)
					}
					cc.Close()
				}
			})
		}
		wg.Wait()
	})
}

func TestTargets(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct{ target, name string }{
		{"ct:///svc/echo", "svc/echo"},
		{"ct:svc/echo", "svc/echo"},
		{"ct:/svc/echo", "svc/echo"},
		{"ct:////svc/echo", "/svc/echo"},
		{"ct:///a%3Fb%23c%25d%20e", "a?b#c%d e"},
		{"ct:a%3Fb", "a?b"},
		{"ct:///echo:50051", "echo:50051"},
		{"ct:///例", "例"},
	} {
		stop := serve(t, listen(t, nil, test.name), grpc.NewServer())
		var p peer.Peer
		requireEmptyCall(t, connect(t, test.target), grpc.Peer(&p))
		require.Equal(t, test.name, p.Addr.String())
		stop()
	}
	for _, test := range []struct{ target, message string }{
		{"ct://svc/echo", "as in ct:///svc/echo"},
		{"ct:///echo?x=y", "more than a path"},
		{"ct:///echo?", "more than a path"},
		{"ct:///echo#x", "more than a path"},
		{"ct:///", "no name"},
		{"ct:", "no name"},
		{"ct:a%zz", "invalid URL escape"},
		{"ct:///../x", "in name"},
	} {
		_, err := testpb.NewTestServiceClient(connect(t, test.target)).EmptyCall(soon(t), &testpb.Empty{})
		requireUnavailable(t, err)
		require.ErrorContains(t, err, test.message)
	}
}

// TestRoundRobin has another policy than the one that connects to the first address.
func TestRoundRobin(t *testing.T) {
	checkLeaks(t)
	serve(t, listen(t, nil, "svc/echo"), grpc.NewServer())
	requireEmptyCall(t, connect(t, "ct:///svc/echo", grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`)))
}

// TestWithoutDialer forgets the option.
func TestWithoutDialer(t *testing.T) {
	checkLeaks(t)
	_, err := testpb.NewTestServiceClient(connect(t, "ct:///svc/echo", grpc.WithContextDialer(nil))).EmptyCall(soon(t), &testpb.Empty{})
	requireUnavailable(t, err)
	require.ErrorContains(t, err, "needs the option ctgrpc.WithDialer")
}

// TestOwnDialer gives another dialer in place of the option.
func TestOwnDialer(t *testing.T) {
	checkLeaks(t)
	serve(t, listen(t, nil, "svc/echo"), grpc.NewServer())
	dialer := ctnet.Dialer{ReadBuffer: ctnet.MinBuffer, WriteBuffer: ctnet.MinBuffer}
	cc := connect(t, "ct:///svc/echo", grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
		return dialer.DialContext(ctx, "ct", name)
	}))
	require.NoError(t, bidiStream(soon(t), testpb.NewTestServiceClient(cc)))
}

// TestOtherTargets has targets that are none of this package's, and servers that
// listen with package net, with ctnet, and with ctnet for shared memory only.
func TestOtherTargets(t *testing.T) {
	checkLeaks(t)
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	defer app.Close()
	either := ctnet.ListenConfig{App: app}
	cutThrough := ctnet.ListenConfig{App: app, Path: ctnet.CutThrough}
	listens := []func(context.Context, string, string) (net.Listener, error){
		new(net.ListenConfig).Listen, either.Listen,
	}
	if runtime.GOOS == "linux" {
		listens = append(listens, cutThrough.Listen)
	}
	dir, err := os.MkdirTemp("", "ctgrpc-") // t.TempDir can be too long
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for _, listen := range listens {
		for _, test := range []struct {
			network, address, prefix string
		}{
			{"tcp", "127.0.0.1:0", ""},
			{"tcp", "127.0.0.1:0", "dns:///"},
			{"tcp", "127.0.0.1:0", "passthrough:///"},
			{"unix", filepath.Join(dir, "a"), "unix:"},
			{"unix", filepath.Join(dir, "b"), "unix://"},
			{"unix", filepath.Join(dir, "c"), "passthrough:unix://"},
		} {
			ln, err := listen(t.Context(), test.network, test.address)
			require.NoError(t, err)
			stop := serve(t, ln, grpc.NewServer())
			var p peer.Peer
			requireEmptyCall(t, connect(t, test.prefix+ln.Addr().String()), grpc.Peer(&p), grpc.WaitForReady(true))
			require.Equal(t, test.network, p.Addr.Network())
			stop()
		}
	}
}
