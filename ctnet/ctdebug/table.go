package ctdebug

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cutthrough.example/ctnet"
)

// Bounds of what a client is sent. Of more there is a count.
const (
	maxSessions  = 20_000
	maxPairs     = 1000
	maxListeners = 1000
	maxFallbacks = 200
)

// A table is what the clients of the event stream have been told. update brings it to the state of
// a snapshot, and returns what has changed; full returns all of it, for a new client. The two have
// the same form: docs/ctdebug.md has it.
type table struct {
	time      time.Time
	round     uint64 // number of updates
	numbers   int    // of rows so far
	rows      map[rowKey]*row
	order     []*row // the rows, the older ones first
	pairs     map[string]ctnet.PairInfo
	listeners []ctnet.ListenerInfo
	fallbacks []ctnet.FallbackInfo
	totals    totals
}

// A rowKey identifies an end: both ends of a connection inside the application have its ID.
type rowKey struct{ id, remote string }

// A row is what the clients know of a session.
type row struct {
	number int // names it in messages
	round  uint64
	first  []byte // the columns that stay, as JSON
	state  string
	local  string
	nums   [columns]int64
}

// The columns that change. In a message a mask says which of them follow: bit 0 is the state, bit 1
// the local address, and then there is one for each of these.
const (
	moved = iota // when bytes have moved last, in ms since 1970
	recvQueue
	sendQueue
	recvHigh
	sendHigh
	asleep // 1: a Read sleeps; 2: a Write
	recvBytes
	sendBytes
	recvOps
	sendOps
	recvStalls
	sendStalls
	recvStalled // in us
	sendStalled
	recvPolls
	sendPolls
	recvWakes
	sendWakes
	recvElided
	sendElided
	columns

	counters = recvBytes // from here on a message has differences
	numBit   = 2         // the bit of the first
)

// totals are the application's numbers.
type totals struct {
	Sessions int // all of them
	Omitted  int // those that are not in the table, as there are too many

	PairsOmitted, ListenersOmitted, FallbacksOmitted int

	Conns, Segments, Bytes, Memory int64
	Refused, Reset, Cancelled      uint64
	CutOff                         uint64
	Violations                     ctnet.Violations

	Took int64 // what the snapshot took, in us
}

// A message is an event's data.
type message struct {
	Time int64 // ms since 1970

	// App says whose table it is. Only the first message has it.
	App *identity `json:",omitempty"`

	Totals totals

	// Add and Set are rows, and changes of rows. They are JSON already, and come last.
	add, set []byte

	Del []int `json:",omitempty"` // the numbers of rows that are gone

	Pairs     []ctnet.PairInfo     `json:",omitempty"` // those that are new or have changed
	PairsGone []string             `json:",omitempty"`
	Listeners []ctnet.ListenerInfo // all of them, or null if none has changed
	Fallbacks []ctnet.FallbackInfo // the same
}

type identity struct {
	App          string
	PID, UID     int
	Program, Exe string
	Interval     int64 // the time between messages in ms; there is more if a snapshot takes long
}

