//go:build amd64 || arm64

package sched

// pause tells the processor that this is a spin loop, so that it saves power and leaves more
// of the core to its other thread.
//
//go:noescape
func pause()
