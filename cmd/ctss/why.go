package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cutthrough.example/ctnet"
)

// unseen is said where somebody may look in vain. Applications that only dial stay visible after faults
// only, of which absent is none: most programs dial some server that knows nothing of ctnet.
const unseen = "An application that only dials, and has found no ctnet listener, is not seen here: its log says so with level Debug."

// writeWhy prints which connections and listeners took the kernel's way, and why; the most frequent
// first.
func writeWhy(out io.Writer, width int, h host) {
	type why struct {
		ctnet.FallbackInfo
		app *ctnet.Snapshot
	}
	var all []why
	for i := range h.apps {
		for _, f := range h.apps[i].Fallbacks {
			all = append(all, why{f, &h.apps[i]})
		}
	}
	if len(all) == 0 {
		fmt.Fprintf(out, "nothing took the kernel's way in %d applications\n", len(h.apps))
		writeWords(out, strings.Fields(unseen), width)
		return
	}
	slices.SortStableFunc(all, func(a, b why) int { return cmp.Compare(b.Count, a.Count) })
	t := &table{
		right: []bool{true, false, false, false, false, true},
		wide:  []bool{false, false, false, true, true, false},
	}
	t.lines = append(t.lines, line{cells: []string{"Count", "Reason", "Op", "Address", "Process", "Last"}})
	for _, f := range all {
		address := f.Network + ":" + f.Address
		if f.Address == "" {
			address = f.Network + ":(others)"
		}
		t.lines = append(t.lines, line{
			cells: []string{
				strconv.FormatUint(f.Count, 10), clean(string(f.Reason)), clean(f.Op), clean(address),
				clean(fmt.Sprintf("%s/%d", f.app.Program, f.app.PID)), ago(f.Last),
			},
			after: strings.Fields(clean(f.Error)),
		})
	}
	t.write(out, width)
}

// ago returns how long ago a time was.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(0, time.Since(t))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}
