//go:build !race

package ring

// RaceEnabled says whether the race detector is compiled in.
const RaceEnabled = false

// RaceRelease tells the race detector of a publish, if it is compiled in.
func RaceRelease(key uint64) {}

// RaceAcquire tells the race detector of a read, if it is compiled in.
func RaceAcquire(key uint64) {}
