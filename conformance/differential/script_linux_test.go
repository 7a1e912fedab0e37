package differential

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A script is what is done on a kernel's network and on ctnet's. As text it is a line
// with the network and the size of ctnet's fifos, and a line for each step:
//
//	tcp 4096
//	d0 write 10
//	a0 read 100
//	a0 close &
//	d0 write 1
//
// d0 is the dialing end of the first connection, a0 the accepting one, l the listener. A
// step that ends in & is done at the same time as the next one.
//
// A script has one connection from the start, unless a step is about the listener or
// dials.
type script struct {
	network string // the kernel's that it is run on
	buffer  int    // of ctnet's fifos; 0 is the default
	steps   []step
}

// A step is one thing that is done.
type step struct {
	who  who
	verb string
	arg  string
	with bool // at the same time as the next step
}

// A who is the listener or the end on which a step is done.
type who struct {
	kind byte // 'd', 'a', or 'l'
	conn int  // which connection; 0 for the listener
}

// peer returns the other end.
func (w who) peer() who { return who{'d' + 'a' - w.kind, w.conn} }

// maxConns is the number of connections that a script may have.
const maxConns = 3

// bigBytes is a number of bytes that no buffer holds, and a multiple of what one does.
const bigBytes = 1 << 20

// The verbs, each with its arguments. 0 stands for a number of bytes. The verbs of 'e' are for
// both ends of a connection.
var verbs = map[byte]map[string][]string{
	'e': {
		"read":       {"0", "1", "10", "1000", "65536"},
		"readfull":   {"1", "10", "1000", "20000", "65536", "big", "rest"}, // rest: all there is
		"readall":    {""},                                                 // until there is an error
		"drain":      {""},                                                 // what an interrupted Write has written
		"copyout":    {"", "fail", "stall"},
		"unstall":    {""},
		"write":      {"0", "1", "10", "500", "1000", "20000", "65536", "big"},
		"copyin":     {"0", "10", "1000", "20000", "big", "open"},
		"feed":       {"1", "10", "1000", "eof", "err"},
		"deadline":   {"past", "none", "future", "soon"},
		"rdeadline":  {"past", "none", "future", "soon"},
		"wdeadline":  {"past", "none", "future", "soon"},
		"closeread":  {""},
		"closewrite": {""},
		"linger":     {"0", "-1"},
		"close":      {""},
	},
	'd': {"dial": {"plain", "canceled", "expired", "timeout", "kerneltimeout", "kerneldeadline", "future"}},
	'l': {
		"accept":   {""},
		"deadline": {"past", "none", "future", "soon"},
		"close":    {""},
	},
	// Waits until all calls that block have gone to sleep. Without it they may still be
	// looking, or not have begun.
	'p': {"park": {""}},
}

// bytes returns a step's argument as a number of bytes.
func (s step) bytes() int {
	if s.arg == "big" {
		return bigBytes
	}
	n, _ := strconv.Atoi(s.arg)
	return n
}

func (s step) String() string {
	words := []string{s.verb}
	switch s.who.kind {
	case 'd', 'a':
		words = []string{fmt.Sprintf("%c%d", s.who.kind, s.who.conn), s.verb}
	case 'l':
		words = []string{"l", s.verb}
	}
	if s.arg != "" {
		words = append(words, s.arg)
	}
	if s.with {
		words = append(words, "&")
	}
	return strings.Join(words, " ")
}

func (s script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d\n", s.network, s.buffer)
	for _, st := range s.steps {
		fmt.Fprintln(&b, st)
	}
	return b.String()
}

// parse parses a script's text.
func parse(text string) (s script, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if _, err := fmt.Sscan(lines[0], &s.network, &s.buffer); err != nil {
		return s, fmt.Errorf("%q: %w", lines[0], err)
	}
	for _, line := range lines[1:] {
		st, ok := parseStep(strings.Fields(line))
		if !ok {
			return s, fmt.Errorf("no such step: %q", line)
		}
		s.steps = append(s.steps, st)
	}
	return s, nil
}

func parseStep(words []string) (s step, ok bool) {
	if n := len(words); n > 0 && words[n-1] == "&" {
		s.with = true
		words = words[:n-1]
	}
	if len(words) == 0 {
		return s, false
	}
	table := verbs['p']
	if words[0] != "park" {
		s.who.kind = words[0][0]
		switch s.who.kind {
		case 'd', 'a':
			n, err := strconv.Atoi(words[0][1:])
			if err != nil || n < 0 || n >= maxConns {
				return s, false
			}
			s.who.conn = n
			table = verbs['e']
			if len(words) > 1 && words[1] == "dial" && s.who.kind == 'd' {
				table = verbs['d']
			}
		case 'l':
			table = verbs['l']
		default:
			return s, false
		}
		words = words[1:]
	} else {
		s.who.kind = 'p'
	}
	if len(words) == 0 || len(words) > 2 {
		return s, false
	}
	s.verb = words[0]
	if len(words) == 2 {
		s.arg = words[1]
	}
	return s, slices.Contains(table[s.verb], s.arg)
}
