package pcapng

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// MaxPayload is the most bytes of a stream in a packet. It keeps the packet below IP's limit of 64 KiB.
const MaxPayload = 32 << 10

// The flags of TCP that are used.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagPSH = 8
	flagACK = 16
)

const (
	tcpHeader   = 20
	ip4Header   = 20
	ip6Header   = 40
	protocolTCP = 6
	hopLimit    = 64

	// window is the window of each packet. With the shift of the SYN it is a gigabyte: more than is ever under way.
	window      = 0xffff
	windowShift = 14

	// ackEvery is how many bytes one side sends at most before the other one acknowledges them, in a packet of its
	// own if need be. Otherwise readers take the window for full.
	ackEvery = 256 << 10
)

// synOptions are the options of a SYN: MSS and window scale.
var synOptions = []byte{2, 4, 0xff, 0xff, 1, 3, 3, windowShift}

// The directions of a Flow.
const (
	FromLocal  = iota // from the local end
	FromRemote        // to it
)

// A Flow makes the packets of one connection, and counts them. A sequence number is the position in the
// stream plus 1, as if the SYN's had been 0.
type Flow struct {
	ends   [2]netip.AddrPort // by the direction in which they send
	limits Limits
	sides  [2]side
	ids    uint16 // of IPv4

	Packets, Dropped uint64
}

// A side is what a direction has come to.
type side struct {
	pos   uint64 // after the last byte, also if that is missing
	ended uint64 // 1 if there was a FIN, which has a sequence number of its own
	acked uint64 // the position that the other side has acknowledged
}

// Limits say what is left out of a file.
type Limits struct {
	SnapLen int    // the most bytes of a packet that are kept, with its headers; 0 means all
	Count   uint64 // the most packets; 0 means all
}

// NewFlow returns the Flow of a connection between two addresses of one family. The positions are those
// at which the file begins.
func NewFlow(local, remote netip.AddrPort, l Limits, sent, received uint64) *Flow {
	f := &Flow{ends: [2]netip.AddrPort{local, remote}, limits: l}
	f.sides[FromLocal] = side{pos: sent, acked: sent}
	f.sides[FromRemote] = side{pos: received, acked: received}
	return f
}

// Open appends the packets by which a connection begins. The SYN goes in the given direction.
func (f *Flow) Open(b []byte, direction int, time int64) []byte {
	b = f.packet(b, direction, segment{flags: flagSYN, time: time})
	b = f.packet(b, 1-direction, segment{flags: flagSYN | flagACK, ack: 1, time: time})
	return f.ack(b, direction, time)
}

// Full reports whether there are as many packets as there may be.
func (f *Flow) Full() bool { return f.limits.Count > 0 && f.Packets >= f.limits.Count }

// Positions returns the positions that the streams have come to.
func (f *Flow) Positions() (sent, received uint64) {
	return f.sides[FromLocal].pos, f.sides[FromRemote].pos
}

// Missed counts packets that are missing after the last one.
func (f *Flow) Missed(n uint32) { f.Dropped += uint64(n) }

// Data appends a packet with the bytes at a position of a direction's stream, of which there are no more
// than [MaxPayload], and counts packets that are missing before it. It fails if the position has been passed.
func (f *Flow) Data(b []byte, direction int, pos uint64, data []byte, time int64, dropped uint32) ([]byte, error) {
	if len(data) > MaxPayload {
		return b, fmt.Errorf("%d bytes are too many for a packet", len(data))
	}
	gap, err := f.advance(direction, pos)
	if err != nil {
		return b, err
	}
	s := &f.sides[direction]
	b = f.packet(b, direction, segment{flags: flagACK | flagPSH, seq: uint32(pos + 1), data: data, time: time, dropped: dropped, comment: gap})
	if s.pos += uint64(len(data)); s.pos-s.acked >= ackEvery {
		b = f.ack(b, 1-direction, time)
	}
	return b, nil
}

// Fin appends a packet with a FIN, and Reset one with a RST. They fail if the position has been passed.
func (f *Flow) Fin(b []byte, direction int, pos uint64, time int64, dropped uint32) ([]byte, error) {
	gap, err := f.advance(direction, pos)
	if err != nil {
		return b, err
	}
	b = f.packet(b, direction, segment{flags: flagACK | flagFIN, seq: uint32(pos + 1), time: time, dropped: dropped, comment: gap})
	f.sides[direction].ended = 1
	return f.ack(b, 1-direction, time), nil
}

