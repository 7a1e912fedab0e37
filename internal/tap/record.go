package tap

import (
	"encoding/binary"
	"errors"
)

// The kinds of records.
const (
	Start         = 1 + iota // what the capture is of, in Data; the first record
	Sent                     // bytes that this end has written
	Received                 // bytes that this end has read
	SentFin                  // this end has ended its stream
	SentReset                // this end has cut its stream off
	ReceivedFin              // this end has found that the peer has ended its stream
	ReceivedReset            // this end has found that the peer has cut its stream off
	Over                     // the capture has ended as it should; the last record
)

const (
	// MaxData is the most bytes in a record.
	MaxData = 32 << 10
	// MaxBlock is the size of the largest block: one record at least.
	MaxBlock = 64 << 10

	headerSize = 32
)

// A Record is an event at an end of a connection.
type Record struct {
	Kind uint32
	// Dropped is how many records were left out since the last one, because the buffer was full.
	Dropped uint32
	// Pos is the position in the stream of the first byte of Data, or of the end. Of Over it is how many
	// bytes were left out in all.
	Pos  uint64
	Time int64 // nanoseconds since 1970
	Data []byte
}

// Append appends the record to a block:
//
//	 0  uint32  kind
//	 4  uint32  len(Data)
//	 8  uint32  dropped
//	12  uint32  0
//	16  uint64  pos
//	24  int64   time
//	32  Data
func (r *Record) Append(block []byte) []byte {
	block = binary.LittleEndian.AppendUint32(block, r.Kind)
	block = binary.LittleEndian.AppendUint32(block, uint32(len(r.Data)))
	block = binary.LittleEndian.AppendUint64(block, uint64(r.Dropped))
	block = binary.LittleEndian.AppendUint64(block, r.Pos)
	block = binary.LittleEndian.AppendUint64(block, uint64(r.Time))
	return append(block, r.Data...)
}

// sizeAt returns the size of the first record of a block that this process has made.
func sizeAt(block []byte) int { return headerSize + int(binary.LittleEndian.Uint32(block[4:])) }

// Cut returns the first record of a block, which may be a hostile process's, and the rest of the block.
// The record's Data is a part of the block.
func Cut(block []byte) (r Record, rest []byte, err error) {
	if len(block) < headerSize {
		return r, nil, errors.New("a record has no header")
	}
	r = Record{
		Kind:    binary.LittleEndian.Uint32(block),
		Dropped: binary.LittleEndian.Uint32(block[8:]),
		Pos:     binary.LittleEndian.Uint64(block[16:]),
		Time:    int64(binary.LittleEndian.Uint64(block[24:])),
	}
	n := binary.LittleEndian.Uint32(block[4:])
	hasData := r.Kind == Start || r.Kind == Sent || r.Kind == Received
	switch {
	case r.Kind < Start || r.Kind > Over:
		return r, nil, errors.New("a record is of no known kind")
	case n > MaxData || int(n) > len(block)-headerSize:
		return r, nil, errors.New("a record is longer than may be")
	case hasData != (n > 0):
		return r, nil, errors.New("a record has data and should not, or has none and should")
	}
	r.Data = block[headerSize : headerSize+n : headerSize+n]
	return r, block[headerSize+n:], nil
}
