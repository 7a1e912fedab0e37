//go:build !linux

// Command ctsoak uses ctnet in all ways at once for a long time. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "ctsoak: other processes are reached through shared memory on Linux only")
	os.Exit(2)
}
