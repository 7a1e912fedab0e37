//go:build !linux

// Command drill puts a fault into a running pair of services. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "drill: only on Linux do two processes share memory, and can be asked")
	os.Exit(2)
}
