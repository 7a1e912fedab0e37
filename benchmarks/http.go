//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

var webs = []*workload{
	hello(1),
	hello(64),
	{
		name:    "http-floor",
		title:   "net/http's own cost: client and server on one P, 64 connections",
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    []string{bufc},
		env:     []string{"GOMAXPROCS=1"},
		alone:   true,
		serve:   serveHTTP,
		run:     func(c *client) (sample, error) { return get(c, 64, "/hello", helloBody) },
	},
	{
		name:    "http-1m",
		title:   "net/http, bodies of 1 MiB, 4 connections",
		columns: []string{"gbs", "cpugb", "ops", "p99"},
		over:    between,
		serve:   serveHTTP,
		run:     func(c *client) (sample, error) { return bodies(c, 4) },
	},
}

func hello(conns int) *workload {
	return &workload{
		name:    fmt.Sprintf("http-%d", conns),
		title:   "net/http hello, keep-alive, " + connsText(conns),
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    between,
		serve:   serveHTTP,
		run:     func(c *client) (sample, error) { return get(c, conns, "/hello", helloBody) },
	}
}

var (
	helloBody = []byte("hello, world\n")
	bigBody   = fill(1 << 20)
)

func connsText(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

func serveHTTP(s *server) error {
	ln, err := s.listen()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		w.Write(helloBody)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(bigBody)))
		w.Write(bigBody)
	})
	go http.Serve(ln, mux)
	return nil
}

// get requests a path over and over on a number of connections.
func get(c *client, conns int, path string, want []byte) (sample, error) {
	op, done := getting(c, conns, path, want)
	defer done()
	return c.drive(conns, func() (func() error, func(), error) { return op(), func() {}, nil })
}

// getting returns what makes an operation, a request of a path, for each of a number of connections.
func getting(c *client, conns int, path string, want []byte) (op func() func() error, done func()) {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dialContext(ctx)
		},
		DisableCompression:  true,
		MaxConnsPerHost:     conns,
		MaxIdleConnsPerHost: conns,
	}
	hc := &http.Client{Transport: tr}
	return func() func() error {
		b := make([]byte, 64<<10)
		return func() error {
			resp, err := hc.Get("http://server" + path)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return checkBody(resp.Body, b, want)
		}
	}, tr.CloseIdleConnections
}

// hellos are requests of a client process among others.
func hellos(c *client, conns int) (ops []func() error, err error) {
	op, _ := getting(c, conns, "/hello", helloBody)
	for range conns {
		ops = append(ops, op())
	}
	return ops, nil
}

// checkBody reads a body and compares it: a small one as a whole, of another one the
// last byte of each piece, as to compare all of them takes as long as to move them.
func checkBody(r io.Reader, b, want []byte) error {
	n := 0
	for {
		m, err := r.Read(b)
		if n+m > len(want) || len(want) <= len(b) && !bytes.Equal(b[:m], want[n:n+m]) ||
			m > 0 && b[m-1] != want[n+m-1] {
			return errors.New("another body")
		}
		n += m
		if err == io.EOF && n == len(want) {
			return nil
		}
		if err == io.EOF {
			return fmt.Errorf("%d bytes of a body of %d", n, len(want))
		}
		if err != nil {
			return err
		}
	}
}

func bodies(c *client, conns int) (sample, error) {
	s, err := get(c, conns, "/big", bigBody)
	if err != nil {
		return s, err
	}
	perGB := 1e9 / float64(len(bigBody))
	s.Metrics["gbs"] = s.Metrics["ops"] / perGB
	s.Metrics["cpugb"] = s.Metrics["cpu"] * perGB / 1e6
	return s, nil
}
