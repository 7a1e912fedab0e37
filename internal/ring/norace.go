//go:build !race

package ring

import "sync/atomic"

// RaceEnabled says whether the program was built with the race detector.
const RaceEnabled = false

// Store32 stores v so that no later load of another word overtakes the store. Each store
// of the form "store mine, then load yours" needs that.
func Store32(w *atomic.Uint32, v uint32) { w.Store(v) }

// Store64 is [Store32] for 64 bits.
func Store64(w *atomic.Uint64, v uint64) { w.Store(v) }

// RaceRelease tells the race detector that bytes are about to be published. Without the
// race detector it does nothing.
func RaceRelease(key uint64) {}

// RaceAcquire tells the race detector that bytes were read. Without the race detector it
// does nothing.
func RaceAcquire(key uint64) {}
