package ctnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"cutthrough.example/ctnet"
)

// The benchmarks compare two versions of the package on one machine:
//
//	go test ./ctnet -run '^$' -bench . -count 10 >old.txt
//	go test ./ctnet -run '^$' -bench . -count 10 >new.txt # after the change
//	benchstat old.txt new.txt
//
// benchstat -col /via new.txt compares the transports. Both ends are in one process; the
// module in the directory benchmarks measures between processes.

// A dialFunc connects to the listener of a benchmark.
type dialFunc func(context.Context) (net.Conn, error)

// eachVia runs a benchmark over each transport:
//
//   - ct: network ct inside one application
//   - ct-apps: network ct between two applications, as between two processes
//   - tcp: network tcp of ctnet
//   - kernel: network tcp of package net
func eachVia(b *testing.B, bench func(*testing.B, net.Listener, dialFunc)) {
	for _, via := range []struct {
		name, network, address string
		apps                   bool
		path                   ctnet.Path
	}{
		{"ct", "ct", "bench", false, ctnet.CutThrough},
		{"ct-apps", "ct", "bench", true, ctnet.CutThrough},
		{"tcp", "tcp", "127.0.0.1:0", false, ctnet.CutThrough},
		{"kernel", "tcp", "127.0.0.1:0", false, ctnet.Kernel},
	} {
		b.Run("via="+via.name, func(b *testing.B) {
			lc := ctnet.ListenConfig{Path: via.path}
			d := ctnet.Dialer{Path: via.path}
			if via.apps {
				if runtime.GOOS != "linux" {
					b.Skip("applications connect on Linux only")
				}
				lc.App, d.App = newApp(b), newApp(b)
			}
			ln, err := lc.Listen(b.Context(), via.network, via.address)
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			bench(b, ln, func(ctx context.Context) (net.Conn, error) {
				return d.DialContext(ctx, via.network, ln.Addr().String())
			})
		})
	}
}

func newApp(b *testing.B) *ctnet.App {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { app.Close() })
	return app
}

// connect returns both ends of a connection, which the end of the benchmark closes.
func connect(b *testing.B, ln net.Listener, dial dialFunc) (client, server net.Conn) {
	client, err := dial(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Close() })
	return client, server
}

// echo sends a message and waits for as many bytes.
func echo(b *testing.B, c net.Conn, message []byte) {
	if _, err := c.Write(message); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, message); err != nil {
		b.Fatal(err)
	}
}

// serveEcho sends what it receives back, until the peer has closed.
func serveEcho(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 64)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// BenchmarkRoundTrip sends 64 bytes and waits for them to come back.
func BenchmarkRoundTrip(b *testing.B) {
	eachVia(b, func(b *testing.B, ln net.Listener, dial dialFunc) {
		client, server := connect(b, ln, dial)
		var wg sync.WaitGroup
		wg.Go(func() { serveEcho(server) })
		message := make([]byte, 64)
		for b.Loop() {
			echo(b, client, message)
		}
		client.Close()
		wg.Wait()
	})
}

// BenchmarkStream writes 64 KiB at a time, to a reader with a buffer of that size. The time
// includes the reading of all bytes.
func BenchmarkStream(b *testing.B) {
	eachVia(b, func(b *testing.B, ln net.Listener, dial dialFunc) {
		client, server := connect(b, ln, dial)
		stream(b, client, server)
	})
}

// BenchmarkBuffers is BenchmarkStream between two applications, with fifos of several sizes.
func BenchmarkBuffers(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("applications connect on Linux only")
	}
	for _, size := range []int{ctnet.MinBuffer, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("KiB=%d", size>>10), func(b *testing.B) {
			lc := ctnet.ListenConfig{App: newApp(b)}
			d := ctnet.Dialer{App: newApp(b), WriteBuffer: size}
			ln, err := lc.Listen(b.Context(), "ct", "bench")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			client, server := connect(b, ln, func(ctx context.Context) (net.Conn, error) {
				return d.DialContext(ctx, "ct", "bench")
			})
			stream(b, client, server)
		})
	}
}

// stream writes b.N times 64 KiB, and closes the client when the bytes are on their way.
func stream(b *testing.B, client, server net.Conn) {
	const size = 64 << 10
	done := make(chan int, 1)
	go func() {
		total, buf := 0, make([]byte, size)
		for {
			n, err := server.Read(buf)
			total += n
			if err != nil {
				done <- total
				return
			}
		}
	}()
	b.SetBytes(size)
	buf := make([]byte, size)
	b.ResetTimer()
	for range b.N {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	total := <-done
	b.StopTimer()
	if total != b.N*size {
		b.Fatalf("%d bytes of %d arrived", total, b.N*size)
	}
}

// BenchmarkDial connects, sends a byte, waits for it to come back, and closes.
func BenchmarkDial(b *testing.B) {
	eachVia(b, func(b *testing.B, ln net.Listener, dial dialFunc) {
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { serveEcho(c) })
			}
		})
		message := make([]byte, 1)
		for b.Loop() {
			c, err := dial(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			echo(b, c, message)
			// A port of the kernel's that is in TIME-WAIT can't be used for a while.
			c.(interface{ SetLinger(int) error }).SetLinger(0)
			c.Close()
		}
		ln.Close()
		wg.Wait()
	})
}

// BenchmarkHTTP sends requests to a net/http server, one after the other on a connection
// that stays open.
func BenchmarkHTTP(b *testing.B) {
	eachVia(b, func(b *testing.B, ln net.Listener, dial dialFunc) {
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "hello")
		})}
		var wg sync.WaitGroup
		wg.Go(func() { server.Serve(ln) })
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx)
		}}
		client := &http.Client{Transport: transport}
		for b.Loop() {
			resp, err := client.Get("http://bench/")
			if err != nil {
				b.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "hello" || err != nil {
				b.Fatalf("%q, %v", body, err)
			}
		}
		transport.CloseIdleConnections()
		server.Close()
		wg.Wait()
	})
}
