package integrity

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

func init() { roles["upload"] = uploadRole }

// upload writes the bytes of a connection, beginning with its number.
func upload(c net.Conn, number uint64, size int) error {
	b := make([]byte, size)
	pattern.Of(0, number, client).Fill(b, 0)
	binary.BigEndian.PutUint64(b, number)
	_, err := c.Write(b)
	return err
}

// download reads to the end, and returns how many bytes were wrong, or missing.
func download(c net.Conn, size int) (wrong int, err error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(c, b); err != nil {
		return size, err
	}
	number := binary.BigEndian.Uint64(b)
	wrong, _ = pattern.Of(0, number, client).Wrong(b[8:], 8)
	if n, err := c.Read(b); n != 0 || err != io.EOF {
		return wrong, fmt.Errorf("after %d bytes: %d more, %v", size, n, err)
	}
	return wrong, nil
}

// TestReadAfterClose has the bytes read when the writer has closed. More connections than
// the first few slots of a segment, which keep their pages, are read at the end.
func TestReadAfterClose(t *testing.T) {
	const size, conns = 512 << 10, 16
	eachPlace(t, ctnet.ListenConfig{ReadBuffer: size}, func(t *testing.T, p place) {
		tried, sum := 0, 0
		for try := range tries(3, 10_000/conns) {
			var accepted []net.Conn
			for i := range conns {
				c, s := p.connect(t)
				require.NoError(t, upload(c, uint64(try*conns+i), size))
				require.NoError(t, c.Close())
				accepted = append(accepted, s)
			}
			for _, s := range accepted {
				wrong, err := download(s, size)
				require.NoError(t, err)
				sum += wrong
				tried++
				require.NoError(t, s.Close())
			}
		}
		t.Logf("%d connections of %d bytes, %d bytes wrong", tried, size, sum)
		require.Zero(t, sum)
	})
}

// What TestUploads has at a time, and of what size.
const (
	uploads    = 16
	uploadSize = 4 << 20
)

// TestUploads has another process connect, write 4 MiB, and close, again and again.
func TestUploads(t *testing.T) {
	ln, err := (&ctnet.ListenConfig{App: harness.NewApp(t)}).Listen(t.Context(), "ct", t.Name())
	require.NoError(t, err)
	p := start(t, "upload", t.Name())

	conns := make(chan net.Conn)
	var downloads sync.WaitGroup
	var tried, sum, failed atomic.Int64
	for range uploads {
		downloads.Go(func() {
			for c := range conns {
				wrong, err := download(c, uploadSize)
				if err != nil {
					failed.Add(1)
					t.Errorf("connection %d: %v", tried.Load(), err)
				}
				if wrong > 0 {
					failed.Add(1)
				}
				tried.Add(1)
				sum.Add(int64(wrong))
				c.Close()
			}
		})
	}
	for range tries(3*uploads, 10_000) {
		c, err := ln.Accept()
		require.NoError(t, err)
		conns <- c
	}
	close(conns)
	within(t, "the last downloads", downloads.Wait)
	require.NoError(t, ln.Close()) // which ends the other process
	within(t, "the other process", func() { io.Copy(io.Discard, p.out) })
	t.Logf("%d connections of %d bytes; wrong: %d connections, %d bytes", tried.Load(), uploadSize, failed.Load(), sum.Load())
	require.Zero(t, sum.Load())
}

// uploadRole uploads until the listener is closed.
func uploadRole() {
	fmt.Println("ready")
	var number atomic.Uint64
	var wg sync.WaitGroup
	for range uploads {
		wg.Go(func() {
			for {
				c, err := ctnet.Dial("ct", arg(0))
				if err != nil {
					return
				}
				upload(c, number.Add(1), uploadSize) // fails if the listener is closed
				c.Close()
			}
		})
	}
	wg.Wait()
}
