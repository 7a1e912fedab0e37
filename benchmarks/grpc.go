//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var rpcs = []*workload{
	unary(1),
	unary(64),
	{
		name:    "grpc-stream",
		title:   "gRPC, a stream of 1 MiB messages",
		columns: []string{"gbs", "cpugb"},
		over:    between,
		serve:   serveGRPC,
		run:     grpcStream,
	},
}

func unary(at int) *workload {
	return &workload{
		name:    fmt.Sprintf("grpc-%d", at),
		title:   fmt.Sprintf("gRPC unary, 64 B, %d in flight", at),
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    between,
		serve:   serveGRPC,
		run:     func(c *client) (sample, error) { return grpcUnary(c, at) },
	}
}

// The service is written by hand, as protobuf's own wrapper of bytes is message
// enough.
const (
	echoMethod   = "/benchmarks.Bench/Echo"
	streamMethod = "/benchmarks.Bench/Stream"
)

var streamDesc = grpc.StreamDesc{
	StreamName:    "Stream",
	ServerStreams: true,
	Handler: func(_ any, s grpc.ServerStream) error {
		m := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		m.Value = bigBody
		// Until the client cancels it.
		for {
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	},
}

var benchService = grpc.ServiceDesc{
	ServiceName: "benchmarks.Bench",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(wrapperspb.BytesValue)
			return m, decode(m)
		},
	}},
	Streams: []grpc.StreamDesc{streamDesc},
}

func serveGRPC(s *server) error {
	ln, err := s.listen()
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	g.RegisterService(&benchService, nil)
	go g.Serve(ln)
	return nil
}

func (c *client) grpc() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///server",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return c.dialContext(ctx)
		}))
}

func grpcUnary(c *client, at int) (sample, error) {
	cc, err := c.grpc()
	if err != nil {
		return sample{}, err
	}
	defer cc.Close()
	return c.drive(at, func() (func() error, func(), error) {
		in := &wrapperspb.BytesValue{Value: fill(messageSize)}
		return func() error {
			var out wrapperspb.BytesValue
			if err := cc.Invoke(context.Background(), echoMethod, in, &out); err != nil {
				return err
			}
			if len(out.Value) != messageSize {
				return fmt.Errorf("an answer of %d bytes", len(out.Value))
			}
			return nil
		}, func() {}, nil
	})
}

func grpcStream(c *client) (sample, error) {
	cc, err := c.grpc()
	if err != nil {
		return sample{}, err
	}
	defer cc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := cc.NewStream(ctx, &streamDesc, streamMethod)
	if err != nil {
		return sample{}, err
	}
	if err := s.SendMsg(new(wrapperspb.BytesValue)); err != nil {
		return sample{}, err
	}
	if err := s.CloseSend(); err != nil {
		return sample{}, err
	}
	var p phases
	var count atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for !p.stopped() {
			var m wrapperspb.BytesValue
			err := s.RecvMsg(&m)
			if err == nil && (len(m.Value) != len(bigBody) || m.Value[len(m.Value)-1] != bigBody[len(bigBody)-1]) {
				err = errors.New("another message")
			}
			if err != nil {
				p.fail(err)
				return
			}
			count.Add(int64(len(m.Value)))
			if p.now.Load() == measuring {
				p.progress()
			}
		}
	})
	var first, last int64
	p.before = func() { first = count.Load() }
	p.after = func() { last = count.Load() }
	from, to := p.run(c)
	wg.Wait()
	if err := p.failed(); err != nil {
		return sample{}, err
	}
	gb := float64(last-first) / 1e9
	if gb == 0 {
		return sample{}, errors.New("nothing was transferred")
	}
	return sample{Metrics: map[string]float64{
		"gbs":   gb / to.at.Sub(from.at).Seconds(),
		"cpugb": (to.cpu - from.cpu).Seconds() / gb,
	}}, nil
}
