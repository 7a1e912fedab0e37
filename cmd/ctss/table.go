package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cutthrough.example/ctnet"
)

// minWidth is the narrowest terminal for which the table is made. In a narrower one lines wrap.
const minWidth = 40

// A table is lines of cells, and text between them.
type table struct {
	lines []line
	right []bool // columns whose cells are aligned to the right
	wide  []bool // columns that are made narrower if the table is too wide
}

type line struct {
	cells []string
	after []string // words that follow on lines of their own
}

// write writes the table with lines of no more than width characters; 0 is no limit.
func (t *table) write(out io.Writer, width int) {
	if width > 0 {
		width = max(width, minWidth)
	}
	sizes := t.sizes(width)
	var b strings.Builder
	for _, l := range t.lines {
		b.Reset()
		for i, cell := range l.cells {
			if i > 0 {
				b.WriteByte(' ')
			}
			cell = shorten(cell, sizes[i])
			pad := strings.Repeat(" ", sizes[i]-utf8.RuneCountInString(cell))
			if t.right[i] {
				cell, pad = pad+cell, ""
			}
			b.WriteString(cell + pad)
		}
		if len(l.cells) > 0 {
			fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
		}
		writeWords(out, l.after, width)
	}
}

// sizes returns the columns' widths.
func (t *table) sizes(width int) []int {
	sizes := make([]int, len(t.right))
	total := len(sizes) - 1
	for _, l := range t.lines {
		for i, cell := range l.cells {
			sizes[i] = max(sizes[i], utf8.RuneCountInString(cell))
		}
	}
	for _, n := range sizes {
		total += n
	}
	for width > 0 && total > width {
		widest := -1
		for i, n := range sizes {
			if t.wide[i] && n > 4 && (widest < 0 || n > sizes[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		sizes[widest]--
		total--
	}
	return sizes
}

// shorten leaves out the middle of a text that has more than n characters: addresses differ at their
// ends.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	head := (n - 1) / 2
	return string(r[:head]) + "~" + string(r[len(r)-(n-1-head):])
}

// writeWords writes words on as many lines as they need, behind a tab as wide as that of ss.
func writeWords(out io.Writer, words []string, width int) {
	const indent = "     "
	n := 0
	for _, w := range words {
		size := utf8.RuneCountInString(w)
		switch {
		case n == 0:
			n = len(indent) + size
			fmt.Fprint(out, indent, w)
		case width > 0 && n+1+size > width:
			n = len(indent) + size
			fmt.Fprint(out, "\n", indent, w)
		default:
			n += 1 + size
			fmt.Fprint(out, " ", w)
		}
	}
	if n > 0 {
		fmt.Fprintln(out)
	}
}

// writeTable prints the rows that the options select, and with -m what pairs have of memory.
func writeTable(out io.Writer, o *options, width int, h host) {
	rows := h.rows(o)
	sessions(o, rows, nil).write(out, width)
	for _, a := range h.apps {
		if a.Omitted > 0 {
			fmt.Fprintf(out, "%s/%d has %d connections more than it shows\n", clean(a.Program), a.PID, a.Omitted)
		}
	}
	if o.memory {
		writePairs(out, width, o, h.apps, rows)
	}
}

// sessions makes the table of rows. With rates there are two columns more: bytes per second.
func sessions(o *options, rows []row, rates func(r *row) (in, out string)) *table {
	t := &table{
		right: []bool{false, false, true, true, false, false},
		wide:  []bool{false, false, false, false, true, true},
	}
	header := []string{"Netid", "State", "Recv-Q", "Send-Q", "Local Address", "Peer Address"}
	if rates != nil {
		t.right, t.wide = append(t.right, true, true), append(t.wide, false, false)
		header = append(header, "In/s", "Out/s")
	}
	t.lines = append(t.lines, line{cells: header})
	for i := range rows {
		r := &rows[i]
		cells := []string{
			clean(r.netid()), clean(r.state), strconv.Itoa(r.recvQ), queue(r.sendQ),
			o.address(r.network, r.local), o.address(r.network, r.remote),
		}
		if rates != nil {
			in, out := rates(r)
			cells = append(cells, in, out)
		}
		t.lines = append(t.lines, line{cells, o.details(r)})
	}
	return t
}

// queue returns the length of a queue, if it is known.
func queue(n int) string {
	if n < 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// details returns what the flags ask for besides the columns.
func (o *options) details(r *row) (words []string) {
	add := func(format string, args ...any) { words = append(words, clean(fmt.Sprintf(format, args...))) }
	if o.processes {
		add("users:((%q,pid=%d))", r.program, r.pid)
		if c := r.conn; c != nil {
			program, state := "?", ""
			if r.pair != nil && r.pair.PeerExe != "" {
				program = base(r.pair.PeerExe)
			}
			if r.pair != nil && r.pair.PeerStopped {
				state = ",stopped"
			}
			add("peer:((%q,pid=%d,uid=%d%s))", program, c.Peer.PID, c.Peer.UID, state)
		}
	}
	if o.extended {
		add("uid:%s", o.user(r.app.UID))
		if c := r.conn; c != nil {
			add("id:%s", c.ID)
			add("age:%s", brief(c.Age))
			add("idle:%s", brief(c.Idle))
			add("worker:%d", c.Worker)
			add("pair:%s", c.Pair)
			add("segment:%d", c.Segment)
			add("slot:%d", c.Slot)
		}
		if r.app.Exe != "" {
			add("exe:%s", r.app.Exe)
		}
	}
	c := r.conn
	if c == nil {
		return words
	}
	if o.memory {
		add("recv-buf:%d", c.RecvBuffer)
		add("recv-high:%d", c.Recv.High)
		add("send-buf:%d", c.SendBuffer)
		add("send-high:%d", c.Send.High)
	}
	if o.info {
		add("bytes_sent:%d", c.Send.Bytes)
		add("bytes_received:%d", c.Recv.Bytes)
		add("writes:%d", c.Send.Ops)
		add("reads:%d", c.Recv.Ops)
		add("stalls_space:%d/%s", c.Send.Stalls, brief(c.Send.Stalled))
		add("stalls_data:%d/%s", c.Recv.Stalls, brief(c.Recv.Stalled))
		add("polls_paid:%d", c.Send.Polls+c.Recv.Polls)
		add("wakes:%d", c.Send.Wakes+c.Recv.Wakes)
		add("wakes_elided:%d", c.Send.Elided+c.Recv.Elided)
		if c.Send.Asleep {
			add("waits-for-space")
		}
		if c.Recv.Asleep {
			add("waits-for-data")
		}
	}
	return words
}

// base returns the name of the file at a path. All systems that have these paths have slashes in them.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// address returns an address as it is shown: without -n a port is named.
func (o *options) address(network, address string) string {
	if address == "" {
		return "-" // a Dial that was not answered
	}
	if network == "tcp" && !o.numeric {
		if at, err := netip.ParseAddrPort(address); err == nil {
			if name := services()[int(at.Port())]; name != "" {
				return net.JoinHostPort(at.Addr().String(), name)
			}
		}
	}
	return clean(address)
}

// user returns the name of a user.
func (o *options) user(uid int) string {
	if !o.numeric {
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			return u.Username
		}
	}
	return strconv.Itoa(uid)
}

// writePairs prints what applications share: with a filter, only those whose connections it selects.
func writePairs(out io.Writer, width int, o *options, apps []ctnet.Snapshot, rows []row) {
	shown := make(map[string]bool)
	for _, r := range rows {
		if r.conn != nil {
			shown[r.app.App+" "+r.conn.Pair] = true
		}
	}
	t := &table{
		right: []bool{false, false, true, true, true, true, true, false},
		wide:  []bool{true, true, false, false, false, false, false, true},
	}
	t.lines = append(t.lines, line{cells: []string{"Process", "Peer", "Conns", "Segs", "Free", "Mapped", "Resident", "Dialed"}})
	for _, a := range apps {
		for _, p := range a.Pairs {
			if o.filtered && !shown[a.App+" "+p.ID] {
				continue
			}
			peer := fmt.Sprintf("%s/%d", base(p.PeerExe), p.Peer.PID)
			name := p.Name
			if p.Role == ctnet.RoleInside {
				peer, name = "itself", "-"
			}
			resident := "?"
			if p.Resident >= 0 {
				resident = size(p.Resident)
			}
			t.lines = append(t.lines, line{cells: []string{
				clean(fmt.Sprintf("%s/%d", a.Program, a.PID)), clean(peer), strconv.Itoa(p.Conns), strconv.Itoa(p.Segments),
				strconv.Itoa(p.FreeSlots), size(p.Mapped), resident, clean(name),
			}})
		}
	}
	fmt.Fprintln(out)
	t.write(out, width)
}

// size returns a number of bytes in four or five characters.
func size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"K", "M", "G", "T", "P", "E"} {
		if f /= 1024; f < 1000 {
			break
		}
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%s", f, unit)
	}
	return fmt.Sprintf("%.0f%s", f, unit)
}

// brief returns a duration with one or two digits after the largest unit.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
