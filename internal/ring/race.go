//go:build race

package ring

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// RaceEnabled says whether the race detector is compiled in.
const RaceEnabled = true

// edges stand in for fifos towards the race detector, which sees no ordering
// through memory outside the Go heap. Fifos with keys that share an edge only
// hide races from it; they never make it report one that isn't there.
var edges [1024]uint64

// Store32 stores v, and the loads that follow come after it, as with any atomic
// store. But the race detector makes one to memory outside the Go heap a plain
// store, which on amd64 later loads overtake. What it makes of a swap is a barrier.
func Store32(w *atomic.Uint32, v uint32) { w.Swap(v) }

// Store64 is Store32 for 64 bits.
func Store64(w *atomic.Uint64, v uint64) { w.Swap(v) }

// RaceRelease marks, before bytes are published, that whoever calls RaceAcquire
// with the same key afterwards has seen what this goroutine did so far.
func RaceRelease(key uint64) {
	runtime.RaceReleaseMerge(unsafe.Pointer(&edges[key%uint64(len(edges))]))
}

// RaceAcquire is the other end of RaceRelease, called after bytes were read.
func RaceAcquire(key uint64) {
	runtime.RaceAcquire(unsafe.Pointer(&edges[key%uint64(len(edges))]))
}
