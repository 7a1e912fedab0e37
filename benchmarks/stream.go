//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

var streams = append([]*workload{
	streamOf("stream-64k", 64<<10),
	streamOf("stream-1m", 1<<20),
	streamOf("stream-1k", 1<<10),
	{
		name:    "streams-64",
		title:   "64 streams at once in both directions, writes of 64 KiB",
		columns: []string{"gbs", "slowest", "cpugb"},
		over:    between,
		serve:   serveBothWays(64 << 10),
		run:     func(c *client) (sample, error) { return stream(c, 64, 64<<10, true) },
	},
	checkedStream,
}, streamSizes...)

// streamSizes are there for the chart of throughput against size only.
var streamSizes = []*workload{
	streamOf("stream-64", 64),
	streamOf("stream-256", 256),
	streamOf("stream-4k", 4<<10),
	streamOf("stream-16k", 16<<10),
	streamOf("stream-256k", 256<<10),
	streamOf("stream-4m", 4<<20),
}

// sizeOf has the sizes of the writes of the workloads that are one stream.
var sizeOf = make(map[string]int)

func streamOf(name string, size int) *workload {
	sizeOf[name] = size
	w := &workload{
		name:    name,
		title:   "one stream, writes of " + bytesText(size),
		columns: []string{"gbs", "cpugb"},
		over:    between,
		serve:   serveOneWay(size),
		run:     func(c *client) (sample, error) { return stream(c, 1, size, false) },
	}
	switch size {
	case 64 << 10, 1 << 20:
		w.limit = (*limits).copies
	case 256, 4 << 10, 16 << 10, 256 << 10:
		w.long = true
	}
	return w
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// A stream is a sequence of messages of one size, each with its number in front.
// The receiver checks every number, and so every message's place, and adds up the
// numbers and one other byte of each message. The last message has the length
// and the sum. To check all bytes would take longer than to move them.
const (
	lastMessage = ^uint64(0)
	headSize    = 32 // number; and in the last one, length, sum, verdict
)

// fill makes a message. A byte's value depends on its place, in a way that does not
// repeat with any power of two.
func fill(size int) []byte {
	b := make([]byte, size)
	for i := headSize; i < size; i++ {
		b[i] = byte(i * i >> 7 % 251)
	}
	return b
}

// probe is the place of the byte in message n that is added to the sum.
func probe(n uint64, size int) int {
	return headSize + int(n*61%uint64(size-headSize))
}

func addUp(sum, n uint64, b byte) uint64 { return sum*31 + n + uint64(b) }

// send writes messages until stop says so, and then the last one with a verdict.
// It counts the bytes.
func send(w io.Writer, size int, stop, verdict func() bool, count *atomic.Int64) error {
	b := fill(size)
	var n, sum uint64
	for !stop() {
		binary.LittleEndian.PutUint64(b, n)
		sum = addUp(sum, n, b[probe(n, size)])
		n++
		if _, err := w.Write(b); err != nil {
			return err
		}
		count.Add(int64(size))
	}
	binary.LittleEndian.PutUint64(b, lastMessage)
	binary.LittleEndian.PutUint64(b[8:], n)
	binary.LittleEndian.PutUint64(b[16:], sum)
	b[24] = 1
	if !verdict() {
		b[24] = 0
	}
	_, err := w.Write(b)
	return err
}

// A checker receives a stream in pieces of any size.
type checker struct {
	size   int
	pos    int // in the present message
	n, sum uint64
	head   [headSize]byte
	probed byte
	count  *atomic.Int64
}

// receive reads a stream to its end. It returns the verdict that its last message
// brings.
func (k *checker) receive(r io.Reader) (verdict bool, err error) {
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		if err != nil {
			return false, err
		}
		done, err := k.take(b[:n])
		if err != nil {
			return false, err
		}
		k.count.Add(int64(n))
		if done {
			return k.head[24] == 1, nil
		}
	}
}

