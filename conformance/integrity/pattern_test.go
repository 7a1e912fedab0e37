package integrity

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// A pattern is the bytes of one direction of one connection. Bytes at two positions, or of two
// patterns, agree by chance only.
type pattern uint64

func patternOf(seed, number uint64, direction int) pattern {
	return pattern(mix(seed ^ mix(2*number+uint64(direction))))
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// word returns the eight bytes from position 8*i.
func (p pattern) word(i int64) uint64 { return mix(uint64(p) + uint64(i)*0x9e3779b97f4a7c15) }

// fill makes b the bytes from a position.
func (p pattern) fill(b []byte, at int64) {
	var word [8]byte
	for len(b) > 0 {
		if at%8 == 0 && len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, p.word(at/8))
			b, at = b[8:], at+8
			continue
		}
		binary.LittleEndian.PutUint64(word[:], p.word(at/8))
		n := copy(b, word[at%8:])
		b, at = b[n:], at+int64(n)
	}
}

// wrong counts the bytes of b that differ from the pattern at a position, and returns where the
// first one is.
func (p pattern) wrong(b []byte, at int64) (n, first int) {
	var want [512]byte
	for done := 0; done < len(b); {
		part := b[done:min(len(b), done+len(want))]
		p.fill(want[:len(part)], at+int64(done))
		if !bytes.Equal(part, want[:len(part)]) {
			for i := range part {
				if part[i] != want[i] {
					if n == 0 {
						first = done + i
					}
					n++
				}
			}
		}
		done += len(part)
	}
	return n, first
}

// TestPattern checks that each kind of wrong bytes is found.
func TestPattern(t *testing.T) {
	const size = 4096
	p := patternOf(1, 2, 0)
	right := make([]byte, size)
	p.fill(right, 0)
	for at := range 20 {
		b := make([]byte, 100)
		p.fill(b, int64(at))
		require.Equal(t, right[at:at+100], b)
		n, _ := p.wrong(b, int64(at))
		require.Zero(t, n)
	}
	for name, spoil := range map[string]func(b []byte){
		"zero":             func(b []byte) { clear(b) },
		"repeated":         func(b []byte) { copy(b, right[:len(b)]) },
		"swapped":          func(b []byte) { copy(b, append(bytes.Clone(b[4:]), b[:4]...)) },
		"left out":         func(b []byte) { copy(b, right[size/2+1:]) },
		"other connection": func(b []byte) { patternOf(1, 3, 0).fill(b, size/2) },
		"other direction":  func(b []byte) { patternOf(1, 2, 1).fill(b, size/2) },
		"other run":        func(b []byte) { patternOf(2, 2, 0).fill(b, size/2) },
	} {
		b := bytes.Clone(right)
		spoil(b[size/2 : size/2+8])
		n, first := p.wrong(b, 0)
		require.NotZero(t, n, name)
		require.GreaterOrEqual(t, first, size/2, name)
		require.Less(t, first, size/2+8, name)
	}
}
