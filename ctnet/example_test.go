package ctnet_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/ctnet"
)

// An HTTP server and a client, which could be two processes.
func Example() {
	ln, err := ctnet.Listen("ct", "example/hello")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	})}
	go server.Serve(ln)
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, "ct", "example/hello")
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://hello/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: hello <nil>
}

// Messages with a length before them, read and written in place.
func ExampleConn_Peek() {
	ln, err := ctnet.Listen("ct", "example/peek")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/peek")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := ln.(*ctnet.Listener).AcceptConn()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	w := c.(*ctnet.Conn)
	b, err := w.Reserve(6)
	if err != nil {
		log.Fatal(err)
	}
	b[0] = byte(copy(b[1:], "hello"))
	if err := w.Commit(6); err != nil {
		log.Fatal(err)
	}

	head, err := s.Peek(1)
	if err != nil {
		log.Fatal(err)
	}
	message, err := s.Peek(1 + int(head[0]))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", message[1:])
	s.Discard(len(message))
	// Output: hello
}

// TestBubble is how a test with a server, a client and fake time looks: the hour
// passes at once, because every goroutine of the bubble waits.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, err := ctnet.Listen("ct", "svc/slow")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			fmt.Fprint(w, "done")
		})}
		go server.Serve(ln)
		defer server.Close()

		transport := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return ctnet.DialContext(ctx, "ct", "svc/slow")
			},
		}
		defer transport.CloseIdleConnections()
		start := time.Now()

		client := &http.Client{Transport: transport, Timeout: 2 * time.Hour}
		resp, err := client.Get("http://slow/")
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		resp.Body.Close()
		if line != "done" || err != io.EOF || time.Since(start) != time.Hour {
			t.Errorf("got %q, %v after %v", line, err, time.Since(start))
		}

		client.Timeout = time.Minute
		if _, err := client.Get("http://slow/"); err == nil || time.Since(start) != time.Hour+time.Minute {
			t.Errorf("no timeout after a minute: %v after %v", err, time.Since(start))
		}
		time.Sleep(time.Hour) // for the handler that nobody waits for
	})
}
