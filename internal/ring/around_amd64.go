//go:build !race

package ring

import "unsafe"

// canGoAround says whether copyAround uses non-temporal stores. Under the race detector it
// does not, as the detector does not see what they read.
const canGoAround = true

// copyAround copies src to dst, which has the same length, around the caches. Later
// stores, such as that of the tail, don't overtake it.
func copyAround(dst, src []byte) {
	// Only whole cache lines: a part of a line would have to be combined with what
	// is in memory.
	head := min(-int(uintptr(unsafe.Pointer(unsafe.SliceData(dst))))&63, len(src))
	copy(dst, src[:head])
	dst, src = dst[head:], src[head:]
	lines := len(src) / 64
	storeLines(unsafe.SliceData(dst), unsafe.SliceData(src), lines)
	copy(dst[lines*64:], src[lines*64:])
}

// storeLines copies lines times 64 bytes from src to dst, which is aligned to 64 bytes. It
// ends with an SFENCE, without which later stores may overtake non-temporal ones.
//
//go:noescape
func storeLines(dst, src *byte, lines int)
