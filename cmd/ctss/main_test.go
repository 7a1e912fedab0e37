package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with a file, and requires that no line is longer than 80 columns.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for line := range strings.Lines(got) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, line)
	}
	path := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// options parses arguments that must be right.
func parsed(t *testing.T, args ...string) *options {
	t.Helper()
	o, err := parseOptions(args)
	require.NoError(t, err)
	return o
}

// example is a host with something of everything.
func example() host {
	server := ctnet.Snapshot{
		App: "5f3c0a1b9d2e4c71", PID: 4242, UID: 4000000, Program: "hello", Exe: "/srv/bin/hello",
		Conns: 3, Segments: 2, Bytes: 256 << 20, Memory: 96 << 10, Refused: 1, Reset: 2, Cancelled: 3, CutOff: 1,
		Violations: ctnet.Violations{Message: 1},
		Listeners: []ctnet.ListenerInfo{
			{Network: "tcp", Address: "127.0.0.1:8080", Backlog: 4096, Waiting: 1},
			{Network: "ct", Address: "svc/a-name-so-long-that-it-does-not-fit-into-its-column-at-all/echo", Backlog: 128},
		},
		Connections: []ctnet.ConnInfo{
			{
				ID: "1.0.1.5", State: ctnet.StateEstablished, Network: "tcp", Local: "127.0.0.1:8080", Remote: "127.0.0.1:5630",
				Peer: ctnet.Cred{PID: 4243, UID: 1000, GID: 1000}, RecvQueue: 5, RecvBuffer: 1 << 20, SendQueue: 65536, SendBuffer: 1 << 20,
				Recv: ctnet.FlowInfo{Bytes: 12345678, Ops: 4711, High: 4096, Stalls: 7, Stalled: 90 * time.Second, Polls: 4700, Wakes: 1, Elided: 4710},
				Send: ctnet.FlowInfo{Bytes: 98765432109, Ops: 4711, High: 65536, Stalls: 12, Stalled: 1234 * time.Millisecond, Asleep: true, Wakes: 3, Elided: 4708},
				Age:  26 * time.Hour, Idle: 12 * time.Millisecond, Pair: "1", Worker: 1, Slot: 1,
			},
			{ID: "1.0.2.1", State: ctnet.StateCloseWait, Network: "tcp", Local: "127.0.0.1:8080", Remote: "127.0.0.1:5631", Peer: ctnet.Cred{PID: 4243}, Pair: "1"},
			{ID: "2.0.0.1", State: ctnet.StateHalfOpen, Network: "ct", Remote: "0123456789abcdef:18446744073709551615", Pair: "2"},
		},
		Pairs: []ctnet.PairInfo{
			{ID: "1", Role: ctnet.RoleListened, Name: "tcp:127.0.0.1:8080", Peer: ctnet.Cred{PID: 4243, UID: 1000}, PeerExe: "/usr/bin/client", PeerStopped: true, Conns: 2, Segments: 1, FreeSlots: 62, Mapped: 128 << 20, Resident: 81920},
			{ID: "2", Role: ctnet.RoleInside, Worker: -1, Conns: 1, Segments: 1, FreeSlots: 63, Mapped: 128 << 20, Resident: -1},
		},
		Fallbacks: []ctnet.FallbackInfo{
			{Op: "dial", Network: "tcp", Address: "127.0.0.1:9090", Reason: ctnet.ReasonAbsent, UID: -1, Count: 3, Error: "no ctnet listener is there: connection refused"},
			{Op: "dial", Network: "tcp", Address: "127.0.0.1:7070", Reason: ctnet.ReasonNotTrusted, UID: 1001, Count: 12,
				Error: "permission denied: the listener belongs to user 1001; Dialer.Allow or CTNET_ALLOW can say that this user is trusted"},
		},
	}
	return host{
		apps:   []ctnet.Snapshot{server},
		kernel: []kernelConn{{PID: 4242, Network: "tcp", State: ctnet.StateEstablished, Local: "127.0.0.1:45678", Remote: "127.0.0.1:9090", RecvQueue: 1}},
	}
}

