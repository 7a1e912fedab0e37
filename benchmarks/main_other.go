//go:build !linux

// Command benchmarks measures ctnet between processes, which it connects on Linux
// only.
package main

import "log"

func main() { log.Fatal("benchmarks: needs Linux") }
