//go:build !race

package conformance

// raceEnabled reports whether this is built with the race detector. Checking each byte takes
// slower times as long then.
const (
	raceEnabled = false
	slower      = 1
)