// Reset is described with Fin.
func (f *Flow) Reset(b []byte, direction int, pos uint64, time int64, dropped uint32) ([]byte, error) {
	gap, err := f.advance(direction, pos)
	if err != nil {
		return b, err
	}
	seq := uint32(pos + 1 + f.sides[direction].ended)
	return f.packet(b, direction, segment{flags: flagACK | flagRST, seq: seq, time: time, dropped: dropped, comment: gap}), nil
}

// advance goes on to a position. If bytes before it are missing it returns a comment that says so.
func (f *Flow) advance(direction int, pos uint64) (comment string, err error) {
	s := &f.sides[direction]
	switch {
	case pos < s.pos:
		return "", fmt.Errorf("position %d comes after %d", pos, s.pos)
	case pos > s.pos && s.ended == 1:
		return "", fmt.Errorf("position %d comes after the end of the stream at %d", pos, s.pos)
	case pos > s.pos:
		comment = fmt.Sprintf("%d bytes before this packet are missing in this file", pos-s.pos)
	}
	s.pos = pos
	return comment, nil
}

// ack appends a packet that only acknowledges.
func (f *Flow) ack(b []byte, direction int, time int64) []byte {
	s := &f.sides[direction]
	return f.packet(b, direction, segment{flags: flagACK, seq: uint32(s.pos + 1 + s.ended), time: time})
}

// A segment is what a packet has beyond its addresses.
type segment struct {
	flags    byte
	seq, ack uint32 // packet sets ack, except in a SYN
	data     []byte
	time     int64
	dropped  uint32
	comment  string
}

// packet appends a packet, unless there are enough.
func (f *Flow) packet(b []byte, direction int, s segment) []byte {
	if f.Full() {
		return b
	}
	var options []byte
	if s.flags&flagSYN != 0 {
		options = synOptions
	} else {
		other := &f.sides[1-direction]
		s.ack = uint32(other.pos + 1 + other.ended)
		other.acked = other.pos
	}
	from, to := f.ends[direction], f.ends[1-direction]
	tcp := make([]byte, 0, ip6Header+tcpHeader+len(options)+len(s.data))
	size := tcpHeader + len(options) + len(s.data)
	if from.Addr().Is4() {
		tcp = f.appendIP4(tcp, from.Addr(), to.Addr(), size)
	} else {
		tcp = appendIP6(tcp, from.Addr(), to.Addr(), size)
	}
	start := len(tcp)
	tcp = binary.BigEndian.AppendUint16(tcp, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, s.seq)
	tcp = binary.BigEndian.AppendUint32(tcp, s.ack)
	tcp = append(tcp, byte(tcpHeader+len(options))/4<<4, s.flags)
	tcp = binary.BigEndian.AppendUint16(tcp, window)
	tcp = append(tcp, 0, 0, 0, 0) // checksum, urgent pointer
	tcp = append(append(tcp, options...), s.data...)
	sum := sum(pseudoSum(from.Addr(), to.Addr(), size), tcp[start:])
	binary.BigEndian.PutUint16(tcp[start+16:], ^fold(sum))
	f.Packets++
	f.Dropped += uint64(s.dropped)
	p := packet{time: s.time, data: tcp, size: len(tcp), dropped: s.dropped, comment: s.comment}
	if most := f.limits.SnapLen; most > 0 && len(tcp) > most {
		p.data = tcp[:most]
	}
	return appendPacket(b, p)
}

// appendIP4 appends an IPv4 header before size bytes of TCP.
func (f *Flow) appendIP4(b []byte, from, to netip.Addr, size int) []byte {
	start := len(b)
	f.ids++
	b = append(b, 4<<4|ip4Header/4, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ip4Header+size))
	b = binary.BigEndian.AppendUint16(b, f.ids)
	b = append(b, 0x40, 0, hopLimit, protocolTCP, 0, 0) // don't fragment; no checksum yet
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[start+10:], ^fold(sum(0, b[start:])))
	return b
}

// appendIP6 appends an IPv6 header before size bytes of TCP.
func appendIP6(b []byte, from, to netip.Addr, size int) []byte {
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, protocolTCP, hopLimit)
	return append(append(b, from.AsSlice()...), to.AsSlice()...)
}

// pseudoSum returns the sum of the pseudo header that TCP's checksum covers.
func pseudoSum(from, to netip.Addr, size int) uint64 {
	return sum(sum(uint64(protocolTCP+size), from.AsSlice()), to.AsSlice())
}

// sum adds the 16-bit words of b.
func sum(total uint64, b []byte) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		total += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		total += uint64(b[0]) << 8
	}
	return total
}

// fold makes the sum one of 16 bits.
func fold(total uint64) uint16 {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}
