package ctnet

import (
	"errors"
	"os"
	"sync"
)

// A Path says which way connections may take on the networks that the kernel has too: "tcp",
// "tcp4", "tcp6" and "unix".
type Path int

const (
	// AnyPath prefers shared memory, and uses the kernel's socket if the cut-through can't be
	// used. On network "ct" it means shared memory.
	AnyPath Path = iota
	// CutThrough is shared memory only: a Dial that would need the kernel's socket fails,
	// with ECONNREFUSED if no listener of this package is there, and a Listen that can't
	// offer shared memory fails.
	CutThrough
	// Kernel is the kernel's socket only, as with package net. On network "ct" it is an
	// error, EINVAL.
	Kernel
)

// kernelOnly reports whether the environment turns the cut-through off for the whole
// process, so that the system's tools see its traffic. It has no effect on network "ct".
var kernelOnly = sync.OnceValue(func() bool {
	switch os.Getenv("CTNET_KERNEL_ONLY") {
	case "", "0", "false":
		return false
	}
	return true
})

// barrier returns nil if connections may go through shared memory on a network that the kernel has
// too, and otherwise why not.
func (p Path) barrier() error {
	switch {
	case p == CutThrough:
		return nil
	case p == Kernel:
		return errPathKernel
	case kernelOnly():
		return errSwitchedOff
	case currentBubble() != 0:
		return errInBubble
	}
	return nil
}

// errPathKernel says that the program itself has asked for the kernel's socket.
var errPathKernel = errors.New("Path is Kernel")
