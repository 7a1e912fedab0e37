//go:build !linux

// Command guard compares two versions of this repository by their benchmarks, on Linux only.
package main

import "log"

func main() { log.Fatal("guard: needs Linux") }
