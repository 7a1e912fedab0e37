package wait

// A Bell wakes one of any number of goroutines that wait for the same thing, such as an item in
// a queue or a lock. A goroutine waits by receiving from the Bell. Call Ring after the change
// for which they wait. A goroutine that was woken, and leaves something for the others, must
// ring again. A ring is remembered if no goroutine waits, so a goroutine must look again after
// each receive: the thing may be gone.
type Bell chan struct{}

// NewBell returns a Bell that has not been rung.
func NewBell() Bell { return make(Bell, 1) }

// Ring wakes one goroutine: one that waits, or else the next one that receives. It never blocks.
func (b Bell) Ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}
