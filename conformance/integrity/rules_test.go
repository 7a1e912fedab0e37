package integrity

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A report is what a side of a connection found.
type report struct {
	Writes, Reads int // calls
	Wrote, Read   int64

	WriteEnd string // why its writing ended: all, EPIPE, ECONNRESET, closed or half-closed
	ReadEnd  string // why its reading did: EOF, ECONNRESET or closed
	// What Read said after the other side had closed, if this one stayed open for that.
	Last string

	HalfClosed bool // it may have called CloseWrite while it was open
	Lingered   bool // it has called SetLinger(0)
	Aborted    bool // it has closed after that
	Orderly    bool // it has closed by itself, having written all and read io.EOF

	WrongBytes int64
	Wrong      []string // what was wrong already without knowing the other side
}

// What ends reading or writing.
const (
	all       = "all" // was written
	eof       = "EOF"
	reset     = "ECONNRESET"
	broken    = "EPIPE"
	ownClosed = "closed"
	ownEnded  = "half-closed"
	deadline  = "deadline"
)

// judge returns what is wrong with a connection, by the reports of both sides. These are the
// rules beside the ones that a side checks by itself: that every byte is the right one, that
// nothing is read after the end, that an error is one that there was reason for.
func judge(network string, r [2]report) (wrong []string) {
	for side := range r {
		w, r := &r[side], &r[1-side] // the end that writes and the one that reads
		must := func(ok bool, rule string) {
			if !ok {
				wrong = append(wrong, fmt.Sprintf("%s (written by the %s: %d bytes, read: %d)", rule, []string{"client", "server"}[side], w.Wrote, r.Read))
			}
		}
		wrong = append(wrong, w.Wrong...)
		toTheEnd := r.ReadEnd == eof || r.ReadEnd == reset
		must(r.Read <= w.Wrote, "no more is read than was written, in whole or in part")
		must(!toTheEnd || r.Read == w.Wrote, "a reader that reads to the end, be it a reset, gets all that was written")
		// On network tcp the first Write after the end succeeds.
		must(network == "tcp" || w.WriteEnd != broken || r.Read == w.Wrote, "after EPIPE all that was written has been read")
		must(w.Last == "" || r.Read == w.Wrote || w.Last == reset || w.WriteEnd == reset, "if bytes are lost, Read or Write says ECONNRESET in the end")
		must(!r.Aborted || r.HalfClosed || w.ReadEnd != eof, "SetLinger(0) and Close make the other end's Read say ECONNRESET")
		if r.Orderly {
			must(w.ReadEnd != reset && w.Last != reset && w.WriteEnd != reset, "an orderly end is no reset")
		}
	}
	return wrong
}

// TestJudge breaks each rule.
func TestJudge(t *testing.T) {
	good := [2]report{
		{Wrote: 10, Read: 20, WriteEnd: all, ReadEnd: eof, Last: eof, HalfClosed: true, Orderly: true},
		{Wrote: 20, Read: 10, WriteEnd: all, ReadEnd: eof, HalfClosed: true, Orderly: true},
	}
	require.Empty(t, judge("ct", good))
	for rule, spoil := range map[string]func(client, server *report){
		"read than was written": func(_, s *report) { s.Read++; s.ReadEnd = ownClosed },
		"gets all":              func(_, s *report) { s.Read--; s.ReadEnd = eof },
		"be it a reset":         func(_, s *report) { s.Read--; s.ReadEnd = reset },
		"after EPIPE":           func(c, s *report) { s.Read--; s.ReadEnd = ownClosed; c.WriteEnd = broken },
		"are lost":              func(_, s *report) { s.Read--; s.ReadEnd = ownClosed },
		"SetLinger":             func(_, s *report) { s.Aborted, s.HalfClosed = true, false },
		"no reset":              func(c, _ *report) { c.Last = reset },
		"itself":                func(c, _ *report) { c.Wrong = []string{"itself"} },
	} {
		bad := good
		spoil(&bad[0], &bad[1])
		found := judge("ct", bad)
		require.NotEmpty(t, found, rule)
		require.Contains(t, fmt.Sprint(found), rule)
	}
}
