//go:build unix

// Command httpserver shows what ctnet does for a net/http program. Without
// flags it starts an unmodified http.Server in a child process, once on ctnet and
// once on loopback TCP, runs an unmodified http.Client against each, checks every
// body, and prints both beside each other.
//
//	go run ./examples/httpserver              compare, then exit
//	go run ./examples/httpserver -serve       keep a server running
//	go run ./examples/httpserver -get /hello  fetch from it, in another terminal
//	curl http://127.0.0.1:8080/hello          the same, through the kernel's socket
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"cutthrough.example/ctnet"
)

const (
	name    = "example/httpserver"
	address = "127.0.0.1:8080" // of -serve
)

func main() {
	log.SetFlags(0)
	serveFlag := flag.Bool("serve", false, "keep a server running")
	get := flag.String("get", "", "fetch this `path` from the server")
	child := flag.String("child", "", "used by the command itself: serve on network,address")
	rounds := flag.Int("rounds", 5, "measured rounds of each transport")
	flag.Parse()
	var err error
	switch {
	case *child != "":
		err = runChild(*child)
	case *serveFlag:
		err = runServe()
	case *get != "":
		err = runGet(*get)
	default:
		err = compare(*rounds)
	}
	if err != nil {
		log.Fatal("httpserver: ", err)
	}
}

// listen and client are all that differs between the two transports.
func listen(network, address string) (net.Listener, error) {
	if network == "ct" {
		return ctnet.Listen(network, address)
	}
	return net.Listen(network, address)
}

func client(network, address string) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	if network == "ct" {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, network, address)
		}
	}
	return &http.Client{Transport: tr}
}

// handler is a server as it might be on any network.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s, by %v\n", r.RemoteAddr, r.Context().Value(pathKey{}))
	})
	// /stream sends n bytes that seed determines.
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("n"), 10, 64)
		io.CopyN(w, body(r.FormValue("seed")), n)
	})
	// /upgrade takes the connection over and echoes lines.
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		for {
			rw.Flush()
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			rw.WriteString(line)
		}
	})
	mux.HandleFunc("/cpu", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, int64(cpuTime()))
	})
	return mux
}