var exampleTime = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// exampleEvents has events of all kinds: of a connection of two processes, and of one of one.
func exampleEvents() []history {
	h := example()
	conn := h.apps[0].Connections[0]
	ago := func(d time.Duration, kind ctnet.EventKind) ctnet.Event {
		return ctnet.Event{Kind: kind, At: exampleTime.Add(-d)}
	}
	stall := func(d time.Duration, kind ctnet.EventKind, took time.Duration, how ctnet.StallEnd) ctnet.Event {
		return ctnet.Event{Kind: kind, At: exampleTime.Add(-d), For: took, Ended: how, Wakes: 3, Polls: 4700}
	}
	server := end{"5f3c0a1b9d2e4c71", 4242, "hello", ctnet.EndEvents{ConnInfo: conn, Events: []ctnet.Event{
		ago(26*time.Hour, ctnet.EventAccepted),
		stall(time.Hour, ctnet.EventStallData, 1500*time.Millisecond, ctnet.StallCame),
		stall(50*time.Minute, ctnet.EventStallSpace, 20*time.Microsecond, ctnet.StallDeadline),
		stall(12*time.Second, ctnet.EventStallData, 12*time.Second, ""),
		stall(11*time.Second, ctnet.EventStallSpace, 11*time.Second, ""),
	}}}
	client := server
	client.PID, client.Program, client.App = 4243, "client", "1"
	client.ConnInfo = ctnet.ConnInfo{ID: "7.0.1.5", State: ctnet.StateReset, Network: "tcp", Local: conn.Remote, Remote: conn.Local}
	client.Events = []ctnet.Event{
		ago(26*time.Hour+time.Millisecond, ctnet.EventDialed),
		stall(25*time.Hour, ctnet.EventStallSpace, time.Minute, ctnet.StallClosed),
		stall(24*time.Hour, ctnet.EventStallData, time.Minute, ctnet.StallEnded),
		stall(23*time.Hour, ctnet.EventStallData, time.Minute, ctnet.StallNothing),
	}
	inside, other := server, server
	other.Local, other.Remote = conn.Remote, conn.Local
	inside.Events, other.Events = nil, nil
	for i, kind := range []ctnet.EventKind{
		ctnet.EventReadClosed, ctnet.EventWriteClosed, ctnet.EventClosed, ctnet.EventFinSent, ctnet.EventResetSent,
		ctnet.EventFinSeen, ctnet.EventResetSeen, ctnet.EventSevered, ctnet.EventPeerBroke, ctnet.EventPeerGone, "new-in-2030",
	} {
		e := []*end{&inside, &other}[i%2]
		e.Events = append(e.Events, ago(time.Duration(20-i)*time.Second, kind))
	}
	inside.Events = append(inside.Events, stall(2*time.Second, ctnet.EventStallData, time.Second, "new-in-2031"))
	var all []history
	for _, ends := range [][]end{{server, client}, {inside, other}} {
		one := history{ends: ends}
		for i := range ends {
			one.rows = append(one.rows, connRow(&h.apps[0], &ends[i].ConnInfo, pairOf(&h.apps[0], &ends[i].ConnInfo)))
		}
		all = append(all, one)
	}
	return all
}

func table80(t *testing.T, h host, args ...string) string {
	t.Helper()
	var b bytes.Buffer
	writeTable(&b, parsed(t, args...), 80, h)
	return b.String()
}

// TestGolden has the output of all flags, in 80 columns.
func TestGolden(t *testing.T) {
	for name, args := range map[string][]string{
		"default": {"-n"}, "all": {"-an"}, "listening": {"-ln"}, "everything": {"-anpmie"}, "info": {"-ni", "state", "established"},
		"tcp": {"-nat", "dport", "=", ":5630"},
	} {
		golden(t, name, table80(t, example(), args...))
	}
	var b bytes.Buffer
	writeSummary(&b, parsed(t, "-s"), 80, example())
	golden(t, "summary", b.String())
	b.Reset()
	writeWhy(&b, 80, example())
	golden(t, "why", b.String())
	b.Reset()
	writeWhy(&b, 80, host{})
	golden(t, "nothing", b.String())
	b.Reset()
	writeEvents(&b, parsed(t, "-np", "id = 1.0.1.5"), 80, exampleEvents(), exampleTime)
	golden(t, "events", b.String())
	golden(t, "usage", usage)
	golden(t, "empty", table80(t, host{}, "-anpmie"))
}

