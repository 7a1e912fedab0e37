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

// A Geometry is the layout of segments: first the headers of all slots, then all data areas, each
// a whole number of pages.
type Geometry struct {
	ToServer int // size of the fifo from client to server, in bytes
	ToClient int // size of the fifo from server to client
	Slots    int // in each segment: a power of two
}

// NewGeometry returns the geometry for fifos of the given sizes, which must be
// powers of two from ring.MinSize to ring.MaxSize.
func NewGeometry(toServer, toClient int) (Geometry, error) {
	return newGeometry(toServer, toClient, segmentBytes)
}

// newGeometry is NewGeometry for segments that have at most the given bytes of data areas, or a
// single slot.
func newGeometry(toServer, toClient, most int) (Geometry, error) {
	for _, n := range []int{toServer, toClient} {
		if n < ring.MinSize || n > ring.MaxSize || n&(n-1) != 0 {
			return Geometry{}, fmt.Errorf("no fifo has %d bytes", n)
		}
	}
	slots := 1
	for slots < maxSegmentSlots && 2*slots*(toServer+toClient) <= most {
		slots *= 2
	}
	return Geometry{toServer, toClient, slots}, nil
}

// Segments returns how many segments a pair can have.
func (g Geometry) Segments() int { return MaxSlots / g.Slots }

// headers returns the size of the part before the data areas.
func (g Geometry) headers() int {
	return (g.Slots*int(unsafe.Sizeof(slotHeader{})) + pageSize - 1) &^ (pageSize - 1)
}

// Size returns the size of a segment in bytes.
func (g Geometry) Size() int { return g.headers() + g.Slots*(g.ToServer+g.ToClient) }

// Segment returns the number of a slot's segment, and that of the slot in it.
func (g Geometry) Segment(id uint32) (segment, slot int) { return int(id) / g.Slots, int(id) % g.Slots }

// A slotHeader has the shared words of a slot.
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

// A State is the value of a side's state word: the number of the use in the upper half, and a
// code in the lower half.
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
	Refused                    // with an errno, shifted by 8; has let go of the slot
)

// GivenUp is what the client says in place of Done if its Dial failed: no side has the
// connection, whatever the server has answered.
const GivenUp = Refused + 1

// MakeState returns the state of a use.
func MakeState(use uint32, code uint32) State { return State(use)<<32 | State(code) }

// Use returns the number of the use.
func (s State) Use() uint32 { return uint32(s >> 32) }

// Code returns the code, such as Connect.
func (s State) Code() uint32 { return uint32(s) & 0xff }

// Detail returns the errno of a Refused.
func (s State) Detail() uint32 { return uint32(s) >> 8 }

// A Slot is the memory of one connection, in a segment.
type Slot struct {
	ID  uint32 // among all slots of the pair
	Use uint32 // which use of the slot this is

	ToServer, ToClient ring.Fifo

	header *slotHeader
	seg    *Segment
}

// ClientState and ServerState return a side's state word. It may be of another use.
func (s *Slot) ClientState() State { return State(s.header.client.state.Load()) }

// ServerState is ClientState for the server.
func (s *Slot) ServerState() State { return State(s.header.server.state.Load()) }

// SetNumber stores the number by which the client tells its connections apart. The client stores
// it before it says Connect; the server loads it after it has seen that.
func (s *Slot) SetNumber(n uint64) { s.header.client.number.Store(n) }

// Number returns the number that SetNumber has stored. A hostile client may change it any time.
func (s *Slot) Number() uint64 { return s.header.client.number.Load() }

// SetOrigin stores the origin that the server has allocated for the dialing end. The server
// stores it before it says Accepted; the client loads it after it has seen that.
func (s *Slot) SetOrigin(o uint64) { s.header.server.origin.Store(o) }

// Origin returns the origin that SetOrigin has stored. A hostile server may change it any time.
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

// Position returns the number of the slot's segment, and its own number in that.
func (s *Slot) Position() (segment, slot int) { return s.seg.geo.Segment(s.ID) }

// Reset brings the words of both fifos to their first state, for a connection inside one
// application. No goroutine may use the slot meanwhile.
func (s *Slot) Reset() {
	for _, h := range []*ring.Header{s.ToServer.Header, s.ToClient.Header} {
		h.ResetProducer()
		h.ResetConsumer()
	}
}

// say stores a side's state word. The store comes after all that the word promises, and before a
// load of the other side's word.
func say(w *atomic.Uint64, use, code uint32) { ring.Store64(w, uint64(MakeState(use, code))) }

// SayClient and SayServer store a side's state for this use.
func (s *Slot) SayClient(code uint32) { say(&s.header.client.state, s.Use, code) }

// SayServer is SayClient for the server.
func (s *Slot) SayServer(code uint32) { say(&s.header.server.state, s.Use, code) }

// A Used says up to which offsets the client has used the data areas of a slot's fifos.
type Used struct {
	ToServer int // written
	ToClient int // read; freed.trims adds the bytes that were not
}

// Trim returns the pages in b to the system: a part of a fifo's data area that begins at a
// page, and in which nobody has bytes. What is not a whole page stays.
func (s *Slot) Trim(b []byte) { s.seg.mem.trim(b[:len(b)&^(pageSize-1)]) }

// trimmed is the most bytes of a data area that a connection can use and still leave its pages:
// the pages of a ring that has not grown far.
const trimmed = ring.EasySize

// trim returns pages of the fifos to the system: all but the first, if more than trimmed bytes
// were used. Both sides must have let go of the slot.
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
