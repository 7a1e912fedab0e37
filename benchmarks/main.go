//go:build unix

// Command benchmarks compares ctnet with loopback TCP between two processes:
// the round trip of 64 bytes, and a stream with a checksum.
//
//	go run -C benchmarks . [-rounds 5] [-gib 10]
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"cutthrough.example/ctnet"
)

func main() {
	log.SetFlags(0)
	child := flag.String("child", "", "used by the command itself: serve on network,address")
	rounds := flag.Int("rounds", 5, "rounds of each transport")
	gib := flag.Int("gib", 10, "GiB of each stream")
	flag.Parse()
	var err error
	if *child != "" {
		err = serve(*child)
	} else {
		err = compare(*rounds, int64(*gib)<<30)
	}
	if err != nil {
		log.Fatal("benchmarks: ", err)
	}
}

func serve(arg string) error {
	network, address, _ := strings.Cut(arg, ",")
	listen := net.Listen
	if network == "ct" {
		listen = ctnet.Listen
	}
	ln, err := listen(network, address)
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// answer does what the first byte asks for: 'e' echoes messages of 64 bytes, 's'
// reads a stream of the length that follows and returns its checksum.
func answer(c net.Conn) {
	defer c.Close()
	var what [1]byte
	if _, err := io.ReadFull(c, what[:]); err != nil {
		return
	}
	if what[0] == 'e' {
		b := make([]byte, 64)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	var length [8]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return
	}
	sum := crc32.New(castagnoli)
	b := make([]byte, 256<<10)
	for left := int64(binary.LittleEndian.Uint64(length[:])); left > 0; {
		n, err := c.Read(b[:min(int64(len(b)), left)])
		if err != nil {
			return
		}
		sum.Write(b[:n])
		left -= int64(n)
	}
	c.Write(sum.Sum(nil))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type server struct {
	network, address string
}

func (s server) dial(what string) (net.Conn, error) {
	dial := net.Dial
	if s.network == "ct" {
		dial = ctnet.Dial
	}
	c, err := dial(s.network, s.address)
	if err == nil {
		_, err = io.WriteString(c, what)
	}
	return c, err
}

func start(network, address string) (s server, stop func(), err error) {
	cmd := exec.Command(os.Args[0], "-child", network+","+address)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return s, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return s, nil, err
	}
	if err := cmd.Start(); err != nil {
		return s, nil, err
	}
	stop = func() {
		stdin.Close()
		cmd.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		return s, nil, fmt.Errorf("the %s server did not start: %w", network, err)
	}
	return server{network, strings.TrimSpace(line)}, stop, nil
}

// roundTrip returns the median time of a round trip during a second.
func (s server) roundTrip() (float64, error) {
	c, err := s.dial("e")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, 64)
	var times []time.Duration
	for start := time.Now(); time.Since(start) < time.Second; {
		t := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1000, nil
}

// stream sends n bytes in writes of 64 KiB, and returns GB a second.
func (s server) stream(n int64) (float64, error) {
	c, err := s.dial("s" + string(binary.LittleEndian.AppendUint64(nil, uint64(n))))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	// Data that repeats at an odd length, so that lost pieces don't go unseen;
	// its checksum is computed before the clock starts.
	data := make([]byte, 1<<20+61)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	next := func(off int64) []byte {
		b := data[off%int64(len(data)):]
		return b[:min(int64(len(b)), 64<<10, n-off)]
	}
	want := crc32.New(castagnoli)
	for off := int64(0); off < n; {
		m, _ := want.Write(next(off))
		off += int64(m)
	}
	begin := time.Now()
	for off := int64(0); off < n; {
		m, err := c.Write(next(off))
		if err != nil {
			return 0, err
		}
		off += int64(m)
	}
	got := make([]byte, crc32.Size)
	if _, err := io.ReadFull(c, got); err != nil {
		return 0, err
	}
	elapsed := time.Since(begin)
	if string(got) != string(want.Sum(nil)) {
		return 0, fmt.Errorf("%s: stream arrived with another checksum", s.network)
	}
	return float64(n) / elapsed.Seconds() / 1e9, nil
}

func compare(rounds int, n int64) error {
	ct, stop, err := start("ct", fmt.Sprintf("benchmarks-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer stop()
	tcp, stop, err := start("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer stop()
	var trip, rate [2][]float64
	for round := range rounds {
		for i, s := range []server{ct, tcp} {
			us, err := s.roundTrip()
			if err != nil {
				return err
			}
			trip[i] = append(trip[i], us)
			gbs, err := s.stream(n / int64(rounds))
			if err != nil {
				return err
			}
			rate[i] = append(rate[i], gbs)
			fmt.Printf("round %d  %-3s  64 B round trip %7.2f us   stream %5.2f GB/s\n", round+1, s.network, us, gbs)
		}
	}
	a, b := median(trip[0]), median(trip[1])
	fmt.Printf("64 B round trip, p50: ct %.2f us, tcp %.2f us: %.1f times faster\n", a, b, b/a)
	a, b = median(rate[0]), median(rate[1])
	fmt.Printf("stream with checksum: ct %.2f GB/s, tcp %.2f GB/s: %.1f times as fast\n", a, b, a/b)
	return nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
