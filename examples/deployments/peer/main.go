// Command peer is a server or a client of net/http on ctnet. The places in ../places run both, each
// in its own namespaces and as its own user. The client says which way its connection took, why,
// and how many requests it made in a second.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

func main() {
	log.SetFlags(0)
	serve := flag.Bool("serve", false, "serve on the network and address given")
	seconds := flag.Float64("seconds", 0, "for how long the client makes requests")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: peer [-serve] [-seconds s] network address")
	}
	run := call
	if *serve {
		run = func(network, address string, _ time.Duration) error { return listen(network, address) }
	}
	if err := run(flag.Arg(0), flag.Arg(1), time.Duration(*seconds*float64(time.Second))); err != nil {
		log.Fatal(err)
	}
}

// listen serves, and says when it is ready.
func listen(network, address string) error {
	ln, err := ctnet.Listen(network, address)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM) // the first process of a container does not end without that
	go func() {
		<-stop
		os.Exit(0)
	}()
	fmt.Println("ready", ln.Addr())
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
}

// call prints the way, the reason or "-", and the requests in a second.
func call(network, address string, d time.Duration) error {
	way, why := "kernel", "-"
	var dialer ctnet.Dialer
	tellWhy(&dialer, &why)
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if _, ok := c.(*ctnet.Conn); ok {
				way = "shared-memory"
			}
			return c, err
		},
	}}
	start := time.Now()
	n := 0
	for first := true; first || time.Since(start) < d; first = false {
		resp, err := client.Get("http://peer/")
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		resp.Body.Close()
		if !first {
			n++
		}
	}
	fmt.Printf("%s %s %.0f\n", way, why, float64(n)/max(d.Seconds(), 1e-9))
	return nil
}
