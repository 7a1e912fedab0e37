package integrity

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"cutthrough.example/internal/pattern"
)

// The sides of a connection. What a side writes goes in the direction of its number.
const (
	client = iota
	server
)

// A plan says what both ends of a connection do. It depends on the run's seed and the
// connection's number only, so both processes know it.
type plan struct {
	seed, number uint64

	fifo     [2]int        // sizes, of each direction
	total    [2]int64      // bytes to be written
	does     [2]does       // what each side does beside
	patience time.Duration // how long the client's Dial waits, if not 0
}

// does is what a side does beside reading and writing.
type does struct {
	// late: it reads when the other side has ended its stream. All that one writes fits.
	late bool
	// hangsUp: it closes when it has written all, and otherwise it calls CloseWrite, and
	// closes when it has read all.
	hangsUp bool
	// stays: it closes after the other side has.
	stays  bool
	events []event
}

// An event is what a goroutine of its own does when a side has moved a number of bytes.
type event struct {
	after int64
	what  string
}

// The events, and how often.
var events = []string{"Close", "reset", "reset", "CloseWrite", "deadline", "deadline", "past deadline"}

// headerSize is how many bytes the client writes first, to say which connection it is.
const headerSize = 16

// fifoSizes are what connections choose from. With the last a segment has 64 slots.
var fifoSizes = [][2]int{
	{4 << 10, 4 << 10}, {4 << 10, 1 << 20}, {64 << 10, 8 << 10}, {1 << 20, 4 << 10}, {256 << 10, 256 << 10},
	{1 << 20, 1 << 20}, {1 << 20, 1 << 20}, {1 << 20, 1 << 20}, {1 << 20, 1 << 20}, {1 << 20, 1 << 20},
}

func newPlan(seed, number uint64) *plan {
	rnd := rand.New(rand.NewPCG(seed, number))
	p := &plan{seed: seed, number: number, fifo: fifoSizes[rnd.IntN(len(fifoSizes))]}
	for side := range p.does {
		switch rnd.IntN(20) {
		case 0:
		case 1: // about as much as there is room for
			p.total[side] = int64(p.fifo[side] + rnd.IntN(5) - 2)
		case 2, 3, 4, 5:
			p.total[side] = int64(upTo(rnd, 16*p.fifo[side]))
		default:
			p.total[side] = int64(upTo(rnd, p.fifo[side]/8))
		}
		p.does[side].hangsUp = rnd.IntN(4) == 0
		for range max(0, rnd.IntN(5)-2) {
			after := upTo(rnd, int(p.total[0]+p.total[1])+1) - 1
			p.does[side].events = append(p.does[side].events, event{int64(after), events[rnd.IntN(len(events))]})
		}
	}
	// One side may wait for the other, which then must not wait for this one.
	side := rnd.IntN(2)
	own, other := &p.does[side], 1-side
	switch rnd.IntN(4) {
	case 0:
		own.late = true
		// A ReadFrom or Reserve wants a part of the fifo to be free.
		p.total[other] = int64(upTo(rnd, p.fifo[other]/2-headerSize))
	case 1:
		own.stays, own.hangsUp = true, false
	}
	if rnd.IntN(20) == 0 {
		p.patience = time.Duration(50+rnd.IntN(500)) * time.Microsecond
	}
	return p
}

// upTo returns a number from 1 to most whose logarithm is evenly distributed.
func upTo(rnd *rand.Rand, most int) int {
	n := 1 << rnd.IntN(bits.Len(uint(most)))
	return min(most, n+rnd.IntN(n))
}

// pattern returns that of what a side writes.
func (p *plan) pattern(side int) pattern.Pattern { return pattern.Of(p.seed, p.number, side) }

// rnd returns a source for one goroutine of a side.
func (p *plan) rnd(side, goroutine int) *rand.Rand {
	return rand.New(rand.NewPCG(p.seed^uint64(side), p.number<<8|uint64(goroutine)))
}

func (p *plan) String() string {
	return fmt.Sprintf("connection %d: fifos %v, bytes %v, client %+v, server %+v", p.number, p.fifo, p.total, p.does[0], p.does[1])
}
