package ring

import "testing"

func benchmarkWriteRead(b *testing.B, n int) {
	r := newPair(64 << 10)
	buf := make([]byte, n)
	b.SetBytes(int64(n))
	for b.Loop() {
		if m, err := r.p.Write(buf); m != n || err != nil {
			b.Fatal(m, err)
		}
		if m, err := r.c.Read(buf); m != n || err != nil {
			b.Fatal(m, err)
		}
	}
}

func BenchmarkWriteRead64(b *testing.B)  { benchmarkWriteRead(b, 64) }
func BenchmarkWriteRead32K(b *testing.B) { benchmarkWriteRead(b, 32<<10) }
