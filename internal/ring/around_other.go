//go:build !amd64 || race

package ring

const canGoAround = false

func copyAround(dst, src []byte) { copy(dst, src) }
