package ctgrpc_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"cutthrough.example/ctgrpc"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// TestMain gives the tests a directory of their own. One of them starts the
// binary again as a server.
func TestMain(m *testing.M) {
	if name := os.Getenv("CTGRPC_TEST_SERVE"); name != "" {
		serveUntilStdinCloses(name)
		return
	}
	dir, err := os.MkdirTemp("", "ctgrpc-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("CTNET_DIR", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// eachWay runs a test with client and server in one application, and in two,
// which meet as separate processes do.
func eachWay(t *testing.T, test func(t *testing.T, listen func(name string) net.Listener)) {
	t.Run("one application", func(t *testing.T) {
		checkLeaks(t)
		test(t, func(name string) net.Listener { return listen(t, nil, name) })
	})
	if runtime.GOOS != "linux" {
		return // applications meet on Linux only
	}
	t.Run("two applications", func(t *testing.T) {
		checkLeaks(t)
		app, err := ctnet.NewApp(ctnet.AppConfig{})
		require.NoError(t, err)
		t.Cleanup(func() { app.Close() })
		test(t, func(name string) net.Listener { return listen(t, app, name) })
	})
}

func listen(t testing.TB, app *ctnet.App, name string) net.Listener {
	t.Helper()
	lc := ctnet.ListenConfig{App: app}
	ln, err := lc.Listen(t.Context(), "ct", name)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t testing.TB, name string) net.Conn {
	t.Helper()
	c, err := ctnet.Dial("ct", name)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// serve serves the test service on ln until the test ends, or stop is called.
func serve(t testing.TB, ln net.Listener, s *grpc.Server) (stop func()) {
	t.Helper()
	testpb.RegisterTestServiceServer(s, service{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		require.NoError(t, <-served)
	})
	t.Cleanup(stop)
	return stop
}

// connect returns a client of a target that reconnects without much delay.
func connect(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append([]grpc.DialOption{
		ctgrpc.WithDialer(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// soon is the context of calls that should take no time.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A service answers with what it is sent, or with what its random numbers give,
// and says at the end of a stream what checksum the bytes had that it saw.
type service struct {
	testpb.UnimplementedTestServiceServer
}

const sumKey = "sha256"

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (service) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (service) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	grpc.SetTrailer(ctx, metadata.Pairs(sumKey, sumOf(r.GetPayload().GetBody())))
	return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (service) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	random, sum := newRandom(), sha256.New()
	for _, p := range r.GetResponseParameters() {
		b := random.bytes(int(p.GetSize()))
		sum.Write(b)
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: b}}); err != nil {
			return err
		}
	}
	s.SetTrailer(metadata.Pairs(sumKey, hex.EncodeToString(sum.Sum(nil))))
	return nil
}

func (service) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	n, sum := 0, sha256.New()
	for {
		r, err := s.Recv()
		if err == io.EOF {
			s.SetTrailer(metadata.Pairs(sumKey, hex.EncodeToString(sum.Sum(nil))))
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		n += len(r.GetPayload().GetBody())
		sum.Write(r.GetPayload().GetBody())
	}
}

func (service) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	sum := sha256.New()
	for {
		r, err := s.Recv()
		if err == io.EOF {
			s.SetTrailer(metadata.Pairs(sumKey, hex.EncodeToString(sum.Sum(nil))))
			return nil
		}
		if err != nil {
			return err
		}
		sum.Write(r.GetPayload().GetBody())
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// A random makes the messages of a stream.
type random struct{ *rand.ChaCha8 }

func newRandom() random { return random{rand.NewChaCha8([32]byte{})} }

func (r random) bytes(n int) []byte {
	b := make([]byte, n)
	r.Read(b)
	return b
}

// checkLeaks fails a test that leaves anything behind.
func checkLeaks(t testing.TB) {
	t.Helper()
	warmUp()
	leakcheck.Check(t)
}

// warmUp has the runtime and the process's own application open what they keep.
var warmUp = sync.OnceFunc(func() {
	before := leakcheck.Now().Goroutines
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	check(err)
	const name = "warm-up"
	lc := ctnet.ListenConfig{App: app}
	_, err = lc.Listen(context.Background(), "ct", name)
	check(err)
	c, err := ctnet.Dial("ct", name)
	if err == nil {
		c.Close()
	} else if runtime.GOOS == "linux" {
		panic(err)
	}
	app.Close()
	for end := time.Now().Add(leakcheck.Patience); leakcheck.Now().Goroutines > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			panic("goroutines are left")
		}
	}
})

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// serveUntilStdinCloses is what a started server does.
func serveUntilStdinCloses(name string) {
	ln, err := ctnet.Listen("ct", name)
	check(err)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, service{})
	go func() {
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		s.Stop()
	}()
	if err := s.Serve(ln); !errors.Is(err, grpc.ErrServerStopped) {
		check(err)
	}
}