// TestOptions has arguments that make no sense.
func TestOptions(t *testing.T) {
	require.True(t, parsed(t, "--events", "-n", "id = 1.0.1.5").events)
	o := parsed(t, "-tn", "-K", "--processes", "dst", "127.0.0.1")
	require.True(t, o.numeric && o.kill && o.processes && o.networks["tcp"] && !o.all)
	for _, args := range [][]string{{"-y"}, {"--nothing"}, {"-K"}, {"--events"}, {"--events", "-t"}, {"state"}, {"state", "up"}, {"(", "src", "x"}, {"src"}, {"sport", "<", "x y"}, {"dport", "=", "70000"}, {"src", "<", "a"}, {"what", "=", "1"}, {"src", "a", ")"}, {strings.Repeat("( ", 1000)}, {strings.Repeat("! ", 1000) + "src x"}, {"src", "a", "or"}, {"dst", "1.2.3.4:nothing-such"}, {"age", ">", "old"}, {"idle", ">", "5"}, {"space", ">", "much"}, {"space"}} {
		_, err := parseOptions(args)
		require.Error(t, err, args)
		var out, errs bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &out, &errs), args)
		require.Contains(t, errs.String(), "ctss -h shows what there is")
		require.Empty(t, out.String())
	}
}

// TestDumpOptions has the arguments of ctss dump.
func TestDumpOptions(t *testing.T) {
	want := dump{id: "1.0.0.1", file: "x", pid: 7, config: ctnet.CaptureConfig{SnapLen: 96, Count: 5}}
	for _, line := range []string{"1.0.0.1 -w x -p 7 -s 96 -c 5", "-w x -p 7 -s 96 -c 5 1.0.0.1"} {
		d, err := parseDump(strings.Fields(line))
		require.NoError(t, err)
		require.Equal(t, want, d)
	}
	for _, line := range []string{"", "1.0.0.1", "-w x", "1.0.0.1 -w", "1.0.0.1 -w x 2.0.0.1", "1.0.0.1 -w x -s -1", "1.0.0.1 -w x -c -1", "1.0.0.1 -w x -y"} {
		var out, errs bytes.Buffer
		require.Equal(t, 2, run(t.Context(), append([]string{"dump"}, strings.Fields(line)...), &out, &errs), line)
		require.Contains(t, errs.String(), "ctss dump -h shows what there is")
		require.Empty(t, out.String())
	}
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"dump", "-h"}, &out, &errs))
	require.Equal(t, dumpUsage, out.String())
}

// TestFilter selects rows as ss would.
func TestFilter(t *testing.T) {
	h := example()
	for expression, want := range map[string]int{
		"":                                       4, // the listeners are left out
		"state all":                              6,
		"state listening":                        2,
		"state listen":                           2,
		"state connected":                        4,
		"state established":                      2,
		"state established state close-wait":     3,
		"exclude established":                    4,
		"state connected exclude close-wait":     3,
		"dport = :5630":                          1,
		"state established ( dport = :5630 )":    1,
		"( dport = :5630 or dport = 9090 )":      2,
		"dport eq 5630":                          1,
		"dport >= 5631":                          2,
		"dport > :5630 and dport < :9000":        1,
		"sport != :8080":                         1,
		"not sport = :8080":                      2,
		"! sport = :8080":                        2,
		"dst 127.0.0.1":                          3,
		"dst 127.0.0.1:9090":                     1,
		"dst 127.0.0.0/8":                        3,
		"dst != 127.0.0.1":                       1,
		"dst :9090":                              1,
		"dst *:9090":                             1,
		"dst ::1":                                0,
		"dst [::1]:80":                           0,
		"src 127.0.0.1 dst :9090":                1,
		"src 127.0.0.1 & dst :9090 | dport 5630": 2,
		"state all src svc/*":                    1,
		"state all src svc/*/echo":               1,
		"state all src svc/*/ech":                0,
		"dst 0123*":                              1,
		"id = 1.0.2.1":                           1,
		"id != 1.0.2.1":                          3,
		"pid = 4242":                             4,
		"pid = 1":                                0,
		"(((dport=:5630)))":                      1,
		"age > 1h":                               1,
		"age<=0s":                                2,
		"age = 26h and idle < 1s":                1,
		"idle ge 12ms":                           1,
		"not idle >= 12ms":                       3,
		"state all not idle >= 0s":               3, // listeners, and what is the kernel's
		"space > 0":                              1,
		"space >= 2%":                            0,
		"space lt 2%":                            3,
	} {
		o := parsed(t, strings.Fields(expression)...)
		require.Len(t, h.rows(o), want, expression)
	}
}

