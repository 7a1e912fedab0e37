// Package packets reads a pcapng file of one TCP connection back, for tests. It shares no code with what writes
// such files, and takes nothing for granted: every length, checksum and number is checked.
package packets

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// A File is what was read.
type File struct {
	Interface map[uint16]string // options of the interface by their number; 1 is a comment
	Packets   []Packet
	Tail      map[uint16]string // options of the statistics at the end; nil if there are none
}

// A Packet is a TCP packet.
type Packet struct {
	Time     int64
	From, To netip.AddrPort
	Seq, Ack uint32
	Flags    byte
	Data     []byte // as much of it as was kept
	Size     int    // how many bytes of data there were
	Dropped  uint64
	Comment  string
}

// The flags of a packet.
const (
	FIN = 1
	SYN = 2
	RST = 4
	ACK = 16
)

// Read reads a file.
func Read(b []byte) (*File, error) {
	f := &File{}
	for n := 0; len(b) > 0; n++ {
		if len(b) < 12 {
			return f, fmt.Errorf("block %d has %d bytes", n, len(b))
		}
		kind, size := binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint32(b[4:]))
		if size < 12 || size%4 != 0 || size > len(b) || int(binary.LittleEndian.Uint32(b[size-4:])) != size {
			return f, fmt.Errorf("block %d has size %d of %d", n, size, len(b))
		}
		if err := f.block(n, kind, b[8:size-4]); err != nil {
			return f, fmt.Errorf("block %d of type %#x: %w", n, kind, err)
		}
		b = b[size:]
	}
	if f.Interface == nil {
		return f, fmt.Errorf("there is no interface")
	}
	return f, nil
}

func (f *File) block(n int, kind uint32, b []byte) (err error) {
	switch {
	case (n == 0) != (kind == 0x0a0d0d0a) || (n == 1) != (kind == 1) || f.Tail != nil:
		return fmt.Errorf("it is in the wrong place")
	case n == 0:
		if binary.LittleEndian.Uint32(b) != 0x1a2b3c4d || binary.LittleEndian.Uint16(b[4:]) != 1 {
			return fmt.Errorf("it has another byte order or version")
		}
		_, err = options(b[16:])
	case n == 1:
		if binary.LittleEndian.Uint32(b) != 101 {
			return fmt.Errorf("its packets are no IP packets")
		}
		if f.Interface, err = options(b[8:]); err == nil && f.Interface[9] != "\x09" {
			err = fmt.Errorf("its times are not in nanoseconds")
		}
	case kind == 5:
		f.Tail, err = options(b[12:])
	case kind == 6:
		var p Packet
		p.Time = int64(binary.LittleEndian.Uint32(b[4:]))<<32 | int64(binary.LittleEndian.Uint32(b[8:]))
		kept, size := int(binary.LittleEndian.Uint32(b[12:])), int(binary.LittleEndian.Uint32(b[16:]))
		rest := b[20:]
		if kept > size || kept > len(rest) {
			return fmt.Errorf("it has %d bytes of %d", kept, size)
		}
		opts, err := options(rest[(kept+3)&^3:])
		if err != nil {
			return err
		}
		p.Comment = opts[1]
		if d := opts[4]; d != "" {
			p.Dropped = binary.LittleEndian.Uint64([]byte(d))
		}
		if err := p.ip(rest[:kept], size); err != nil {
			return err
		}
		f.Packets = append(f.Packets, p)
	default:
		return fmt.Errorf("it is not known")
	}
	return err
}

func options(b []byte) (map[uint16]string, error) {
	all := make(map[uint16]string)
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("an option is cut off")
		}
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if code == 0 {
			if len(b) != 4 || n != 0 {
				return nil, fmt.Errorf("something follows the last option")
			}
			return all, nil
		}
		if len(b) < 4+(n+3)&^3 {
			return nil, fmt.Errorf("option %d is longer than the block", code)
		}
		all[code] = string(b[4 : 4+n])
		b = b[4+(n+3)&^3:]
	}
	return all, nil
}

