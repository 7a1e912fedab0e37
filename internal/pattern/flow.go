package pattern

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
)

// The ends of a flow. What an end writes goes in the direction of its number.
const (
	Dialer = iota
	Acceptor
)

// A Flow is a connection on which each end writes a pattern's bytes, ends its stream, and
// checks what the other one writes. The dialer says in a header which flow it is.
type Flow struct {
	Seed, Number uint64
	Size         [2]int64 // of each direction, without the header
}

// A Stream is a connection whose directions end by themselves.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// MaxFlow is the most bytes of a direction.
const MaxFlow = 1 << 30

const flowMagic = 0x2e6c61636974726f

// WriteHeader is the dialer's first act.
func (f Flow) WriteHeader(w io.Writer) error {
	return binary.Write(w, binary.LittleEndian, [5]uint64{flowMagic, f.Seed, f.Number, uint64(f.Size[0]), uint64(f.Size[1])})
}

// ReadHeader is the acceptor's first act.
func ReadHeader(r io.Reader) (f Flow, err error) {
	var h [5]uint64
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return f, err
	}
	f = Flow{h[1], h[2], [2]int64{int64(h[3]), int64(h[4])}}
	if h[0] != flowMagic || max(h[3], h[4]) > MaxFlow {
		return f, fmt.Errorf("the header is spoiled: %x", h)
	}
	return f, nil
}

// Of returns the pattern of a direction.
func (f Flow) Of(direction int) Pattern { return Of(f.Seed, f.Number, direction) }

// A ShortError is the orderly end of a stream that was to be longer.
type ShortError struct{ At, Size int64 }

func (e *ShortError) Error() string {
	return fmt.Sprintf("the end of the stream came after %d of %d bytes", e.At, e.Size)
}

// Run is what an end does after the header: it writes in pieces of random sizes, and reads
// with read until that returns, which is nil at the end of the stream. It returns how many
// bytes were right, and the errors of both.
//
// It does not wait for the writer after wrong bytes.
func (f Flow) Run(c Stream, end int, rnd *rand.Rand, read func(*Sink) error) (right int64, readErr, writeErr error) {
	seed := rnd.Uint64()
	var writing sync.WaitGroup
	writing.Go(func() {
		if writeErr = f.write(c, end, rand.New(rand.NewPCG(seed, 0))); writeErr == nil {
			writeErr = c.CloseWrite()
		}
	})
	size := f.Size[1-end]
	to := &Sink{Pattern: f.Of(1 - end)}
	readErr = read(to)
	if readErr == nil && to.At != size {
		readErr = &ShortError{to.At, size}
	}
	switch readErr.(type) {
	case *WrongError, *ShortError:
		c.Close()
	}
	writing.Wait()
	return to.At, readErr, writeErr
}

func (f Flow) write(c io.Writer, end int, rnd *rand.Rand) error {
	from := &Source{f.Of(end), 0, f.Size[end]}
	b := make([]byte, max(RandomSize(rnd, 17), int(f.Size[end]/1000))) // a large flow is not to take for ever
	for {
		n, err := from.Read(b[:1+rnd.IntN(len(b))])
		if err == io.EOF {
			return nil
		}
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
	}
}

// ReadAll reads c into to in pieces of random sizes, until the end of the stream.
func ReadAll(c io.Reader, to *Sink, rnd *rand.Rand) error {
	for b := make([]byte, 64+RandomSize(rnd, 17)); ; {
		n, err := c.Read(b[:1+rnd.IntN(len(b))])
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// RandomSize returns a size from 1 to 1<<bits, and as often of one magnitude as of another.
func RandomSize(rnd *rand.Rand, bits int) int { return 1 + rnd.IntN(1<<(1+rnd.IntN(bits))) }