// TestNarrow writes the tables for terminals of all widths, and of no width.
func TestNarrow(t *testing.T) {
	for _, width := range []int{0, 1, 10, 39, 40, 41, 60, 79, 80, 81, 200, 100000} {
		for _, args := range [][]string{{"-an"}, {"-anpmie"}} {
			var b bytes.Buffer
			writeTable(&b, parsed(t, args...), width, example())
			writeWhy(&b, width, example())
			for line := range strings.Lines(b.String()) {
				n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))
				if width >= 64 && !strings.Contains(line, ":((") { // a word is not broken
					require.LessOrEqual(t, n, width)
				}
			}
		}
	}
}

// TestThousands shows many sessions.
func TestThousands(t *testing.T) {
	h := example()
	one := h.apps[0].Connections[0]
	for range 20_000 {
		h.apps[0].Connections = append(h.apps[0].Connections, one)
	}
	h.apps[0].Omitted = 7
	start := time.Now()
	got := table80(t, h, "-anpmie")
	require.Less(t, time.Since(start), 20*time.Second)
	require.Greater(t, strings.Count(got, "\n"), 20_000)
	require.Contains(t, got, "hello/4242 has 7 connections more than it shows\n")
}

// TestHostileText has an application that says anything of itself: nothing of it gets into the
// terminal but text.
func TestHostileText(t *testing.T) {
	h := example()
	evil := "\x1b[2J\x1b]0;owned\x07\r\n\u009b31m\u202e" + strings.Repeat("x", 10_000) + "\xff"
	a := &h.apps[0]
	a.Program, a.Exe, a.App = evil, evil, evil
	for i := range a.Listeners {
		a.Listeners[i] = ctnet.ListenerInfo{Network: evil, Address: evil}
	}
	for i := range a.Connections {
		a.Connections[i] = ctnet.ConnInfo{ID: evil, State: evil, Network: evil, Local: evil, Remote: evil, Pair: evil}
	}
	a.Connections = append(a.Connections, ctnet.ConnInfo{Age: -1, Idle: -1 << 62, Recv: ctnet.FlowInfo{Bytes: 1<<64 - 1}, RecvQueue: -1})
	a.Pairs = []ctnet.PairInfo{{ID: evil, Name: evil, PeerExe: evil, Mapped: -1, Resident: 1<<63 - 1}}
	a.Fallbacks = []ctnet.FallbackInfo{{Op: evil, Network: evil, Address: evil, Reason: ctnet.Reason(evil), Error: evil}}
	var b bytes.Buffer
	writeTable(&b, parsed(t, "-anpmie"), 80, h)
	writeWhy(&b, 80, h)
	writeSummary(&b, parsed(t, "-s"), 80, h)
	writeNames(&b, "names", h)
	b.WriteString(new(view).draw(parsed(t, "-a"), h, &os.PathError{Op: evil, Path: evil, Err: os.ErrInvalid}, time.Now(), 80, 24))
	ends := []end{{evil, -1, evil, ctnet.EndEvents{ConnInfo: a.Connections[0], Events: []ctnet.Event{
		{Kind: ctnet.EventKind(evil), Ended: ctnet.StallEnd(evil)},
		{Kind: ctnet.EventStallData, Ended: ctnet.StallEnd(evil), At: time.Unix(1<<40, 0), For: -1 << 63, Wakes: math.MinInt, Polls: math.MaxInt},
	}}}}
	ends = append(ends, ends[0])
	evilEvents := []history{{ends, []row{connRow(a, &a.Connections[0], nil), connRow(a, &a.Connections[1], nil)}}}
	var events bytes.Buffer
	writeEvents(&events, parsed(t, "--events", "-pmie", "pid = 1"), 80, evilEvents, time.Now())
	evilEvents[0].ends[1].PID = 1 // the names of two processes
	evilEvents[0].table(time.Now()).write(&events, 80)
	for line := range strings.Lines(events.String()[strings.Index(events.String(), "Ago"):]) {
		require.LessOrEqual(t, len(line), 81, line)
	}
	b.Write(events.Bytes())
	exit(&b, &os.PathError{Op: "inspect", Path: evil, Err: os.ErrInvalid})
	for _, r := range b.String() {
		require.True(t, r == '\n' || r >= ' ' && r < 0x7f, "%q", r)
	}
}

