package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// The live view redraws in place, with the control sequences that all terminals know.
const (
	enterView  = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveView  = "\x1b[?25h\x1b[?1049l"
	goHome     = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// watchEvery is how often the live view is drawn.
const watchEvery = time.Second

// watch shows the live view until ctx ends. Into something that is not a terminal it writes one
// table after the other.
func watch(ctx context.Context, o *options, stdout io.Writer) error {
	columns, lines, terminal := screen(stdout)
	if terminal {
		if _, err := io.WriteString(stdout, enterView); err != nil {
			return err
		}
		defer io.WriteString(stdout, leaveView)
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var v view
	for {
		h, problems := look(ctx, o)
		if ctx.Err() != nil {
			return nil
		}
		if terminal {
			columns, lines, _ = screen(stdout) // it may have been resized
		}
		frame := v.draw(o, h, problems, time.Now(), columns, lines)
		if terminal {
			frame = inPlace(frame)
		} else {
			frame += "\n"
		}
		if _, err := io.WriteString(stdout, frame); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// inPlace returns a frame that is drawn over the last one.
func inPlace(frame string) string {
	return goHome + strings.ReplaceAll(strings.TrimSuffix(frame, "\n"), "\n", clearLine+"\r\n") + clearLine + clearBelow
}

// A view is what the live view remembers.
type view struct {
	at    time.Time
	bytes map[string][2]uint64 // received and sent, by end
}

// draw returns the next frame, of no more than so many lines; 0 is no limit.
func (v *view) draw(o *options, h host, problems error, now time.Time, columns, lines int) string {
	since := now.Sub(v.at).Seconds()
	last := v.bytes
	v.at, v.bytes = now, make(map[string][2]uint64)
	rows := h.rows(o)
	var in, out float64
	rates := make(map[*row][2]float64)
	for i := range rows {
		r := &rows[i]
		if r.conn == nil {
			continue
		}
		key := r.app.App + " " + r.conn.ID + " " + r.local
		b := [2]uint64{r.conn.Recv.Bytes, r.conn.Send.Bytes}
		v.bytes[key] = b
		if old, ok := last[key]; ok && since > 0 && b[0] >= old[0] && b[1] >= old[1] {
			rates[r] = [2]float64{float64(b[0]-old[0]) / since, float64(b[1]-old[1]) / since}
			in += rates[r][0]
			out += rates[r][1]
		}
	}
	t := sessions(o, rows, func(r *row) (string, string) {
		if r.conn == nil {
			return "-", "-"
		}
		return size(int64(rates[r][0])), size(int64(rates[r][1]))
	})
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %d applications, %d rows, in %s/s, out %s/s\n",
		now.Format(time.TimeOnly), len(h.apps), len(rows), size(int64(in)), size(int64(out)))
	if problems != nil {
		for line := range strings.Lines(problems.Error()) {
			text := clean(strings.TrimSuffix(line, "\n"))
			if columns > 0 {
				text = shorten(text, max(columns, minWidth))
			}
			fmt.Fprintln(&b, text)
		}
	}
	t.write(&b, columns)
	return cut(b.String(), lines)
}

// cut returns the first lines of a text, and says how many it has left out.
func cut(text string, lines int) string {
	n := strings.Count(text, "\n")
	if lines <= 1 || n <= lines {
		return text
	}
	end := 0
	for range lines - 1 {
		end += strings.IndexByte(text[end:], '\n') + 1
	}
	return text[:end] + fmt.Sprintf("... and %d lines more\n", n-(lines-1))
}
