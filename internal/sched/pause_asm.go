//go:build amd64 || arm64

package sched

// pause tells the processor that this is a spin loop, so that it saves power and leaves
// more to the other thread of the core.
//
//go:noescape
func pause()
