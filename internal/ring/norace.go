//go:build !race

package ring

import "sync/atomic"

// RaceEnabled says whether the race detector is compiled in.
const RaceEnabled = false

// Store32 is the store that a load of another word must not overtake.
func Store32(w *atomic.Uint32, v uint32) { w.Store(v) }

// Store64 is Store32 for 64 bits.
func Store64(w *atomic.Uint64, v uint64) { w.Store(v) }

// RaceRelease tells the race detector of a publish, if it is compiled in.
func RaceRelease(key uint64) {}

// RaceAcquire tells the race detector of a read, if it is compiled in.
func RaceAcquire(key uint64) {}
