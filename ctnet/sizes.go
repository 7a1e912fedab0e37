package ctnet

import (
	"fmt"
	"syscall"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/ring"
	"cutthrough.example/internal/syserr"
)

// sizes are the sizes of a connection's two fifos in bytes. A size of 0 is no preference.
type sizes pair.Sizes

// checkSizes returns s with each size rounded up to a size that a fifo can have.
func checkSizes(s sizes) (sizes, error) {
	for _, n := range []*int{&s.ToServer, &s.ToClient} {
		switch {
		case *n == 0:
		case *n < MinBuffer || *n > MaxBuffer:
			return s, syserr.New(syscall.EINVAL, fmt.Sprintf("a buffer of %d bytes is not between %d and %d", *n, MinBuffer, MaxBuffer))
		default:
			*n = ring.RoundSize(*n)
		}
	}
	return s, nil
}

// decide returns the sizes of a connection to a listener that prefers s, by a dialer that
// prefers ask. The listener's preference comes first.
func (s sizes) decide(ask sizes) (toServer, toClient int) {
	choose := func(a, b int) int {
		if a != 0 {
			return a
		}
		if b != 0 {
			return b
		}
		return DefaultBuffer
	}
	return choose(s.ToServer, ask.ToServer), choose(s.ToClient, ask.ToClient)
}
