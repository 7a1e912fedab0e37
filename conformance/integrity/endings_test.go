package integrity

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

// burst is how many bytes are written while the stream is ended.
const burst = 300_000

// bursts are the calls that write. They return how many bytes they wrote.
var bursts = map[string]func(c *ctnet.Conn, b []byte) (int64, error){
	"Write": func(c *ctnet.Conn, b []byte) (int64, error) {
		n, err := c.Write(b)
		return int64(n), err
	},
	"ReadFrom": func(c *ctnet.Conn, b []byte) (int64, error) { return c.ReadFrom(bytes.NewReader(b)) },
	"Commit": func(c *ctnet.Conn, b []byte) (n int64, err error) {
		for len(b) > 0 {
			room, err := c.Reserve(1)
			if err != nil {
				return n, err
			}
			m := copy(room, b[:min(len(b), 1000)])
			if err := c.Commit(m); err != nil {
				return n, err
			}
			b, n = b[m:], n+int64(m)
		}
		return n, nil
	},
}

// endings are what ends the stream meanwhile.
var endings = map[string]func(c *ctnet.Conn){
	"CloseWrite": func(c *ctnet.Conn) { c.CloseWrite() },
	"Close":      func(c *ctnet.Conn) { c.Close() },
	"unread":     func(c *ctnet.Conn) { c.Close() }, // the other end has written
	"SetLinger":  func(c *ctnet.Conn) { c.SetLinger(0); c.Close() },
	"CloseTwice": func(c *ctnet.Conn) { c.CloseWrite(); c.Close() },
}

// TestNothingAfterTheEnd ends the stream while each of the calls writes. Once the reader has got
// the end, it reads nothing more.
func TestNothingAfterTheEnd(t *testing.T) {
	eachPlace(t, ctnet.ListenConfig{}, func(t *testing.T, p place) {
		data := make([]byte, burst)
		pattern.Of(0, 0, client).Fill(data, 0)
		tried, wrong, sum := 0, map[string]int{}, 0
		for range tries(100, 1_000_000/len(bursts)/len(endings)) {
			for way, write := range bursts {
				for how, end := range endings {
					c, s := p.connect(t)
					if how == "unread" {
						_, err := s.Write(data[:100])
						require.NoError(t, err)
					}
					var wg sync.WaitGroup
					wg.Go(func() { write(c, data) })
					wg.Go(func() {
						pause(100)
						end(c)
					})
					n, err := readOn(s, wg.Wait)
					sum += n
					if tried++; err != nil {
						if wrong[way+" "+how]++; wrong[way+" "+how] == 1 {
							t.Errorf("%s, %s: %v", way, how, err)
						}
					}
					c.Close()
					s.Close()
				}
			}
		}
		t.Logf("%d connections, %d bytes, wrong: %v", tried, sum, wrong)
	})
}

// readOn reads to the end of the stream and beyond, also after written has returned.
func readOn(c net.Conn, written func()) (n int, err error) {
	b := make([]byte, burst+1)
	var end error
	for end == nil {
		var m int
		m, end = c.Read(b[n:])
		n += m
	}
	for i := range 20 {
		if i == 19 {
			written()
		}
		m, again := c.Read(b[n:])
		if m > 0 || (end == io.EOF) != (again == io.EOF) {
			err = fmt.Errorf("Read said %v after %d bytes, then %d bytes, %v", end, n, m, again)
		}
		pause(10)
	}
	if wrong, first := pattern.Of(0, 0, client).Wrong(b[:n], 0); wrong > 0 {
		err = fmt.Errorf("%d bytes are wrong, the first at %d", wrong, first)
	}
	return n, err
}

// TestWriteAgainstClose closes the other end while each of the calls writes. If bytes that count
// as written were not read, this end gets a reset.
func TestWriteAgainstClose(t *testing.T) {
	eachPlace(t, ctnet.ListenConfig{}, func(t *testing.T, p place) {
		data := make([]byte, burst)
		tried, lossy, wrong := 0, 0, map[string]int{}
		for range tries(200, 1_000_000/len(bursts)) {
			for way, write := range bursts {
				c, s := p.connect(t)
				var wrote, read int64
				var err error
				var wg sync.WaitGroup
				wg.Go(func() { wrote, err = write(c, data) })
				wg.Go(func() {
					pause(10)
					if rand.IntN(2) == 0 {
						n, _ := s.Read(make([]byte, burst))
						read = int64(n)
					}
					s.Close()
				})
				wg.Wait()
				_, end := c.Read(data[:1])
				lost := wrote > read
				if lost {
					lossy++
				}
				if tried++; lost && kind(err) != reset && kind(end) != reset || lost && kind(err) == broken {
					if wrong[way]++; wrong[way] == 1 {
						t.Errorf("%s: %d bytes, %v; %d were read; then Read says %v", way, wrote, err, read, end)
					}
				}
				c.Close()
			}
		}
		t.Logf("%d connections, %d lost bytes, wrong: %v", tried, lossy, wrong)
	})
}

// TestReadWhole closes the writer's end as soon as all was read. Its Write may be returning
// just then, and has written all.
func TestReadWhole(t *testing.T) {
	const size = 1 << 20 // after as many bytes Write lets others run before it returns
	eachPlace(t, ctnet.ListenConfig{}, func(t *testing.T, p place) {
		tried, wrong, b := 0, 0, make([]byte, size)
		for range tries(300, 1_000_000) {
			c, s := p.connect(t)
			var written int
			var err error
			var wg sync.WaitGroup
			wg.Go(func() { written, err = c.Write(make([]byte, size)) })
			_, readErr := io.ReadFull(s, b)
			require.NoError(t, readErr)
			require.NoError(t, c.Close())
			wg.Wait()
			if tried++; written != size || err != nil {
				if wrong++; wrong == 1 {
					t.Errorf("Write whose %d bytes were read: %d, %v", size, written, err)
				}
			}
			s.Close()
		}
		t.Logf("%d connections, %d wrong", tried, wrong)
	})
}