func (k *checker) take(b []byte) (done bool, err error) {
	for len(b) > 0 {
		m := min(len(b), k.size-k.pos)
		if k.pos < headSize {
			copy(k.head[k.pos:], b[:m])
		}
		if at := probe(k.n, k.size) - k.pos; 0 <= at && at < m {
			k.probed = b[at]
		}
		k.pos += m
		b = b[m:]
		if k.pos < k.size {
			return false, nil
		}
		k.pos = 0
		n := binary.LittleEndian.Uint64(k.head[:])
		if n == lastMessage {
			length, sum := binary.LittleEndian.Uint64(k.head[8:]), binary.LittleEndian.Uint64(k.head[16:])
			switch {
			case length != k.n:
				return false, fmt.Errorf("%d messages arrived of %d", k.n, length)
			case sum != k.sum:
				return false, errors.New("the stream arrived with another sum")
			case len(b) > 0:
				return false, errors.New("bytes after the last message")
			}
			return true, nil
		}
		if n != k.n {
			return false, fmt.Errorf("message %d has number %d", k.n, n)
		}
		k.sum = addUp(k.sum, n, k.probed)
		k.n++
	}
	return false, nil
}

// serveOneWay receives a stream and then says, in a message, whether it was right.
func serveOneWay(size int) func(*server) error {
	return func(s *server) error {
		return s.each(func(c net.Conn) {
			var count atomic.Int64
			k := checker{size: size, count: &count}
			_, err := k.receive(c)
			reply := make([]byte, messageSize)
			if err != nil {
				copy(reply, err.Error())
			}
			c.Write(reply)
			// Until the client has closed, so that the answer is not lost.
			discardUntilEnd(c)
		})
	}
}

// serveBothWays receives a stream and sends another one until the first has ended.
func serveBothWays(size int) func(*server) error {
	return func(s *server) error {
		return s.each(func(c net.Conn) {
			var count atomic.Int64
			var ended atomic.Bool
			received := make(chan error, 1)
			go func() {
				k := checker{size: size, count: &count}
				_, err := k.receive(c)
				received <- err
				ended.Store(true)
			}()
			send(c, size, ended.Load, func() bool { return <-received == nil }, &count)
			discardUntilEnd(c)
		})
	}
}

// stream measures streams that go on at the same time, each on a connection.
func stream(c *client, conns, size int, both bool) (sample, error) {
	// Up, and if both, down.
	counters := make([]counter, 2*conns)
	var p phases
	var wg sync.WaitGroup
	for i := range conns {
		conn, err := c.dial()
		if err != nil {
			p.fail(err)
			break
		}
		defer conn.Close()
		up, down := &counters[2*i].Int64, &counters[2*i+1].Int64
		wg.Go(func() {
			begun := false
			stop := func() bool {
				// With the second write that it begins, the first is done.
				phase := p.now.Load()
				if phase == measuring {
					if begun {
						p.progress()
					}
					begun = true
				}
				return phase == stopping
			}
			err := send(conn, size, stop, func() bool { return true }, up)
			if err == nil && !both {
				reply := make([]byte, messageSize)
				if _, err = io.ReadFull(conn, reply); err == nil && reply[0] != 0 {
					err = fmt.Errorf("at the server: %s", reply)
				}
			}
			p.fail(err)
		})
		if both {
			wg.Go(func() {
				k := checker{size: size, count: down}
				verdict, err := k.receive(conn)
				if err == nil && !verdict {
					err = errors.New("the stream to the server arrived damaged")
				}
				p.fail(err)
			})
		}
	}
	read := func() (all []float64) {
		for i := range counters {
			if both || i%2 == 0 {
				all = append(all, float64(counters[i].Load()))
			}
		}
		return all
	}
	var first, last []float64
	p.before = func() { first = read() }
	p.after = func() { last = read() }
	from, to := p.run(c)
	wg.Wait()
	if err := p.failed(); err != nil {
		return sample{}, err
	}
	total, slowest := 0.0, 0.0
	for i := range first {
		n := last[i] - first[i]
		total += n
		if i == 0 || n < slowest {
			slowest = n
		}
	}
	if total == 0 {
		return sample{}, errors.New("nothing was transferred")
	}
	gb := total / 1e9
	return sample{Metrics: map[string]float64{
		"gbs":     gb / to.at.Sub(from.at).Seconds(),
		"cpugb":   (to.cpu - from.cpu).Seconds() / gb,
		"slowest": slowest / (total / float64(len(first))),
	}}, nil
}