// ip reads an IP packet of the given size, of which b was kept.
func (p *Packet) ip(b []byte, size int) error {
	if len(b) == 0 {
		return nil
	}
	var pseudo []byte
	var header int
	var from, to netip.Addr
	switch whole := len(b) == size; b[0] >> 4 {
	case 4:
		if header = 20; len(b) < header {
			return nil
		}
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		if b[0]&15 != 5 || int(binary.BigEndian.Uint16(b[2:])) != size || b[9] != 6 || checksum(b[:20]) != 0 {
			return fmt.Errorf("its IPv4 header is wrong: % x", b[:20])
		}
		pseudo = append(append(pseudo, b[12:20]...), 0, 6, byte((size-header)>>8), byte(size-header))
	case 6:
		if header = 40; len(b) < header {
			return nil
		}
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		if int(binary.BigEndian.Uint16(b[4:])) != size-header || b[6] != 6 {
			return fmt.Errorf("its IPv6 header is wrong: % x", b[:40])
		}
		pseudo = append(append(pseudo, b[8:40]...), 0, 0, byte((size-header)>>8), byte(size-header), 0, 0, 0, 6)
	default:
		return fmt.Errorf("it is of IP version %d, and whole: %t", b[0]>>4, whole)
	}
	tcp := b[header:]
	if len(tcp) < 20 {
		return nil
	}
	if len(b) == size && checksum(append(pseudo, tcp...)) != 0 {
		return fmt.Errorf("its TCP checksum is wrong")
	}
	p.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp))
	p.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:]))
	p.Seq, p.Ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	p.Flags = tcp[13]
	offset := int(tcp[12]>>4) * 4
	p.Size = size - header - offset
	p.Data = tcp[min(offset, len(tcp)):]
	return nil
}

// checksum is 0 for bytes of which a part is their right checksum.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// A Stream is one direction of a connection.
type Stream struct {
	Start  uint64 // the position at which the file begins
	Data   []byte // all bytes, if Missed is 0
	Missed int    // bytes that are missing, and Gaps at how many places
	Gaps   int
	Fin    bool
	Reset  bool
}

// Streams checks that all packets are of one connection and that their numbers fit together, and returns its two
// directions. from sends the first one. A position is a sequence number less 1, of 32 bits.
func (f *File) Streams(from netip.AddrPort) (out, in Stream, err error) {
	var s [2]Stream
	if len(f.Packets) == 0 {
		return out, in, nil
	}
	var next, acked [2]uint32
	var known [2]bool
	for i, p := range f.Packets {
		d := 0
		if p.From != from {
			d = 1
		}
		if i > 0 && (p.From != f.Packets[0].From || p.To != f.Packets[0].To) && (p.From != f.Packets[0].To || p.To != f.Packets[0].From) {
			return out, in, fmt.Errorf("packet %d is of another connection", i)
		}
		if p.Flags&SYN != 0 {
			if known[d] || p.Seq != 0 || p.Size != 0 || (p.Flags&ACK != 0) != known[1-d] {
				return out, in, fmt.Errorf("packet %d is a SYN in the wrong place", i)
			}
			known[d], next[d], acked[d] = true, 1, 1
			continue
		}
		if !known[d] {
			known[d], next[d], acked[d] = true, p.Seq, p.Seq
			s[d].Start = uint64(p.Seq - 1)
		}
		gap := p.Seq - next[d]
		switch {
		case next[d]-acked[d] > 1<<20:
			return out, in, fmt.Errorf("before packet %d too much is not acknowledged", i)
		case p.Flags&ACK == 0:
			return out, in, fmt.Errorf("packet %d acknowledges nothing", i)
		case int32(gap) < 0:
			return out, in, fmt.Errorf("packet %d has number %d after %d", i, p.Seq, next[d])
		case (s[d].Fin && gap != 0) || (s[d].Fin && p.Size > 0):
			return out, in, fmt.Errorf("packet %d comes after FIN", i)
		case s[d].Reset:
			return out, in, fmt.Errorf("packet %d comes after RST", i)
		case (gap > 0) != (p.Comment != ""):
			return out, in, fmt.Errorf("packet %d has %d bytes missing before it, and says %q", i, gap, p.Comment)
		}
		if gap > 0 {
			s[d].Missed += int(gap)
			s[d].Gaps++
		}
		if known[1-d] && p.Ack != next[1-d] {
			return out, in, fmt.Errorf("packet %d acknowledges %d, and %d was sent", i, p.Ack, next[1-d])
		}
		if !known[1-d] {
			known[1-d], next[1-d] = true, p.Ack
			s[1-d].Start = uint64(p.Ack - 1)
		}
		acked[1-d] = p.Ack
		s[d].Data = append(s[d].Data, p.Data...)
		next[d] = p.Seq + uint32(p.Size)
		if p.Flags&FIN != 0 {
			s[d].Fin = true
			next[d]++
		}
		s[d].Reset = p.Flags&RST != 0
	}
	return s[0], s[1], nil
}
