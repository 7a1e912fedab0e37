package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"cutthrough.example/ctnet"
)

// A pairSum adds up what one process has with another one: who talks to whom. A connection between two
// processes that both are shown is in two of them, with one end in each. docs/ctss.md describes it.
type pairSum struct {
	PID         int
	Program     string // as the process says
	PeerPID     int    // PID if both ends are in this process
	PeerProgram string // the file that the peer runs; "" if it is not known
	PeerStopped bool

	Ends           int
	States         map[string]int
	Received, Sent uint64 // bytes, of these ends

	Age           time.Duration // of all ends together, so that shares of time can be computed
	StalledSpace  time.Duration // in Writes, of all ends together
	StalledData   time.Duration // in Reads
	WaitsForSpace int           // ends at which a Write sleeps now
	Mapped        int64
	Resident      int64 // -1 if it was not counted
}

// sums returns the sums of the rows, the most ends first. Pairs without connections are there too if
// there is no filter: they have memory.
func sums(o *options, apps []ctnet.Snapshot, rows []row) []pairSum {
	type key struct{ pid, peer int }
	found := make(map[key]*pairSum)
	sum := func(a *ctnet.Snapshot, p *ctnet.PairInfo) *pairSum {
		k := key{a.PID, p.Peer.PID}
		s := found[k]
		if s == nil {
			s = &pairSum{PID: a.PID, Program: a.Program, PeerPID: p.Peer.PID, PeerProgram: base(p.PeerExe), States: make(map[string]int)}
			found[k] = s
		}
		return s
	}
	shown := make(map[*ctnet.PairInfo]bool)
	for i := range rows {
		r := &rows[i]
		if r.pair == nil {
			continue
		}
		shown[r.pair] = true
		s, c := sum(r.app, r.pair), r.conn
		s.Ends++
		s.States[clean(c.State)]++
		s.Received += c.Recv.Bytes
		s.Sent += c.Send.Bytes
		s.Age += max(0, c.Age)
		s.StalledSpace += max(0, c.Send.Stalled)
		s.StalledData += max(0, c.Recv.Stalled)
		if c.Send.Asleep {
			s.WaitsForSpace++
		}
	}
	for i := range apps {
		a := &apps[i]
		for j := range a.Pairs {
			p := &a.Pairs[j]
			if o.filtered && !shown[p] {
				continue
			}
			s := sum(a, p)
			s.PeerStopped = s.PeerStopped || p.PeerStopped
			s.Mapped += p.Mapped
			if s.Resident < 0 || p.Resident < 0 {
				s.Resident = -1
			} else {
				s.Resident += p.Resident
			}
		}
	}
	all := make([]pairSum, 0, len(found))
	for _, s := range found {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b pairSum) int {
		return cmp.Or(cmp.Compare(b.Ends, a.Ends), cmp.Compare(a.PID, b.PID), cmp.Compare(a.PeerPID, b.PeerPID))
	})
	return all
}

// share returns which part of its age something was stalled, from 0 to 1.
func share(stalled, age time.Duration) float64 {
	if age <= 0 || stalled <= 0 {
		return 0
	}
	return min(1, float64(stalled)/float64(age))
}

// writeSums prints the sums as a table.
func writeSums(out io.Writer, width int, sums []pairSum) {
	t := &table{
		right: []bool{false, false, true, true, true, true, true, true, true, true},
		wide:  []bool{true, true, false, false, false, false, false, false, false, false},
	}
	t.lines = append(t.lines, line{cells: []string{"Process", "Peer", "Conns", "Estab", "Close", "Other", "In", "Out", "Space", "Memory"}})
	for _, s := range sums {
		peer := fmt.Sprintf("%s/%d", cmp.Or(s.PeerProgram, "?"), s.PeerPID)
		if s.PeerPID == s.PID {
			peer = "itself"
		}
		resident := "?"
		if s.Resident >= 0 {
			resident = size(s.Resident)
		}
		established, closeWait := s.States[ctnet.StateEstablished], s.States[ctnet.StateCloseWait]
		var after []string
		if s.PeerStopped {
			after = append(after, "peer-stopped")
		}
		if s.WaitsForSpace > 0 {
			after = append(after, fmt.Sprintf("waits-for-space:%d", s.WaitsForSpace))
		}
		t.lines = append(t.lines, line{cells: []string{
			clean(fmt.Sprintf("%s/%d", s.Program, s.PID)), clean(peer), strconv.Itoa(s.Ends), strconv.Itoa(established),
			strconv.Itoa(closeWait), strconv.Itoa(s.Ends - established - closeWait), size(int64(min(s.Received, 1<<62))),
			size(int64(min(s.Sent, 1<<62))), fmt.Sprintf("%.0f%%", 100*share(s.StalledSpace, s.Age)), resident,
		}, after: after})
	}
	t.write(out, width)
}
