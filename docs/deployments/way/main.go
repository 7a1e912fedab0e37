// Command way is a net/http server and client that say which way each connection takes, and
// why.
//
//	way serve tcp:127.0.0.1:8080 unix:/run/app/app.sock ct:svc/app
//	way serve fd:3                   on a listener that was inherited, as from systemd
//	way get tcp:127.0.0.1:8080       one request
//	MEASURE=1s way get ct:svc/app    and then as many as can be made in a second, on one connection
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"cutthrough.example/ctnet"
)

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	var err error
	switch {
	case len(args) >= 2 && args[0] == "serve":
		err = serve(args[1:])
	case len(args) == 2 && args[0] == "get":
		err = get(args[1])
	default:
		err = errors.New("usage: way serve network:address ..., or way get network:address")
	}
	if err != nil {
		log.Fatal(err)
	}
}

const (
	sharedMemory = "shared memory"
	kernel       = "kernel's socket"
)

// wayOf says which way a connection goes.
func wayOf(c net.Conn) string {
	if _, ok := c.(*ctnet.Conn); ok {
		return sharedMemory
	}
	return kernel
}

// peerOf says whose process is at the other end, which only shared memory tells.
func peerOf(c net.Conn) string {
	if c, ok := c.(*ctnet.Conn); ok {
		return fmt.Sprint(", with user ", c.PeerCred().UID)
	}
	return ""
}

// serve serves on all addresses. It prints a line when it listens, and one for each connection.
func serve(addresses []string) error {
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") }),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			fmt.Printf("a connection by %s%s\n", wayOf(c), peerOf(c))
			return ctx
		},
	}
	ended := make(chan error)
	for _, at := range addresses {
		ln, err := listen(at)
		if err != nil {
			return err
		}
		go func() { ended <- srv.Serve(ln) }()
	}
	fmt.Println("listening")
	return <-ended
}

func listen(at string) (net.Listener, error) {
	network, address, _ := strings.Cut(at, ":")
	if network == "fd" {
		fd, err := strconv.Atoi(address)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		inner, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		return ctnet.NewListener(inner)
	}
	ln, err := ctnet.Listen(network, address)
	if err == nil && network == "unix" {
		err = os.Chmod(address, 0o666) // other users may connect
	}
	return ln, err
}

// get makes a request, and prints the way that it took, and why it was not shared memory. With
// MEASURE in the environment it goes on for that long.
func get(at string) error {
	network, address, _ := strings.Cut(at, ":")
	var way, peer, why string
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, reason, err := dial(ctx, network, address)
			why = reason
			if err == nil {
				way, peer = wayOf(c), peerOf(c)
			}
			return c, err
		},
	}}
	if err := hello(client); err != nil {
		fmt.Printf("way: none\nwhy: %s\n", why)
		return err
	}
	first := way
	fmt.Printf("way: %s%s\n", way, peer)
	if way == kernel {
		fmt.Printf("why: %s\n", why)
	}
	text := os.Getenv("MEASURE")
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	n, begin := 0, time.Now()
	for ; time.Since(begin) < d; n++ {
		if err := hello(client); err != nil {
			return err
		}
	}
	if way != first {
		return fmt.Errorf("a later connection took another way: %s", way)
	}
	fmt.Printf("requests/s: %.0f\n", float64(n)/time.Since(begin).Seconds())
	return nil
}

func hello(client *http.Client) error {
	resp, err := client.Get("http://way/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && string(b) != "hello\n" {
		err = fmt.Errorf("the answer was %q", b)
	}
	return err
}
