package wait

// A Bell lets any number of goroutines wait, by receiving from it, for something that one of
// them will take. Ring follows the change. A goroutine that was woken and leaves something
// for the others rings again. A ring for which nobody waits is remembered, so a goroutine
// must look again after each receive.
type Bell chan struct{}

// NewBell returns a bell that was not rung.
func NewBell() Bell { return make(Bell, 1) }

// Ring wakes one goroutine, now or when it comes. It never blocks.
func (b Bell) Ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}
