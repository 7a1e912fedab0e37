package sched

import (
	"fmt"
	"testing"
)

// BenchmarkBitmap sets bits and takes them: one, as in request-response traffic, and
// one in each of 64 leaves.
func BenchmarkBitmap(b *testing.B) {
	for _, n := range []uint32{1, 64} {
		b.Run(fmt.Sprintf("set-take=%d", n), func(b *testing.B) {
			m := testBitmap()
			for b.Loop() {
				for i := range n {
					m.Set(i * 64)
				}
				if took, _ := m.Take(0, Slots, func(uint32) {}); took != int(n) {
					b.Fatal(took)
				}
			}
		})
	}
}

// BenchmarkBitmapSetAgain sets a bit that is set already.
func BenchmarkBitmapSetAgain(b *testing.B) {
	m := testBitmap()
	for b.Loop() {
		m.Set(1)
	}
}

// BenchmarkSpin spins until the given look finds the answer: the first one, one of the
// fast looks, and one that comes after yields.
func BenchmarkSpin(b *testing.B) {
	for _, answer := range []int{1, 32, 96} {
		b.Run(fmt.Sprintf("look=%d", answer), func(b *testing.B) {
			var s Spin
			looks := 0
			ready := func() bool { looks++; return looks >= answer }
			for b.Loop() {
				looks = 0
				s.Until(nil, ready)
			}
		})
	}
}

// BenchmarkRing rings a doorbell on which no worker waits, and empties it when it is full.
func BenchmarkRing(b *testing.B) {
	d, fd, err := NewDoorbell()
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	r, err := OpenRinger(fd)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for b.Loop() {
		if !r.ring() {
			d.Empty()
		}
	}
}

// BenchmarkNotify notifies a worker that is awake, so no ring is needed.
func BenchmarkNotify(b *testing.B) {
	w, _ := testGroup().Next()
	r := &Remote{Events: testBitmap(), Sleep: w.polling.word}
	for b.Loop() {
		r.Notify(1)
	}
}
