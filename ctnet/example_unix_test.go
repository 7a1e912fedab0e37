//go:build unix

package ctnet_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"syscall"

	"cutthrough.example/ctnet"
)

// In a graceful restart the new process takes the address over, and the old one serves
// its own connections to the end. Here both are one process: between two, the socket is
// in exec.Cmd.ExtraFiles of the old one and is os.NewFile(3, "listener") in the new one.
func ExampleNewListener_restart() {
	// The process that is to be replaced.
	ln, err := ctnet.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	before, err := ctnet.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer before.Close()
	serving, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer serving.Close()
	file, err := ln.(*ctnet.Listener).File()
	if err != nil {
		log.Fatal(err)
	}

	// The new process takes the socket over, and says when it is ready.
	inherited, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	file.Close()
	successor, err := ctnet.NewListener(inherited)
	if err != nil {
		log.Fatal(err)
	}
	defer successor.Close()

	// The old process stops listening. No Dial fails.
	ln.Close()
	after, err := ctnet.Dial("tcp", successor.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer after.Close()
	c, err := successor.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	fmt.Fprint(serving, "old")
	fmt.Fprint(c, "new")
	for _, end := range []net.Conn{before, after} {
		b := make([]byte, 3)
		if _, err := io.ReadFull(end, b); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%T %s\n", end, b)
	}
	// Output:
	// *ctnet.Conn old
	// *ctnet.Conn new
}

// A pool looks whether an idle connection is still open before it uses it again, as with a
// *net.TCPConn.
func ExampleConn_SyscallConn() {
	ln, err := ctnet.Listen("ct", "example/idle")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	c, err := ctnet.Dial("ct", "example/idle")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	server, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}

	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	look := func() {
		var n int
		var errno error
		err := raw.Read(func(fd uintptr) bool {
			n, _, errno = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			return true // also if there is nothing to read
		})
		switch {
		case err != nil:
			log.Fatal(err)
		case errno == syscall.EAGAIN:
			fmt.Println("idle")
		case errno != nil:
			fmt.Println(errno)
		case n == 0:
			fmt.Println("closed")
		default:
			fmt.Println("bytes that nobody has asked for")
		}
	}
	look()
	fmt.Fprint(server, "x")
	look()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		log.Fatal(err)
	}
	server.Close()
	look()
	// Output:
	// idle
	// bytes that nobody has asked for
	// closed
}
