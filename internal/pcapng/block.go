// Package pcapng writes a byte stream as the packets of a TCP connection in a file of the pcapng format
// (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read.
//
// A [Flow] makes the packets: it knows the positions of both streams, and so all sequence and acknowledgement
// numbers follow from them. There are no ports, no windows and no losses behind it: these headers say what a
// network would have carried.
package pcapng

import (
	"encoding/binary"
	"strings"
)

// The types of blocks, and the options that are used.
const (
	sectionHeader       = 0x0a0d0d0a
	interfaceDesc       = 1
	interfaceStatistics = 5
	enhancedPacket      = 6

	byteOrderMagic = 0x1a2b3c4d
	linkTypeRaw    = 101 // packets begin with an IPv4 or IPv6 header

	optEnd        = 0
	optComment    = 1
	shbUserAppl   = 4
	ifName        = 2
	ifDescription = 3
	ifTSResol     = 9
	isbIfRecv     = 4
	isbIfDrop     = 5
	epbDropCount  = 4
	nanosecond    = 9 // of ifTSResol: a power of ten

	maxText = 1000 // bytes of a name or comment
)

// An Interface is what a file says of the connection that it is of.
type Interface struct {
	Name, Description, Comment string
	SnapLen                    int // see Limits
}

// AppendHead appends the blocks with which a file begins. All packets are of one interface.
func AppendHead(b []byte, program string, i Interface) []byte {
	b, start := begin(b, sectionHeader)
	b = binary.LittleEndian.AppendUint32(b, byteOrderMagic)
	b = binary.LittleEndian.AppendUint32(b, 1)          // version 1.0
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0)) // the section's length is not known
	b = appendText(b, shbUserAppl, program)
	b = end(appendOption(b, optEnd, nil), start)

	b, start = begin(b, interfaceDesc)
	b = binary.LittleEndian.AppendUint32(b, linkTypeRaw)
	b = binary.LittleEndian.AppendUint32(b, uint32(i.SnapLen))
	b = appendText(b, ifName, i.Name)
	b = appendText(b, ifDescription, i.Description)
	b = appendOption(b, ifTSResol, []byte{nanosecond})
	b = appendText(b, optComment, i.Comment)
	return end(appendOption(b, optEnd, nil), start)
}

// A packet is one packet of the file.
type packet struct {
	time    int64 // nanoseconds since 1970
	data    []byte
	size    int // of the whole packet, of which data is the start
	dropped uint32
	comment string
}

func appendPacket(b []byte, p packet) []byte {
	b, start := begin(b, enhancedPacket)
	b = binary.LittleEndian.AppendUint32(b, 0) // the interface
	b = appendTime(b, p.time)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.size))
	b = pad(append(b, p.data...))
	if p.dropped != 0 {
		b = appendOption(b, epbDropCount, binary.LittleEndian.AppendUint64(nil, uint64(p.dropped)))
	}
	b = appendText(b, optComment, p.comment)
	if p.dropped != 0 || p.comment != "" {
		b = appendOption(b, optEnd, nil)
	}
	return end(b, start)
}

// AppendTail appends the block with which a file ends: how many packets there were, with those that are
// missing.
func AppendTail(b []byte, time int64, packets, dropped uint64, comment string) []byte {
	b, start := begin(b, interfaceStatistics)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = appendTime(b, time)
	b = appendText(b, optComment, comment)
	b = appendOption(b, isbIfRecv, binary.LittleEndian.AppendUint64(nil, packets))
	b = appendOption(b, isbIfDrop, binary.LittleEndian.AppendUint64(nil, dropped))
	return end(appendOption(b, optEnd, nil), start)
}

// begin begins a block. Its length is not known yet.
func begin(b []byte, kind uint32) (_ []byte, start int) {
	start = len(b)
	b = binary.LittleEndian.AppendUint32(b, kind)
	return binary.LittleEndian.AppendUint32(b, 0), start
}

// end ends the block that begins at start.
func end(b []byte, start int) []byte {
	size := uint32(len(b) - start + 4)
	binary.LittleEndian.PutUint32(b[start+4:], size)
	return binary.LittleEndian.AppendUint32(b, size)
}

func appendTime(b []byte, t int64) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(uint64(t)>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(t))
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...))
}

// appendText appends an option of text, unless that is empty. Names may be any bytes, and of any length.
func appendText(b []byte, code uint16, text string) []byte {
	if text == "" {
		return b
	}
	return appendOption(b, code, []byte(strings.ToValidUTF8(text[:min(len(text), maxText)], "?")))
}

// pad appends zeros up to a multiple of 4 bytes. Blocks begin at such.
func pad(b []byte) []byte {
	return append(b, make([]byte, -len(b)&3)...)
}
