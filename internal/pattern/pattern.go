// Package pattern has the bytes that tests send, so that each of them can be checked.
package pattern

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A Pattern is the bytes of one direction of one connection. Those at two positions, or of
// two patterns, agree by chance only.
type Pattern uint64

// Of returns the pattern of a direction of a connection.
func Of(seed, number uint64, direction int) Pattern {
	return Pattern(mix(seed ^ mix(2*number+uint64(direction))))
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
func (p Pattern) word(i int64) uint64 { return mix(uint64(p) + uint64(i)*0x9e3779b97f4a7c15) }

// Fill makes b the bytes from a position.
func (p Pattern) Fill(b []byte, at int64) {
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

// Bytes returns n bytes from a position.
func (p Pattern) Bytes(at int64, n int) []byte {
	b := make([]byte, n)
	p.Fill(b, at)
	return b
}

// Wrong counts the bytes of b that differ from the pattern at a position, and returns where the
// first one is.
func (p Pattern) Wrong(b []byte, at int64) (n, first int) {
	var want [512]byte
	for done := 0; done < len(b); {
		part := b[done:min(len(b), done+len(want))]
		p.Fill(want[:len(part)], at+int64(done))
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

// A Source is an io.Reader of a pattern's bytes, from a position to another one.
type Source struct {
	Pattern
	At, End int64
}

func (s *Source) Read(b []byte) (int, error) {
	if s.At >= s.End {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), s.End-s.At)]
	s.Fill(b, s.At)
	s.At += int64(len(b))
	return len(b), nil
}

// A Sink is an io.Writer that takes nothing but a pattern's bytes, from a position on.
type Sink struct {
	Pattern
	At int64
}

// WrongError says which bytes differ from the pattern.
type WrongError struct {
	At      int64 // of the first
	N, Size int   // how many, of those that came at once
}

func (e *WrongError) Error() string {
	return fmt.Sprintf("%d of %d bytes are wrong, from position %d on", e.N, e.Size, e.At)
}

func (s *Sink) Write(b []byte) (int, error) {
	if n, first := s.Wrong(b, s.At); n > 0 {
		return first, &WrongError{s.At + int64(first), n, len(b)}
	}
	s.At += int64(len(b))
	return len(b), nil
}
