package ctnet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"syscall"

	"cutthrough.example/ctnet"
)

// Two applications in one process connect as two processes do.
func ExampleApp() {
	server, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	lc := ctnet.ListenConfig{App: server}
	ln, err := lc.Listen(context.Background(), "ct", "example/apps")
	if err != nil {
		log.Fatal(err)
	}
	d := ctnet.Dialer{App: client}
	c, err := d.Dial("ct", "example/apps")
	if err != nil {
		log.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}

	server.Close() // resets its connections
	_, err = s.Write([]byte("hello"))
	fmt.Println(errors.Is(err, net.ErrClosed))
	_, err = c.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, syscall.ECONNRESET))
	// Output:
	// true
	// true
}

// Allow decides which processes connect, here by a list of users. On networks tcp and unix
// the others get the kernel's socket.
func ExampleListenConfig_allow() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer app.Close()

	for _, users := range [][]int{{}, {os.Geteuid()}} {
		lc := ctnet.ListenConfig{
			App:   app,
			Allow: func(peer ctnet.Cred) bool { return slices.Contains(users, peer.UID) },
		}
		ln, err := lc.Listen(context.Background(), "ct", "example/allow")
		if err != nil {
			log.Fatal(err)
		}
		c, err := ctnet.Dial("ct", "example/allow") // from another application
		if err == nil {
			c.Close()
		}
		fmt.Println("forbidden:", errors.Is(err, syscall.EACCES))
		ln.Close()
	}
	// Output:
	// forbidden: true
	// forbidden: false
}

// The command ctss prints what Inspect returns.
func ExampleInspect() {
	ln, err := ctnet.Listen("ct", "example/inspect")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/inspect")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	apps, err := ctnet.Inspect(context.Background())
	if err != nil {
		fmt.Println("some did not answer:", err)
	}
	for _, app := range apps {
		for _, l := range app.Listeners {
			if l.Address == "example/inspect" {
				fmt.Println("LISTEN", l.Network, l.Address, l.Waiting)
			}
		}
		for _, c := range app.Connections {
			if c.Remote == "example/inspect" {
				fmt.Println(c.State, c.Network, c.Remote, c.Peer.PID == os.Getpid())
			}
		}
	}
	// Output:
	// LISTEN ct example/inspect 1
	// ESTABLISHED ct example/inspect true
}