// TestJSON has what docs/ctss.md describes, and only what the filter selects.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, writeJSON(&b, parsed(t, "-aj", "state", "established"), example(), exampleEvents()[:1], os.ErrPermission))
	var r report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&r))
	require.Equal(t, jsonVersion, r.Version)
	require.Len(t, r.Applications, 1)
	require.Equal(t, example().apps[0].Connections[:1], r.Applications[0].Connections)
	require.Empty(t, r.Applications[0].Listeners)
	require.Equal(t, example().kernel, r.Kernel)
	require.Equal(t, []string{os.ErrPermission.Error()}, r.Errors)
	require.WithinDuration(t, time.Now(), r.Time, time.Minute)
	require.Equal(t, exampleEvents()[0].ends, r.Ends)
}

// pairsExample is two processes with three connections, of which one application in the first has one, and
// another one that is connected with itself and has many.
func pairsExample() host {
	pair := func(id string, pid int, exe string) ctnet.PairInfo {
		return ctnet.PairInfo{ID: id, Peer: ctnet.Cred{PID: pid}, PeerExe: exe, Mapped: 128 << 20, Resident: 40 << 10}
	}
	conn := func(pair, state string, stalled time.Duration) ctnet.ConnInfo {
		return ctnet.ConnInfo{Network: "ct", State: state, Pair: pair, Age: 10 * time.Second, Idle: time.Second,
			Recv: ctnet.FlowInfo{Bytes: 1000, Stalled: 3 * time.Second}, Send: ctnet.FlowInfo{Bytes: 2000, Stalled: stalled, Asleep: stalled > 5*time.Second}}
	}
	client := ctnet.Snapshot{App: "a", PID: 11, Program: "client", Pairs: []ctnet.PairInfo{pair("1", 12, "/bin/server"), pair("2", 12, "/bin/server")},
		Connections: []ctnet.ConnInfo{conn("1", ctnet.StateEstablished, 8*time.Second), conn("2", ctnet.StateCloseWait, 2*time.Second)}}
	client.Pairs[1].PeerStopped = true
	second := ctnet.Snapshot{App: "b", PID: 11, Program: "client", Pairs: []ctnet.PairInfo{pair("1", 12, "/bin/server")},
		Connections: []ctnet.ConnInfo{conn("1", ctnet.StateFinWait, 0)}}
	self := ctnet.Snapshot{App: "c", PID: 13, Program: "self", Pairs: []ctnet.PairInfo{pair("in1", 13, ""), pair("in2", 13, ""), pair("2", 14, "")}}
	for range 1500 {
		self.Connections = append(self.Connections, conn("in1", ctnet.StateEstablished, 0))
	}
	self.Pairs[0].Resident = -1
	return host{apps: []ctnet.Snapshot{client, second, self}}
}

// TestSums adds up by pairs of processes, all and what a filter selects.
func TestSums(t *testing.T) {
	h := pairsExample()
	of := func(args ...string) []pairSum {
		o := parsed(t, append([]string{"-s"}, args...)...)
		return sums(o, h.apps, h.summed(o))
	}
	self := pairSum{PID: 13, Program: "self", PeerPID: 13, Ends: 1500, States: map[string]int{"ESTABLISHED": 1500}, Received: 1_500_000, Sent: 3_000_000,
		Age: 15000 * time.Second, StalledData: 4500 * time.Second, Mapped: 256 << 20, Resident: -1}
	client := pairSum{PID: 11, Program: "client", PeerPID: 12, PeerProgram: "server", PeerStopped: true, Ends: 3,
		States: map[string]int{"ESTABLISHED": 1, "CLOSE-WAIT": 1, "FIN-WAIT": 1}, Received: 3000, Sent: 6000,
		Age: 30 * time.Second, StalledSpace: 10 * time.Second, StalledData: 9 * time.Second, WaitsForSpace: 1, Mapped: 384 << 20, Resident: 120 << 10}
	kept := pairSum{PID: 13, Program: "self", PeerPID: 14, States: map[string]int{}, Mapped: 128 << 20, Resident: 40 << 10}
	require.Equal(t, []pairSum{self, client, kept}, of())
	client = pairSum{PID: 11, Program: "client", PeerPID: 12, PeerProgram: "server", Ends: 1, States: map[string]int{"ESTABLISHED": 1},
		Received: 1000, Sent: 2000, Age: 10 * time.Second, StalledSpace: 8 * time.Second, StalledData: 3 * time.Second, WaitsForSpace: 1,
		Mapped: 128 << 20, Resident: 40 << 10}
	require.Equal(t, []pairSum{client}, of("space", ">", "20%"))

	var b bytes.Buffer
	writeSummary(&b, parsed(t, "-s"), 80, h)
	golden(t, "sums", b.String())
	b.Reset()
	writeSummary(&b, parsed(t, "-s", "space > 20%"), 80, h)
	golden(t, "sums-filtered", b.String())

	b.Reset()
	require.NoError(t, writeJSON(&b, parsed(t, "-sj"), h, nil, nil))
	var r report
	require.NoError(t, json.Unmarshal(b.Bytes(), &r))
	require.Equal(t, of(), r.Sums)
	require.Less(t, b.Len(), 10_000, "connections are not in it")
	b.Reset()
	require.NoError(t, writeJSON(&b, parsed(t, "-j"), h, nil, nil))
	require.NotContains(t, b.String(), "Sums")
}

