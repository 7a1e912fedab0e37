package pattern

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPattern has each kind of wrong bytes found.
func TestPattern(t *testing.T) {
	const size = 4096
	p := Of(1, 2, 0)
	right := make([]byte, size)
	p.Fill(right, 0)
	for at := range 20 {
		b := make([]byte, 100)
		p.Fill(b, int64(at))
		require.Equal(t, right[at:at+100], b)
		n, _ := p.Wrong(b, int64(at))
		require.Zero(t, n)
	}
	for name, spoil := range map[string]func(b []byte){
		"zero":             func(b []byte) { clear(b) },
		"repeated":         func(b []byte) { copy(b, right[:len(b)]) },
		"swapped":          func(b []byte) { copy(b, append(bytes.Clone(b[4:]), b[:4]...)) },
		"left out":         func(b []byte) { copy(b, right[size/2+1:]) },
		"other connection": func(b []byte) { Of(1, 3, 0).Fill(b, size/2) },
		"other direction":  func(b []byte) { Of(1, 2, 1).Fill(b, size/2) },
		"other run":        func(b []byte) { Of(2, 2, 0).Fill(b, size/2) },
	} {
		b := bytes.Clone(right)
		spoil(b[size/2 : size/2+8])
		n, first := p.Wrong(b, 0)
		require.NotZero(t, n, name)
		require.GreaterOrEqual(t, first, size/2, name)
		require.Less(t, first, size/2+8, name)
	}
}

// TestSink has a source's bytes taken, and none that is not in its place.
func TestSink(t *testing.T) {
	p := Of(1, 2, 0)
	to := Sink{Pattern: p, At: 5}
	n, err := io.CopyBuffer(struct{ io.Writer }{&to}, struct{ io.Reader }{&Source{p, 5, 1000}}, make([]byte, 7))
	require.NoError(t, err)
	require.EqualValues(t, 995, n)
	require.EqualValues(t, 1000, to.At)
	b := make([]byte, 10)
	p.Fill(b, 1000)
	b[3]++
	_, err = to.Write(b)
	require.Equal(t, &WrongError{1003, 1, 10}, err)
	require.EqualValues(t, 1000, to.At)
}

// TestFlow has both ends of a flow find that all is right, or what is wrong.
func TestFlow(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	run := func(f, claimed Flow) (errs [2]error) {
		var accepting sync.WaitGroup
		accepting.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				errs[Acceptor] = err
				return
			}
			defer c.Close()
			got, err := ReadHeader(c)
			if err != nil {
				errs[Acceptor] = err
				return
			}
			rnd := rand.New(rand.NewPCG(1, 0))
			_, readErr, writeErr := got.Run(c.(Stream), Acceptor, rnd, func(to *Sink) error { return ReadAll(c, to, rnd) })
			errs[Acceptor] = errors.Join(readErr, writeErr)
		})
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, claimed.WriteHeader(c))
		rnd := rand.New(rand.NewPCG(2, 0))
		right, readErr, writeErr := f.Run(c.(Stream), Dialer, rnd, func(to *Sink) error { return ReadAll(c, to, rnd) })
		if readErr == nil {
			require.Equal(t, f.Size[Acceptor], right)
		}
		errs[Dialer] = errors.Join(readErr, writeErr)
		accepting.Wait()
		return errs
	}
	f := Flow{1, 2, [2]int64{100_000, 30_000}}
	require.Equal(t, [2]error{}, run(f, f))
	longer, other := f, f
	longer.Size[Dialer]++
	other.Number++
	var short *ShortError
	require.ErrorAs(t, run(f, longer)[Acceptor], &short)
	require.Equal(t, &ShortError{100_000, 100_001}, short)
	var wrong *WrongError
	errs := run(f, other) // the end that finds it first closes the connection
	require.ErrorAs(t, errors.Join(errs[:]...), &wrong)
}
