package integrations

import (
	"context"
	"fmt"
	"io"
	"testing"

	"cutthrough.example/ctgrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// google.golang.org/grpc. In place of
//
//	ln, err := net.Listen("tcp", "localhost:50051")
//	err = server.Serve(ln)
//
//	conn, err := grpc.NewClient("localhost:50051", credentials)
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:50051")
//	err = server.Serve(ln)
//
//	conn, err := grpc.NewClient("localhost:50051", ctgrpc.WithDialer(), credentials)
//
// or, without a port,
//
//	ln, err := ctnet.Listen("ct", "svc/echo")
//	err = server.Serve(ln)
//
//	conn, err := grpc.NewClient("ct:///svc/echo", ctgrpc.WithDialer(), credentials)

// target returns what a gRPC client connects to.
func (ln *listener) target() string {
	switch ln.place.kind {
	case "ct":
		return "ct:///" + ln.Addr().String()
	case "unix":
		return "unix:" + ln.Addr().String()
	}
	return ln.host
}

type grpcService struct {
	testpb.UnimplementedTestServiceServer
}

func (grpcService) UnaryCall(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if c := r.GetResponseStatus().GetCode(); c != 0 {
		return nil, status.Error(codes.Code(c), "as you wish")
	}
	return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (grpcService) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

func TestGRPC(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		testGRPC(t, n, insecure.NewCredentials(), insecure.NewCredentials())
	})
}

func TestGRPCWithTLS(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		server, client := certificate(t)
		testGRPC(t, n, credentials.NewTLS(server), credentials.NewTLS(client))
	})
}

func testGRPC(t *testing.T, n *place, server, client credentials.TransportCredentials) {
	ln := n.listen(t)
	s := grpc.NewServer(grpc.Creds(server))
	testpb.RegisterTestServiceServer(s, grpcService{})
	background(t, func() error { return s.Serve(ln) }, func() error { s.Stop(); return nil })

	options := []grpc.DialOption{grpc.WithTransportCredentials(client)}
	if !n.netClient {
		options = append(options, ctgrpc.WithDialer())
	}
	cc, err := grpc.NewClient(ln.target(), options...)
	require.NoError(t, err)
	defer cc.Close()
	service := testpb.NewTestServiceClient(cc)

	_, err = service.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound)}})
	require.Equal(t, codes.NotFound, status.Code(err))
	inParallel(t, 4, func(i int) error {
		for _, n := range []int{0, 1, 1000, 100_000 * i} {
			want := string(randomBytes(fmt.Sprint(i, n), n))
			r, err := service.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(want)}})
			if err != nil {
				return err
			}
			if got := string(r.GetPayload().GetBody()); got != want {
				return fmt.Errorf("%d bytes, want %d others", len(got), n)
			}
		}

		stream, err := service.FullDuplexCall(t.Context())
		if err != nil {
			return err
		}
		pr, pw := io.Pipe()
		defer pr.Close()
		const size = 1 << 20
		go func() {
			for r, b := random(fmt.Sprint(i), size), make([]byte, 10_000); ; {
				n, err := r.Read(b)
				if err != nil {
					stream.CloseSend()
					return
				}
				if stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: b[:n]}}) != nil {
					return
				}
			}
		}()
		go func() {
			for {
				m, err := stream.Recv()
				if err != nil {
					pw.CloseWithError(err) // io.EOF, if all is well
					return
				}
				pw.Write(m.GetPayload().GetBody())
			}
		}()
		return checkSum(pr, fmt.Sprint(i), size)
	})
}
