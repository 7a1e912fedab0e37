package ctnet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
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

// A server and a client on network ct, where an address is a name.
func ExampleListen() {
	ln, err := ctnet.Listen("ct", "example/echo")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // the listener is closed
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()

	c, err := ctnet.Dial("ct", "example/echo")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(line)
	// Output: hello
}

// On network tcp a client of this package and any other client reach the same listener.
func ExampleDial() {
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	for _, dial := range []func(network, address string) (net.Conn, error){ctnet.Dial, net.Dial} {
		c, err := dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		s, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer s.Close()
		fmt.Printf("%T to %T\n", c, s)
	}
	// Output:
	// *ctnet.Conn to *ctnet.Conn
	// *net.TCPConn to *net.TCPConn
}

// Errors are compared with errors.Is.
func ExampleDial_errors() {
	_, err := ctnet.Dial("ct", "example/nothing")
	fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	// Output: true
}

// A net/http client takes the dial function as it is. It connects through shared memory if
// the server of a URL is on this host and listens with this package, and over TCP otherwise.
func ExampleDialContext() {
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello at %s", r.URL.Path)
	})}
	go server.Serve(ln)
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: ctnet.DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + ln.Addr().String() + "/there")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: hello at /there
}

// A Dial that waits for room in the backlog of a listener ends with its context.
func ExampleDialer_DialContext() {
	lc := ctnet.ListenConfig{Backlog: 1}
	ln, err := lc.Listen(context.Background(), "ct", "example/busy")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/busy") // has the place in the backlog
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	var d ctnet.Dialer
	_, err = d.DialContext(ctx, "ct", "example/busy")
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

// A server of large messages chooses larger fifos for its connections.
func ExampleListenConfig() {
	lc := ctnet.ListenConfig{ReadBuffer: 4 << 20, WriteBuffer: 4 << 20}
	ln, err := lc.Listen(context.Background(), "ct", "example/large")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/large")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	n, err := c.Write(make([]byte, 4<<20)) // does not wait for the server to read
	fmt.Println(n, err)
	// Output: 4194304 <nil>
}

// Path forces one way on networks that have two.
func ExamplePath() {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // not a listener of this package
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	for _, path := range []ctnet.Path{ctnet.AnyPath, ctnet.Kernel, ctnet.CutThrough} {
		d := ctnet.Dialer{Path: path}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			fmt.Println("refused:", errors.Is(err, syscall.ECONNREFUSED))
			continue
		}
		fmt.Printf("%T\n", c)
		c.Close()
	}
	// Output:
	// *net.TCPConn
	// *net.TCPConn
	// refused: true
}

// A listener that package net made gets the cut-through in addition.
func ExampleNewListener() {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ln, err := ctnet.NewListener(inner) // closes inner when it is closed
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	c, err := ctnet.Dial("tcp", inner.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Printf("%T\n", c)
	// Output: *ctnet.Conn
}

// An application with a limit of its own, so that this part of a program can't take what the
// others need.
func ExampleNewApp() {
	app, err := ctnet.NewApp(ctnet.AppConfig{MaxConns: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer app.Close() // also closes its listeners, and resets its connections

	lc := ctnet.ListenConfig{App: app}
	if _, err := lc.Listen(context.Background(), "ct", "example/limited"); err != nil {
		log.Fatal(err)
	}
	d := ctnet.Dialer{App: app}
	for err == nil {
		_, err = d.Dial("ct", "example/limited")
	}
	fmt.Println(errors.Is(err, syscall.ENOBUFS), app.Snapshot().Conns)
	// Output: true 2
}

// io.Copy to a connection calls ReadFrom: the source reads straight into the memory of
// the connection. If the source has a method WriteTo, io.Copy prefers that.
func ExampleConn_ReadFrom() {
	ln, err := ctnet.Listen("ct", "example/readfrom")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/readfrom")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	source := io.LimitReader(strings.NewReader("hello, world"), 5)
	n, err := io.Copy(c, source)
	fmt.Println(n, err)
	c.(*ctnet.Conn).CloseWrite()

	body, err := io.ReadAll(s)
	fmt.Println(string(body), err)
	// Output:
	// 5 <nil>
	// hello <nil>
}

// io.Copy from a connection calls WriteTo: the bytes go to the writer straight from the
// memory of the connection.
func ExampleConn_WriteTo() {
	ln, err := ctnet.Listen("ct", "example/writeto")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/writeto")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(c, "hello")
	c.Close() // the other end still reads what was written

	s, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if _, err := io.Copy(os.Stdout, s); err != nil {
		log.Fatal(err)
	}
	// Output: hello
}

// A message is made in the memory of the connection, without a buffer in between.
func ExampleConn_Reserve() {
	ln, err := ctnet.Listen("ct", "example/reserve")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/reserve")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	w := c.(*ctnet.Conn)
	b, err := w.Reserve(64) // the longest that it can be
	if err != nil {
		log.Fatal(err)
	}
	message := fmt.Appendf(b[:0], "%d bottles\n", 99)
	if err := w.Commit(len(message)); err != nil { // as long as it is
		log.Fatal(err)
	}

	s, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	line, err := bufio.NewReader(s).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(line)
	// Output: 99 bottles
}

// Messages with a length before them are read in place. The program that wrote them can
// still change them: if it is not trusted, copy a message before you check it.
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
	io.WriteString(c, "\x05hello\x05world")
	c.Close()

	s, err := ln.(*ctnet.Listener).AcceptConn()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	for {
		head, err := s.Peek(1)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		size := 1 + int(head[0])
		message, err := s.Peek(size)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message[1:])
		if _, err := s.Discard(size); err != nil { // message is not valid any more
			log.Fatal(err)
		}
	}
	// Output:
	// hello
	// world
}

// Discard skips a part of a message that is not of interest.
func ExampleConn_Discard() {
	ln, err := ctnet.Listen("ct", "example/discard")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/discard")
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(c, "header body")
	c.Close()

	s, err := ln.(*ctnet.Listener).AcceptConn()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	n, err := s.Discard(len("header "))
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(s)
	fmt.Println(n, string(body), err)
	// Output: 7 body <nil>
}

// TestBubble runs the test of the example synctest, which has no testing.T itself.
func TestBubble(t *testing.T) { testSlowServer(t) }