// TestShare has ages and times that can't be, as a hostile application says them.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		stalled, age time.Duration
		want         float64
	}{{1, 4, 0.25}, {0, 0, 0}, {1, 0, 0}, {5, 4, 1}, {-1, 4, 0}, {1, -4, 0}, {1<<63 - 1, 1, 1}} {
		require.Equal(t, c.want, share(c.stalled, c.age), c)
	}
}

// TestJSONDocumented makes sure that docs/ctss.md has each field.
func TestJSONDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/ctss.md")
	require.NoError(t, err)
	for _, v := range []any{report{}, pairSum{}, ctnet.Snapshot{}, ctnet.ListenerInfo{}, ctnet.ConnInfo{}, ctnet.FlowInfo{}, ctnet.PairInfo{}, ctnet.FallbackInfo{}, ctnet.Violations{}, ctnet.Limits{}, ctnet.Totals{}, ctnet.FlowTotals{}, ctnet.Cred{}, kernelConn{}, end{}, ctnet.EndEvents{}, ctnet.Event{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() && !f.Anonymous {
				require.Contains(t, string(doc), "`"+f.Name+"`", "%s.%s", typ.Name(), f.Name)
			}
		}
	}
}

// TestAlertCommands makes sure that the commands that the alert rules for Prometheus name can be typed.
func TestAlertCommands(t *testing.T) {
	rules, err := os.ReadFile("../../ctprom/alerts.yaml")
	if os.IsNotExist(err) {
		t.Skip("a nested module is not part of a download of this one")
	}
	require.NoError(t, err)
	found := regexp.MustCompile("`ctss ([^`]*)`").FindAllSubmatch(rules, -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		parsed(t, strings.Fields(string(m[1]))...)
	}
}

// TestDraw has rates, and frames that fit the terminal.
func TestDraw(t *testing.T) {
	var v view
	h := example()
	start := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	first := v.draw(parsed(t, "-n"), h, nil, start, 80, 24)
	require.NotContains(t, first, "1.0M")
	h.apps[0].Connections[0].Recv.Bytes += 2 << 20
	h.apps[0].Connections[0].Send.Bytes += 20
	second := v.draw(parsed(t, "-n"), h, os.ErrPermission, start.Add(2*time.Second), 80, 24)
	golden(t, "live", second)
	require.Contains(t, second, "in 1.0M/s, out 10/s")
	require.Contains(t, second, os.ErrPermission.Error())
	h.apps[0].Connections[0].Recv.Bytes = 0 // it lies, or is another one
	require.Contains(t, v.draw(parsed(t, "-n"), h, nil, start.Add(3*time.Second), 80, 24), "in 0/s")

	for lines := range 30 {
		frame := v.draw(parsed(t, "-anpmie"), h, nil, start, 80, lines)
		if lines > 1 {
			require.LessOrEqual(t, strings.Count(frame, "\n"), lines)
			require.LessOrEqual(t, strings.Count(inPlace(frame), "\n"), lines-1, "the screen would scroll")
		}
	}
	require.Contains(t, v.draw(parsed(t, "-anpmie"), h, nil, start, 80, 5), "lines more\n")
	require.Equal(t, goHome+"a"+clearLine+"\r\nb"+clearLine+clearBelow, inPlace("a\nb\n"))
}

// TestRunHelp has what needs no application.
func TestRunHelp(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-h"}, &out, &errs))
	require.Equal(t, usage, out.String())
	require.Equal(t, 1, run(t.Context(), []string{"completion", "tcsh"}, &out, &errs))
	require.Contains(t, errs.String(), "bash, zsh and fish")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, run(ctx, []string{"-w"}, &out, &errs))
}
