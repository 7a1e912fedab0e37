//go:build !race

package ring

import "unsafe"

// canGoAround says whether there are non-temporal stores. The race detector would
// not see what they read.
const canGoAround = true

// copyAround copies src to dst, which is as long, around the caches. The stores that
// follow come after it.
func copyAround(dst, src []byte) {
	// Whole lines: a part of one would be combined with what is there.
	head := min(-int(uintptr(unsafe.Pointer(unsafe.SliceData(dst))))&63, len(src))
	copy(dst, src[:head])
	dst, src = dst[head:], src[head:]
	lines := len(src) / 64
	storeLines(unsafe.SliceData(dst), unsafe.SliceData(src), lines)
	copy(dst[lines*64:], src[lines*64:])
}

// storeLines copies so many times 64 bytes to dst, which is aligned to that. It ends
// with an SFENCE, without which non-temporal stores may be overtaken by later ones.
//
//go:noescape
func storeLines(dst, src *byte, lines int)
