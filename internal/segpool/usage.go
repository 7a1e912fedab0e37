package segpool

import "time"

// A Usage describes the segments of a pair.
type Usage struct {
	Segments  int
	FreeSlots int
	Mapped    int64 // bytes of address space
	Resident  int64 // bytes of memory, or -1 if that is not known
}

// usage describes segments, on which the caller has references, and drops these. It counts pages
// until the given time: a segment of 128 MiB takes about a millisecond.
func usage(segs []*Segment, free int, until time.Time) Usage {
	u := Usage{Segments: len(segs), FreeSlots: free}
	for _, s := range segs {
		u.Mapped += int64(len(s.mem.Bytes))
		if u.Resident >= 0 {
			if n, ok := resident(s.mem.Bytes, until); ok {
				u.Resident += n
			} else {
				u.Resident = -1
			}
		}
		s.unref()
	}
	return u
}
