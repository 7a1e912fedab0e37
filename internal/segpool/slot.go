package segpool

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"cutthrough.example/internal/ring"
)

// MaxSlots is the most slots that the segments of one pair have together.
const MaxSlots = 64 << 10

const (
	pageSize        = 4 << 10
	maxSegmentSlots = 1 << 10
)

// A Geometry says how segments are laid out: first all slots' words and fifo
// headers, then all data areas, each a whole number of pages.
type Geometry struct {
	ToServer int // size of the fifo from client to server, in bytes
	ToClient int // size of the other one
	Slots    int // in each segment: a power of two
}

// NewGeometry returns the geometry for fifos of the given sizes, which must be
// powers of two from ring.MinSize to ring.MaxSize.
func NewGeometry(toServer, toClient int) (Geometry, error) {
	for _, n := range []int{toServer, toClient} {
		if n < ring.MinSize || n > ring.MaxSize || n&(n-1) != 0 {
			return Geometry{}, fmt.Errorf("no fifo has %d bytes", n)
		}
	}
	slots := 1
	for slots < maxSegmentSlots && 2*slots*(toServer+toClient) <= segmentBytes {
		slots *= 2
	}
	return Geometry{toServer, toClient, slots}, nil
}

// Segments returns how many segments a pair can have.
func (g Geometry) Segments() int { return MaxSlots / g.Slots }

// rings returns how many bytes the rings of a connection hold that begin with a size of
// first each, or the fifo's.
func (g Geometry) rings(first int) int { return min(first, g.ToServer) + min(first, g.ToClient) }

// headers returns the size of the part before the data areas.
func (g Geometry) headers() int {
	return (g.Slots*int(unsafe.Sizeof(slotHeader{})) + pageSize - 1) &^ (pageSize - 1)
}

// Size returns the size of a segment in bytes.
func (g Geometry) Size() int { return g.headers() + g.Slots*(g.ToServer+g.ToClient) }

// slotHeader is what a slot has besides the data of its fifos.
type slotHeader struct {
	client struct {
		state  atomic.Uint64
		number atomic.Uint64
		_      [48]byte
	}
	server struct {
		state  atomic.Uint64
		origin atomic.Uint64
		_      [48]byte
	}
	toServer, toClient ring.Header
}

// A State is what a side says of a slot: the number of the use in the upper
// half, how far the side is in the lower.
type State uint64

// What the client says.
const (
	Idle       = iota // nothing yet
	Connect           // asks for a connection
	ConnectNtf        // the same, and waits to be notified of the answer
	Done              // has let go of the slot
)

// What the server says, besides Done.
const (
	Accepted = Done + 1 + iota // the fifos may be used
	Refused                    // plus an errno, shifted by 8; has let go of the slot
)

// GivenUp is what the client says in place of Done if its Dial failed: whatever the
// server has answered, nobody has the connection.
const GivenUp = Refused + 1

// MakeState returns the state of a use.
func MakeState(use uint32, code uint32) State { return State(use)<<32 | State(code) }

// Use returns the number of the use.
func (s State) Use() uint32 { return uint32(s >> 32) }

// Code returns how far the side is.
func (s State) Code() uint32 { return uint32(s) & 0xff }

// Detail returns what was shifted into the code by 8.
func (s State) Detail() uint32 { return uint32(s) >> 8 }

// A Slot is a connection's share of a segment.
type Slot struct {
	ID  uint32 // among all slots of the pair
	Use uint32 // which use of the slot this is

	ToServer, ToClient ring.Fifo

	header *slotHeader
	seg    *Segment
}

// ClientState and ServerState return what a side has said. It may be of another use.
func (s *Slot) ClientState() State { return State(s.header.client.state.Load()) }

// ServerState is ClientState for the server.
func (s *Slot) ServerState() State { return State(s.header.server.state.Load()) }

// SetNumber and Number are for the client to tell its connections apart. It is stored before
// the state that asks for a connection, and loaded after that.
func (s *Slot) SetNumber(n uint64) { s.header.client.number.Store(n) }

// Number returns what SetNumber has stored. The client may change it at any moment.
func (s *Slot) Number() uint64 { return s.header.client.number.Load() }

// SetOrigin and Origin are for the server to say where a connection comes from. It is stored
// before the state that accepts, and loaded after that.
func (s *Slot) SetOrigin(o uint64) { s.header.server.origin.Store(o) }

// Origin returns what SetOrigin has stored. The server may change it at any moment.
func (s *Slot) Origin() uint64 { return s.header.server.origin.Load() }

// slot returns slot i of s, which is segment k of its pair.
func (s *Segment) slot(k, i int) Slot {
	g := s.geo
	h := (*slotHeader)(unsafe.Pointer(&s.mem.Bytes[i*int(unsafe.Sizeof(slotHeader{}))]))
	up := g.headers() + i*(g.ToServer+g.ToClient)
	down := up + g.ToServer
	end := down + g.ToClient
	return Slot{
		ID:       uint32(k*g.Slots + i),
		ToServer: ring.Fifo{Header: &h.toServer, Data: s.mem.Bytes[up:down:down]},
		ToClient: ring.Fifo{Header: &h.toClient, Data: s.mem.Bytes[down:end:end]},
		header:   h,
		seg:      s,
	}
}

// Reset brings the words of both sides' fifos to their first state, for a connection inside
// this process. Nobody else may use the slot.
func (s *Slot) Reset() {
	for _, h := range []*ring.Header{s.ToServer.Header, s.ToClient.Header} {
		h.ResetProducer()
		h.ResetConsumer()
	}
}

// say stores this side's word. It comes after whatever it speaks of, and before
// a look at the other side's word.
func say(w *atomic.Uint64, use, code uint32) { ring.Store64(w, uint64(MakeState(use, code))) }

// SayClient and SayServer store a side's state for this use.
func (s *Slot) SayClient(code uint32) { say(&s.header.client.state, s.Use, code) }

// SayServer is SayClient for the server.
func (s *Slot) SayServer(code uint32) { say(&s.header.server.state, s.Use, code) }

// A Used says up to which offset the data areas of a slot's fifos were written to.
type Used struct {
	ToServer int
	ToClient int // as far as was read; what was not is found in the fifo's words
}

// Trim gives back the pages in b, a part of a fifo's data area that begins at a page, and
// in which nobody has bytes. What is not a whole page stays.
func (s *Slot) Trim(b []byte) { s.seg.mem.trim(b[:len(b)&^(pageSize-1)]) }

// trimmed is how much of a data area must have been used for its pages to be given back: that
// much are the pages of a ring that has not grown.
const trimmed = ring.FirstSize

// trim gives back the pages of the fifos. Both sides must have let go of the slot.
func (s *Slot) trim(u Used) {
	keep := pageSize
	if s.ID < warmSlots {
		keep = trimmed
	}
	if u.ToServer > trimmed {
		s.seg.mem.trim(s.ToServer.Data[keep:])
	}
	if u.ToClient > trimmed {
		s.seg.mem.trim(s.ToClient.Data[keep:])
	}
}
