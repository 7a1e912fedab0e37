//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
)

// The checked stream shows that every byte arrives, at the price that what is
// measured is the checksum too.
var checkedStream = &workload{
	name:    "stream-checked",
	title:   "one stream of 10 GiB, all its bytes in a checksum",
	columns: []string{"gbs", "cpugb"},
	over:    between,
	serve: func(s *server) error {
		return s.each(func(c net.Conn) {
			sum, err := receiveChecked(c)
			if err == nil {
				c.Write(binary.LittleEndian.AppendUint32(nil, sum))
			}
			discardUntilEnd(c)
		})
	},
	run: func(c *client) (sample, error) {
		length := int64(10 << 30)
		if c.Quick {
			length = 64 << 20
		}
		conn, err := c.dial()
		if err != nil {
			return sample{}, err
		}
		defer conn.Close()
		from, err := c.read()
		if err != nil {
			return sample{}, err
		}
		sum, err := sendChecked(conn, length)
		if err != nil {
			return sample{}, err
		}
		var reply [4]byte
		if _, err := io.ReadFull(conn, reply[:]); err != nil {
			return sample{}, err
		}
		to, err := c.read()
		if err != nil {
			return sample{}, err
		}
		if binary.LittleEndian.Uint32(reply[:]) != sum {
			return sample{}, errors.New("the stream arrived with another checksum")
		}
		gb := float64(length) / 1e9
		return sample{Metrics: map[string]float64{
			"gbs":   gb / to.at.Sub(from.at).Seconds(),
			"cpugb": (to.cpu - from.cpu).Seconds() / gb,
		}}, nil
	},
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkedPiece is what is written at a time. Each begins with the number of bytes
// that are left, itself included, so no two are the same.
const checkedPiece = 64 << 10

// sendChecked writes so many bytes, a multiple of checkedPiece.
func sendChecked(w io.Writer, length int64) (sum uint32, err error) {
	b := fill(checkedPiece)
	for left := length; left > 0; left -= checkedPiece {
		binary.LittleEndian.PutUint64(b, uint64(left))
		sum = crc32.Update(sum, castagnoli, b)
		if _, err := w.Write(b); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// receiveChecked reads what sendChecked writes.
func receiveChecked(r io.Reader) (sum uint32, err error) {
	b := make([]byte, checkedPiece)
	if _, err := io.ReadFull(r, b[:8]); err != nil {
		return 0, err
	}
	left := int64(binary.LittleEndian.Uint64(b)) - 8
	sum = crc32.Update(0, castagnoli, b[:8])
	for left > 0 {
		n, err := r.Read(b[:min(left, checkedPiece)])
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, b[:n])
		left -= int64(n)
	}
	return sum, nil
}
