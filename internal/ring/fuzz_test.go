package ring

import (
	"encoding/binary"
	"testing"
)

// FuzzRing takes three bytes for each operation: the operation, and its number of bytes.
func FuzzRing(f *testing.F) {
	f.Add(uint64(0), uint16(0), []byte{0, 64, 0, 2, 64, 0})
	f.Add(^uint64(0)-100, uint16(4000), []byte{0, 0, 8, 1, 0, 16, 1, 0, 16, 3, 0, 16, 4, 0, 16})
	f.Fuzz(func(t *testing.T, pos uint64, off uint16, ops []byte) {
		size := 4096 << (off >> 15)
		r := newPair(size)
		r.startAt(pos, int(off)%size)
		for ; len(ops) >= 3; ops = ops[3:] {
			r.step(t, int(ops[0])%numOps, int(binary.LittleEndian.Uint16(ops[1:]))%(size+2))
		}
		r.drain(t)
	})
}

// FuzzHostile takes ten bytes for each operation: the word to overwrite, the number of
// bytes to ask for, and the value. Two kinds of operation add the value to the true
// position, as an absolute one hardly ever passes the checks.
func FuzzHostile(f *testing.F) {
	f.Add(uint64(0), []byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(^uint64(0), []byte{4, 255, 0, 16, 0, 0, 0, 0, 0, 0, 5, 255, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add(^uint64(9), []byte{2, 9, 7, 7, 7, 7, 7, 7, 7, 7, 3, 200, 1, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, pos uint64, ops []byte) {
		b := make([]byte, 255*20)
		// Each end has a fifo of its own, whose other end only lies.
		rp, rc := newPair(4096), newPair(4096)
		rp.startAt(pos, int(pos%4096))
		rc.startAt(pos, int(pos%4096))
		for ; len(ops) >= 10; ops = ops[10:] {
			v := binary.LittleEndian.Uint64(ops[2:])
			switch ops[0] % 6 {
			case 0:
				rp.h.head.Store(v)
			case 1:
				rc.h.tail.Store(v)
			case 2:
				rc.h.place.Store(v)
				if v&(1<<63) != 0 {
					rc.h.place.Store(12<<32 | v>>32) // one that may be true
				}
			case 3:
				rp.h.wantData.Store(uint32(v))
				rp.h.closed.Store(uint32(v >> 32))
				rp.h.seen.Store(uint32(v))
				rp.h.allow.Store(uint32(v >> 32))
				rc.h.wantSpace.Store(uint32(v))
				rc.h.ended.Store(uint32(v >> 32))
			case 4:
				rp.h.head.Store(rp.p.head + v)
			case 5:
				rc.h.tail.Store(rc.c.tail + v)
			}
			n := int(ops[1]) * 20
			pokeProducer(t, &rp.p, b[:n])
			pokeConsumer(t, &rc.c, b[:n])
		}
	})
}
