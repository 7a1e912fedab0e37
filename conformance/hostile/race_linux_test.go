//go:build race

package hostile

// slowdown is by how much longer calculations may take with the race detector. The run without it has
// the bounds that count.
const slowdown = 4
