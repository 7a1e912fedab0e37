package ctgrpc_test

import (
	"context"
	"fmt"
	"log"

	"cutthrough.example/ctgrpc"
	"cutthrough.example/ctnet"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A server and a client, which could be two processes.
func Example() {
	ln, err := ctnet.Listen("ct", "svc/health") // in place of net.Listen
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(ln)
	defer server.Stop()

	conn, err := grpc.NewClient("ct:///svc/health", ctgrpc.WithDialer(), // in place of "localhost:50051"
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}
