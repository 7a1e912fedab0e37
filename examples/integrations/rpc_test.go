package integrations

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"testing"

	"github.com/stretchr/testify/require"
)

// net/rpc and net/rpc/jsonrpc. In place of
//
//	ln, err := net.Listen("tcp", "localhost:1234")
//	rpc.Accept(ln)
//
//	client, err := rpc.Dial("tcp", "localhost:1234")
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:1234") // or "ct", "svc/rpc"
//	rpc.Accept(ln)
//
//	conn, err := ctnet.Dial("tcp", "localhost:1234") // or "ct", "svc/rpc"
//	client := rpc.NewClient(conn) // or jsonrpc.NewClient

// Bytes is the service.
type Bytes struct {
	hang chan struct{}
}

func (Bytes) Sum(b []byte, s *string) error {
	*s = sum(bytes.NewReader(b))
	return nil
}

func (Bytes) Echo(b []byte, r *[]byte) error {
	*r = b
	return nil
}

func (Bytes) Fail(message string, _ *string) error { return errors.New(message) }

func (b Bytes) Hang(string, *string) error {
	b.hang <- struct{}{}
	<-b.hang
	return nil
}

func TestRPC(t *testing.T) {
	testRPC(t, rpc.NewClient, func(s *rpc.Server, c io.ReadWriteCloser) { s.ServeConn(c) })
}

func TestJSONRPC(t *testing.T) {
	testRPC(t, jsonrpc.NewClient, func(s *rpc.Server, c io.ReadWriteCloser) { s.ServeCodec(jsonrpc.NewServerCodec(c)) })
}

func testRPC(t *testing.T, newClient func(io.ReadWriteCloser) *rpc.Client, serve func(*rpc.Server, io.ReadWriteCloser)) {
	eachNetwork(t, func(t *testing.T, n *place) {
		service := Bytes{make(chan struct{})}
		server := rpc.NewServer()
		require.NoError(t, server.Register(service))
		ln := n.listen(t)
		conns := make(chan net.Conn, 1)
		acceptAll(t, ln, func(c net.Conn) {
			conns <- c
			serve(server, c)
		})
		client := newClient(ln.connect(t))
		defer client.Close()

		inParallel(t, 4, func(i int) error {
			for _, n := range []int{0, 1, 1000, 20_000 * i} {
				b := randomBytes(fmt.Sprint(i, n), n)
				var s string
				if err := client.Call("Bytes.Sum", b, &s); err != nil {
					return err
				}
				var r []byte
				if err := client.Call("Bytes.Echo", b, &r); err != nil {
					return err
				}
				if s != sum(bytes.NewReader(b)) || !bytes.Equal(r, b) {
					return fmt.Errorf("another answer to %d bytes", n)
				}
			}
			return nil
		})
		require.Equal(t, rpc.ServerError("no"), client.Call("Bytes.Fail", "no", nil))

		// The connection ends while a call waits for its answer.
		call := client.Go("Bytes.Hang", "", new(string), nil)
		<-service.hang
		(<-conns).Close()
		<-call.Done
		require.Error(t, call.Error)
		require.Equal(t, rpc.ErrShutdown, client.Call("Bytes.Echo", []byte{}, new([]byte)))
		service.hang <- struct{}{}
	})
}
