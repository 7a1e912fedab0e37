package pair

import (
	"sync/atomic"
	"unsafe"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// The memory that a pair shares besides its segments.

// blockSize is the size of the memory with the two bitmaps, each on pages of its own: first
// the bitmap of events to the server, then the bitmap of events to the client.
const blockSize = 2 * bitmapPages

const bitmapPages = (sched.BitmapSize + 4095) &^ 4095

// sleepPageSize is the size of an application's sleep words.
const sleepPageSize = sched.MaxWorkers * sched.WordSize

// bitmaps returns the two directions of a block.
func bitmaps(block *segpool.Memory) (toServer, toClient sched.Bitmap) {
	return sched.NewBitmap(block.Bytes[:bitmapPages]), sched.NewBitmap(block.Bytes[bitmapPages:])
}

// sleepWord returns the sleep word of a worker.
func sleepWord(m *segpool.Memory, worker int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&m.Bytes[worker*sched.WordSize]))
}
