//go:build race

package ring

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// RaceEnabled says whether the program was built with the race detector.
const RaceEnabled = true

// edges are addresses in the Go heap that stand for fifos: the race detector does not see
// that atomics outside the Go heap order anything. If two fifos share an edge, the race
// detector may miss a race, but never reports one that isn't there.
var edges [1024]uint64

// Store32 stores v so that no later load of another word overtakes the store. Any atomic
// store would do, but the race detector turns an atomic store to memory outside the Go
// heap into a plain one, which on amd64 later loads overtake. A swap stays a barrier.
func Store32(w *atomic.Uint32, v uint32) { w.Swap(v) }

// Store64 is [Store32] for 64 bits.
func Store64(w *atomic.Uint64, v uint64) { w.Swap(v) }

// RaceRelease tells the race detector that bytes are about to be published: a goroutine
// that calls [RaceAcquire] with the same key afterwards has seen what this one did so far.
func RaceRelease(key uint64) {
	runtime.RaceReleaseMerge(unsafe.Pointer(&edges[key%uint64(len(edges))]))
}

// RaceAcquire tells the race detector that bytes were read. It pairs with [RaceRelease].
func RaceAcquire(key uint64) {
	runtime.RaceAcquire(unsafe.Pointer(&edges[key%uint64(len(edges))]))
}
