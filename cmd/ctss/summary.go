package main

import (
	"fmt"
	"io"
	"strconv"

	"cutthrough.example/ctnet"
)

// writeSummary prints numbers only, of listeners too. With a filter they are of what it selects.
func writeSummary(out io.Writer, o *options, width int, h host) {
	states := make(map[string]map[string]int) // by network
	total := make(map[string]int)
	shown := make(map[*ctnet.Snapshot]bool)
	rows := h.summed(o)
	for _, r := range rows {
		shown[r.app] = true
		n := r.netid()
		if states[n] == nil {
			states[n] = make(map[string]int)
		}
		states[n][r.state]++
		total[n]++
	}
	sessions := 0
	for _, n := range total {
		sessions += n
	}
	fmt.Fprintf(out, "Total: %d ends and listeners of %d applications\n\n", sessions, len(h.apps))
	names := []string{stateListen, ctnet.StateHalfOpen, ctnet.StateEstablished, ctnet.StateFinWait, ctnet.StateCloseWait, ctnet.StateReset}
	t := &table{right: []bool{false, true, true, true, true, true, true, true, true}, wide: make([]bool, 9)}
	t.lines = append(t.lines, line{cells: []string{"Netid", "Total", "Listen", "Half", "Estab", "Fin", "Close", "Reset", "Other"}})
	for _, n := range []string{"ct", "tcp", "unix", "tcp/k"} {
		cells := []string{n, strconv.Itoa(total[n])}
		other := total[n]
		for _, s := range names {
			cells = append(cells, strconv.Itoa(states[n][s]))
			other -= states[n][s]
		}
		t.lines = append(t.lines, line{cells: append(cells, strconv.Itoa(other))})
	}
	t.write(out, 0)
	if pairs := sums(o, h.apps, rows); len(pairs) > 0 {
		fmt.Fprintln(out)
		writeSums(out, width, pairs)
	}

	for i := range h.apps {
		a := &h.apps[i]
		if o.filtered && !shown[a] {
			continue
		}
		fmt.Fprintf(out, "\n%s/%d: %d connections, %d segments of %s, fifos of %s\n",
			clean(a.Program), a.PID, a.Conns, a.Segments, size(a.Bytes), size(a.Memory))
		words := []string{
			fmt.Sprintf("refused:%d", a.Refused), fmt.Sprintf("reset:%d", a.Reset), fmt.Sprintf("cancelled:%d", a.Cancelled),
			fmt.Sprintf("violations:%d(fifo:%d,message:%d,doorbell:%d)", a.CutOff, a.Violations.Fifo, a.Violations.Message, a.Violations.Doorbell),
		}
		var kernel uint64
		for _, f := range a.Fallbacks {
			kernel += f.Count
		}
		words = append(words, fmt.Sprintf("kernel's-way:%d", kernel))
		writeWords(out, words, 80)
	}
}

// summed returns the rows of which -s has the numbers.
func (h *host) summed(o *options) []row {
	all := *o
	all.all = true
	return h.rows(&all)
}
