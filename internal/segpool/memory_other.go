//go:build !linux

package segpool

// CreatePrivate makes memory for use inside this process.
func CreatePrivate(size int) (*Memory, error) {
	return &Memory{
		Bytes: make([]byte, size),
		trim:  func([]byte) {},
		free:  func([]byte) {},
	}, nil
}

// segmentBytes is 0, which makes a segment for each connection: from the Go
// heap, memory that isn't in use had better not be asked for.
const segmentBytes = 0