// update brings the table to the state of a snapshot that took a time, and returns the message
// that says what has changed.
func (t *table) update(s *ctnet.Snapshot, now time.Time, took time.Duration) []byte {
	if t.rows == nil {
		t.rows = make(map[rowKey]*row)
		t.pairs = make(map[string]ctnet.PairInfo)
	}
	t.time = now
	t.round++
	m := message{Time: now.UnixMilli()}
	set := []byte{'['}
	for i := range s.Connections {
		c := &s.Connections[i]
		r := t.rows[rowKey{c.ID, c.Remote}]
		if r == nil || r.round == t.round {
			continue
		}
		r.round = t.round
		set = r.update(set, c, now)
	}
	t.order = slices.DeleteFunc(t.order, func(r *row) bool {
		if r.round == t.round {
			return false
		}
		m.Del = append(m.Del, r.number)
		return true
	})
	maps.DeleteFunc(t.rows, func(_ rowKey, r *row) bool { return r.round != t.round })
	add := []byte{'['}
	for i := range s.Connections {
		c := &s.Connections[i]
		key := rowKey{c.ID, c.Remote}
		if len(t.rows) == maxSessions {
			break
		}
		if t.rows[key] != nil {
			continue
		}
		t.numbers++
		r := newRow(t.numbers, c, now)
		r.round = t.round
		t.rows[key] = r
		t.order = append(t.order, r)
		add = append(r.append(add), ',')
	}
	m.add, m.set = closeArray(add), closeArray(set)

	t.totals = totals{
		Sessions: len(s.Connections) + s.Omitted, Omitted: len(s.Connections) + s.Omitted - len(t.rows),
		PairsOmitted: max(0, len(s.Pairs)-maxPairs), ListenersOmitted: max(0, len(s.Listeners)-maxListeners),
		FallbacksOmitted: max(0, len(s.Fallbacks)-maxFallbacks),
		Conns:            s.Conns, Segments: s.Segments, Bytes: s.Bytes, Memory: s.Memory,
		Refused: s.Refused, Reset: s.Reset, Cancelled: s.Cancelled, CutOff: s.CutOff, Violations: s.Violations,
		Took: took.Microseconds(),
	}
	m.Totals = t.totals
	t.updatePairs(&m, s.Pairs[:min(len(s.Pairs), maxPairs)])
	if l := s.Listeners[:min(len(s.Listeners), maxListeners)]; t.round == 1 || !slices.Equal(l, t.listeners) {
		t.listeners = append([]ctnet.ListenerInfo{}, l...)
		m.Listeners = t.listeners
	}
	if f := s.Fallbacks[:min(len(s.Fallbacks), maxFallbacks)]; t.round == 1 || !slices.Equal(f, t.fallbacks) {
		t.fallbacks = append([]ctnet.FallbackInfo{}, f...)
		m.Fallbacks = t.fallbacks
	}
	return m.encode()
}

func (t *table) updatePairs(m *message, pairs []ctnet.PairInfo) {
	now := make(map[string]bool, len(pairs))
	for _, p := range pairs {
		now[p.ID] = true
		if t.pairs[p.ID] != p {
			t.pairs[p.ID] = p
			m.Pairs = append(m.Pairs, p)
		}
	}
	for id := range t.pairs {
		if !now[id] {
			m.PairsGone = append(m.PairsGone, id)
			delete(t.pairs, id)
		}
	}
}

// full returns the message with all that the table has.
func (t *table) full(app *identity) []byte {
	add := []byte{'['}
	for _, r := range t.order {
		add = append(r.append(add), ',')
	}
	m := message{
		Time: t.time.UnixMilli(), App: app, Totals: t.totals, add: closeArray(add),
		Pairs: slices.Collect(maps.Values(t.pairs)), Listeners: t.listeners, Fallbacks: t.fallbacks,
	}
	return m.encode()
}

// encode returns the message as JSON, which has no line breaks.
func (m *message) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // there is nothing in it that has no JSON
	}
	b = b[:len(b)-1]
	if m.add != nil {
		b = append(append(b, `,"Add":`...), m.add...)
	}
	if m.set != nil {
		b = append(append(b, `,"Set":`...), m.set...)
	}
	return append(b, '}')
}

// closeArray ends a JSON array. It returns nil for an empty one.
func closeArray(b []byte) []byte {
	if len(b) == 1 {
		return nil
	}
	b[len(b)-1] = ']' // in place of a comma
	return b
}

