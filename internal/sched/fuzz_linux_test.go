package sched

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// FuzzBitmap takes bits from memory that the peer has filled with what it likes: ten bytes say
// which word has which value. Every bit that can be reached from the top is taken once, and
// it comes to an end.
func FuzzBitmap(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 24, 0, 255, 255, 0, 0, 0, 0, 0, 0}, uint16(0), uint16(10))
	f.Add([]byte{0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 9, 0, 3, 0, 0, 0, 0, 0, 0, 0, 90, 0, 1, 0, 0, 0, 0, 0, 0, 128}, uint16(65), uint16(1))
	f.Fuzz(func(t *testing.T, fill []byte, start, most uint16) {
		b := testBitmap()
		words := unsafe.Slice((*uint64)(unsafe.Pointer(b.top)), BitmapSize/8)
		for ; len(fill) >= 10; fill = fill[10:] {
			words[int(binary.LittleEndian.Uint16(fill))%len(words)] = binary.LittleEndian.Uint64(fill[2:])
		}
		reachable := make(map[uint32]bool)
		for s := range uint32(Slots) {
			leaf, mid := s/64, s/64/64
			if b.top.Load()>>mid&1 == 1 && b.mid[mid].Load()>>(leaf%64)&1 == 1 && b.leaf[leaf].Load()>>(s%64)&1 == 1 {
				reachable[s] = true
			}
		}
		from, limit := uint32(start)%(Slots/64)*64, int(most)%2000+1
		for passes := 0; b.Pending(); passes++ {
			require.Less(t, passes, 2*Slots/64+len(reachable)+2)
			called := 0
			n, next := b.Take(from, limit, func(s uint32) {
				called++
				require.True(t, reachable[s], "slot %d was taken twice, or is none", s)
				delete(reachable, s)
			})
			require.Equal(t, called, n)
			require.Less(t, n, limit+64)
			require.Less(t, next, uint32(Slots))
			require.Zero(t, next%64)
			from = next
		}
		require.Empty(t, reachable)
	})
}