func body(seed string) io.Reader {
	sum := sha256.Sum256([]byte(seed))
	return rand.NewChaCha8(sum)
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pathKey is the key under which a request's context has its connection's path.
type pathKey struct{}

func newServer() *http.Server {
	return &http.Server{
		Handler: handler(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			path := "the kernel's socket"
			if _, ok := c.(*ctnet.Conn); ok {
				path = "shared memory"
			}
			return context.WithValue(ctx, pathKey{}, path)
		},
	}
}

func runServe() error {
	ln, err := ctnet.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("serving on %s; try:\n\tgo run ./examples/httpserver -get /hello\n\tcurl http://%[1]s/hello\n", ln.Addr())
	return newServer().Serve(ln)
}

func runGet(path string) error {
	tr := &http.Transport{DialContext: ctnet.DialContext}
	resp, err := (&http.Client{Transport: tr}).Get("http://" + address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// runChild serves until its standard input ends, which it does with the parent.
func runChild(arg string) error {
	network, address, _ := strings.Cut(arg, ",")
	ln, err := listen(network, address)
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go newServer().Serve(ln)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// A server is a child process and a client of it.
type server struct {
	network string
	address string
	client  *http.Client
	stop    func()
}

func start(network, address string) (*server, error) {
	cmd := exec.Command(os.Args[0], "-child", network+","+address)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		stdin.Close()
		cmd.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("the %s server did not start: %w", network, err)
	}
	address = strings.TrimSpace(line)
	return &server{network, address, client(network, address), stop}, nil
}

func (s *server) url(path string) string {
	if s.network == "ct" {
		return "http://ctnet" + path
	}
	return "http://" + s.address + path
}

func (s *server) get(path string) ([]byte, error) {
	resp, err := s.client.Get(s.url(path))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return b, err
}

// verify exercises what a benchmark of small requests does not.
func (s *server) verify() error {
	for i := range 8 {
		seed, n := strconv.Itoa(i), int64(1<<20+i*12345)
		resp, err := s.client.Get(s.url(fmt.Sprintf("/stream?n=%d&seed=%s", n, seed)))
		if err != nil {
			return err
		}
		got, want := sha256.New(), sha256.New()
		m, err := io.Copy(got, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		io.CopyN(want, body(seed), n)
		if g, w := hex.EncodeToString(got.Sum(nil)), hex.EncodeToString(want.Sum(nil)); m != n || g != w {
			return fmt.Errorf("stream of %d bytes has checksum %s, want %d and %s", m, g, n, w)
		}
	}
	req, _ := http.NewRequest("GET", s.url("/upgrade"), nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriter)
	if !ok {
		return fmt.Errorf("upgrade: %s", resp.Status)
	}
	io.WriteString(conn, "over and out\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || line != "over and out\n" {
		return fmt.Errorf("hijacked connection answered %q, %v", line, err)
	}
	return nil
}

// A result is one round's measurement.
type result struct {
	rate     float64 // requests a second
	p50, p99 time.Duration
	cpu      time.Duration // of both processes, a request
}

func (s *server) serverCPU() (time.Duration, error) {
	b, err := s.get("/cpu")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return time.Duration(n), err
}

// measure sends requests on conns connections for about a second.
func (s *server) measure(conns int) (r result, err error) {
	before, err := s.serverCPU()
	if err != nil {
		return r, err
	}
	before += cpuTime()
	start := time.Now()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			var times []time.Duration
			for time.Since(start) < time.Second {
				t := time.Now()
				b, e := s.get("/hello")
				if e == nil && !strings.HasPrefix(string(b), "hello, ") {
					e = fmt.Errorf("body %q", b)
				}
				if e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
					return
				}
				times = append(times, time.Since(t))
			}
			mu.Lock()
			all = append(all, times...)
			mu.Unlock()
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if err != nil {
		return r, err
	}
	after, err := s.serverCPU()
	if err != nil {
		return r, err
	}
	after += cpuTime()
	slices.Sort(all)
	n := len(all)
	return result{float64(n) / elapsed.Seconds(), all[n/2], all[n*99/100], (after - before) / time.Duration(n)}, nil
}

// compare runs both transports in turn and prints the medians.
func compare(rounds int) error {
	ct, err := start("ct", fmt.Sprintf("%s-%d", name, os.Getpid()))
	if err != nil {
		return err
	}
	defer ct.stop()
	tcp, err := start("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer tcp.stop()
	servers := []*server{ct, tcp}
	for _, s := range servers {
		fmt.Printf("%s: streams, checksums, a hijacked connection ... ", s.network)
		if err := s.verify(); err != nil {
			return err
		}
		fmt.Println("ok")
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "connections\t\trequests/s\tp50\tp99\tCPU/request\t")
	for _, conns := range []int{1, 64} {
		results := make([][]result, len(servers))
		for round := range rounds {
			for i, s := range servers {
				fmt.Fprintf(os.Stderr, "\r%d connections, round %d of %d, %-3s ", conns, round+1, rounds, s.network)
				r, err := s.measure(conns)
				if err != nil {
					return err
				}
				results[i] = append(results[i], r)
			}
		}
		a, b := median(results[0]), median(results[1])
		row := func(what string, r result) {
			fmt.Fprintf(w, "%d\t%s\t%.0f\t%v\t%v\t%v\t\n", conns, what, r.rate,
				r.p50.Round(100*time.Nanosecond), r.p99.Round(100*time.Nanosecond), r.cpu.Round(100*time.Nanosecond))
		}
		row("ct", a)
		row("tcp", b)
		fmt.Fprintf(w, "%d\tct/tcp\t%.2fx\t%.2fx\t%.2fx\t%.2fx\t\n", conns, a.rate/b.rate,
			float64(a.p50)/float64(b.p50), float64(a.p99)/float64(b.p99), float64(a.cpu)/float64(b.cpu))
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	return w.Flush()
}

// median returns the median of each figure.
func median(rs []result) result {
	return result{
		rate: mid(rs, func(r result) float64 { return r.rate }),
		p50:  mid(rs, func(r result) time.Duration { return r.p50 }),
		p99:  mid(rs, func(r result) time.Duration { return r.p99 }),
		cpu:  mid(rs, func(r result) time.Duration { return r.cpu }),
	}
}

func mid[T float64 | time.Duration](rs []result, get func(result) T) T {
	var v []T
	for _, r := range rs {
		v = append(v, get(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
