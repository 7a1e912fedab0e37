//go:build !linux

package ctnet

import "math/bits"

// defaultMemory returns the default of AppConfig.MaxMemory.
func defaultMemory() int64 { return 1 << (28 + 3*(bits.UintSize>>6)) } // 2 GiB; 256 MiB on 32-bit systems
