//go:build linux

package main

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// sent returns a stream of n messages.
func sent(t *testing.T, n, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	var count atomic.Int64
	stop := func() bool { n--; return n < 0 }
	if err := send(&b, size, stop, func() bool { return true }, &count); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func received(r io.Reader, size int) error {
	var count atomic.Int64
	k := checker{size: size, count: &count}
	_, err := k.receive(r)
	return err
}

func TestStream(t *testing.T) {
	for _, size := range []int{64, 100, 4096, 100_000} {
		b := sent(t, 5, size)
		if len(b) != 6*size {
			t.Fatalf("size %d: %d bytes", size, len(b))
		}
		if err := received(bytes.NewReader(b), size); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if size <= 4096 {
			if err := received(iotest.OneByteReader(bytes.NewReader(b)), size); err != nil {
				t.Errorf("size %d, by bytes: %v", size, err)
			}
		}
	}
}

func TestStreamChecked(t *testing.T) {
	var b bytes.Buffer
	sum, err := sendChecked(&b, 3*checkedPiece)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := receiveChecked(iotest.HalfReader(bytes.NewReader(b.Bytes()))); err != nil || got != sum {
		t.Errorf("%x, %v; want %x", got, err, sum)
	}
	b.Bytes()[2*checkedPiece+5000]++
	if got, err := receiveChecked(bytes.NewReader(b.Bytes())); err != nil || got == sum {
		t.Errorf("damaged: %x, %v", got, err)
	}
	if _, err := receiveChecked(bytes.NewReader(b.Bytes()[:b.Len()-1])); err == nil {
		t.Error("no error though a byte is missing")
	}
}

func TestStreamDamaged(t *testing.T) {
	const size = 128
	for name, damage := range map[string]func(b []byte) []byte{
		"a message lost":      func(b []byte) []byte { return append(b[:size:size], b[2*size:]...) },
		"the last but one":    func(b []byte) []byte { return append(b[:4*size:4*size], b[5*size:]...) },
		"a byte lost":         func(b []byte) []byte { return append(b[:10:10], b[11:]...) },
		"messages exchanged":  func(b []byte) []byte { return append(append(bytes.Clone(b[size:2*size]), b[:size]...), b[2*size:]...) },
		"a byte more":         func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"the end lost":        func(b []byte) []byte { return b[:5*size] },
		"a probed byte wrong": func(b []byte) []byte { b = bytes.Clone(b); b[3*size+probe(3, size)]++; return b },
	} {
		if err := received(bytes.NewReader(damage(sent(t, 5, size))), size); err == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}
