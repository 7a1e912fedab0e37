//go:build race

package conformance

// raceEnabled reports whether this is built with the race detector.
const raceEnabled = true