func newRow(number int, c *ctnet.ConnInfo, now time.Time) *row {
	born := now.Add(-c.Age).UnixMilli()
	b := strconv.AppendInt([]byte{'['}, int64(number), 10)
	for _, s := range []string{c.ID, c.Network, c.Remote, c.Pair} {
		b = appendString(append(b, ','), s)
	}
	for _, n := range []int64{int64(c.Worker), int64(c.Segment), int64(c.Slot), born, int64(c.RecvBuffer), int64(c.SendBuffer)} {
		b = strconv.AppendInt(append(b, ','), n, 10)
	}
	r := &row{number: number, first: b, state: c.State, local: c.Local, nums: numbers(c)}
	r.nums[moved] = now.Add(-c.Idle).UnixMilli()
	return r
}

// append appends all columns of a row, as a JSON array.
func (r *row) append(b []byte) []byte {
	b = append(b, r.first...)
	b = appendString(append(b, ','), r.state)
	b = appendString(append(b, ','), r.local)
	for _, n := range r.nums {
		b = strconv.AppendInt(append(b, ','), n, 10)
	}
	return append(b, ']')
}

// update brings a row to the state of a session. If that has changed it appends the row's number,
// the mask and the columns in it, as a JSON array and a comma.
func (r *row) update(b []byte, c *ctnet.ConnInfo, now time.Time) []byte {
	nums := numbers(c)
	nums[moved] = r.nums[moved]
	if nums[recvBytes] != r.nums[recvBytes] || nums[sendBytes] != r.nums[sendBytes] {
		nums[moved] = now.Add(-c.Idle).UnixMilli()
	}
	mask := 0
	for i, n := range nums {
		if n != r.nums[i] {
			mask |= 1 << (numBit + i)
		}
	}
	// While somebody sleeps the time goes on, and the page counts on by itself.
	const stalled = 1<<(numBit+recvStalled) | 1<<(numBit+sendStalled)
	if c.State == r.state && c.Local == r.local && mask&^stalled == 0 {
		return b
	}
	if c.State != r.state {
		mask |= 1
	}
	if c.Local != r.local {
		mask |= 2
	}
	b = strconv.AppendInt(append(b, '['), int64(r.number), 10)
	b = strconv.AppendInt(append(b, ','), int64(mask), 10)
	if c.State != r.state {
		b = appendString(append(b, ','), c.State)
	}
	if c.Local != r.local {
		b = appendString(append(b, ','), c.Local)
	}
	for i, n := range nums {
		if n == r.nums[i] {
			continue
		}
		if i >= counters {
			n -= r.nums[i]
		}
		b = strconv.AppendInt(append(b, ','), n, 10)
	}
	r.state, r.local, r.nums = c.State, c.Local, nums
	return append(b, ']', ',')
}

func numbers(c *ctnet.ConnInfo) (n [columns]int64) {
	n[recvQueue], n[sendQueue] = int64(c.RecvQueue), int64(c.SendQueue)
	if c.Recv.Asleep {
		n[asleep] |= 1
	}
	if c.Send.Asleep {
		n[asleep] |= 2
	}
	for i, f := range []*ctnet.FlowInfo{&c.Recv, &c.Send} {
		n[recvHigh+i] = int64(f.High)
		n[recvBytes+i] = exact(f.Bytes)
		n[recvOps+i] = exact(f.Ops)
		n[recvStalls+i] = exact(f.Stalls)
		n[recvStalled+i] = f.Stalled.Microseconds()
		n[recvPolls+i] = exact(f.Polls)
		n[recvWakes+i] = exact(f.Wakes)
		n[recvElided+i] = exact(f.Elided)
	}
	return n
}

// exact returns a count as far as JavaScript has such numbers. A peer can make counts of bytes
// anything.
func exact(n uint64) int64 { return int64(min(n, 1<<53)) }

// appendString appends a string as JSON.
func appendString(b []byte, s string) []byte {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) }) {
		quoted, err := json.Marshal(s)
		if err != nil {
			panic(err) // every string has a JSON
		}
		return append(b, quoted...)
	}
	return append(append(append(b, '"'), s...), '"')
}
