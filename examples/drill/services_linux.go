package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"cutthrough.example/ctnet"
)

// The client sends requests, one at a time, on a connection that it keeps, and a record of each on another
// one, which is not answered. After each request it makes a connection for a visit, and closes it.
//
// A request is smaller than the fifo, and the next one is not sent before the answer. So in a pair without a
// fault no Write of a request ever waits for space, however busy the machine is.
const (
	requestSize = 256 << 10
	partSize    = 32 << 10             // of a request, which the server works on
	partTime    = 2 * time.Millisecond // for so long
	recordSize  = 64 << 10
	pause       = 5 * time.Millisecond // between requests

	largeFifo   = 1 << 20
	smallFifo   = ctnet.MinBuffer // with fault fifo
	forgetEvery = 5               // with fault leak one visit of so many is not closed
)

// The first byte of a connection says what it is for.
const (
	requests = 'r'
	records  = 'l'
	visits   = 'v'
)

// afterParent calls end when the parent has ended this process's standard input. Ctrl-C is for the parent.
func afterParent(end func()) {
	signal.Ignore(os.Interrupt)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
}

// serve is the server.
func serve(f fault) error {
	inherited, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	ln, err := ctnet.NewListener(inherited)
	if err != nil {
		return err
	}
	afterParent(func() { ln.Close() }) // which removes what others find it by
	fmt.Println("ready")
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go answer(f, c)
	}
}

// answer serves one connection.
func answer(f fault, c net.Conn) {
	defer c.Close()
	var kind [1]byte
	if _, err := io.ReadFull(c, kind[:]); err != nil {
		return
	}
	switch kind[0] {
	case requests:
		work(c)
	case records:
		if f == stalled {
			select {} // the connection stays open
		}
		io.Copy(io.Discard, c)
	case visits:
		io.Copy(c, c)
	}
}

// work answers requests.
func work(c net.Conn) {
	part := make([]byte, partSize)
	for {
		for range requestSize / partSize {
			if _, err := io.ReadFull(c, part); err != nil {
				return
			}
			time.Sleep(partTime)
		}
		if _, err := c.Write(part[:1]); err != nil {
			return
		}
	}
}

// request is the client.
func request(f fault, address string) error {
	afterParent(func() { os.Exit(0) })
	path := ctnet.CutThrough // a server that a busy machine makes slow to answer is none of the faults
	if f == fallback {
		path = ctnet.AnyPath
	}
	dial := func(kind byte, fifo int) (net.Conn, error) {
		d := ctnet.Dialer{WriteBuffer: fifo, Path: path}
		c, err := d.Dial("tcp", address)
		if err == nil {
			_, err = c.Write([]byte{kind})
		}
		return c, err
	}
	size := largeFifo
	if f == fifo {
		size = smallFifo
	}
	main, err := dial(requests, size)
	if err != nil {
		return err
	}
	log, err := dial(records, largeFifo)
	if err != nil {
		return err
	}
	forgotten := make(map[net.Conn]bool) // so that the garbage collector does not close them
	answer := make([]byte, 1)
	for n := 1; ; n++ {
		if _, err := log.Write(make([]byte, recordSize)); err != nil {
			return err
		}
		if _, err := main.Write(make([]byte, requestSize)); err != nil {
			return err
		}
		if _, err := io.ReadFull(main, answer); err != nil {
			return err
		}
		v, err := dial(visits, largeFifo)
		if err != nil {
			return err
		}
		if _, err := v.Write(answer); err != nil {
			return err
		}
		if _, err := io.ReadFull(v, answer); err != nil {
			return err
		}
		if f == leak && n%forgetEvery == 0 {
			forgotten[v] = true
		} else {
			v.Close()
		}
		time.Sleep(pause)
	}
}
