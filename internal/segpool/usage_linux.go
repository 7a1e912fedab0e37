package segpool

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident returns how many bytes of a mapping occupy memory. It returns false if it has not counted
// them until the given time, or can't.
func resident(b []byte, until time.Time) (n int64, ok bool) {
	page := os.Getpagesize()
	const pages = 4096
	var there [pages]byte
	for len(b) > 0 {
		if time.Now().After(until) {
			return 0, false
		}
		part := b[:min(len(b), pages*page)]
		_, _, errno := unix.Syscall(unix.SYS_MINCORE,
			uintptr(unsafe.Pointer(&part[0])), uintptr(len(part)), uintptr(unsafe.Pointer(&there)))
		if errno != 0 {
			return 0, false
		}
		for _, is := range there[:(len(part)+page-1)/page] {
			n += int64(is & 1)
		}
		b = b[len(part):]
	}
	return n * int64(page), true
}
