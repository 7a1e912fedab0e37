package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"cutthrough.example/internal/tap"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// answerInspect is what attackers answer to whom asks them for a snapshot.
var answerInspect = map[string]func(ch rendezvous.Channel) error{
	"nothing": func(ch rendezvous.Channel) error {
		_, _, err := ch.Receive() // until the other side has had enough
		return err
	},
	"hangs up":  func(ch rendezvous.Channel) error { return nil },
	"no packet": func(ch rendezvous.Channel) error { _, err := ch.Write([]byte("garbage")); return err },
	"garbage":   func(ch rendezvous.Channel) error { return sendSnapshot(ch, bytes.Repeat([]byte{0xff, 0}, 1<<20), 0) },
	"deep":      func(ch rendezvous.Channel) error { return sendSnapshot(ch, bytes.Repeat([]byte("["), 8<<20), 0) },
	"cut off":   func(ch rendezvous.Channel) error { return sendSnapshot(ch, []byte(`{"Connections":[{"ID":"1.0.`), 0) },
	"256 MB": func(ch rendezvous.Channel) error {
		return sendSnapshot(ch, []byte(`{}`), 256<<20)
	},
	"4 GB": func(ch rendezvous.Channel) error {
		return sendSnapshot(ch, []byte(`{}`), 1<<32-1)
	},
	"other size":              func(ch rendezvous.Channel) error { return sendSnapshot(ch, []byte(`{}`), 3) },
	"millions of connections": func(ch rendezvous.Channel) error { return sendSnapshot(ch, millions["connections"](), 0) },
	"millions of zeros":       func(ch rendezvous.Channel) error { return sendSnapshot(ch, millions["zeros"](), 0) },
	"refuses": func(ch rendezvous.Channel) error {
		return ch.Send(rendezvous.Message{Kind: rendezvous.KindWelcome, Errno: uint32(syscall.EPROTO)})
	},
	"done": func(ch rendezvous.Channel) error { return ch.Send(rendezvous.Message{Kind: rendezvous.KindDone}) },
}

// millions are snapshots of 100 MB, of which the elements, of 3 bytes, would be 15 GB; with the race detector, to which
// that many bytes take longer than an answer may, they are smaller. They are made once.
var millions = map[string]func() []byte{
	"connections": sync.OnceValue(func() []byte {
		return slices.Concat([]byte(`{"Connections":[`), bytes.Repeat([]byte(`{},`), 33<<20/slowdown), []byte(`{}]}`))
	}),
	"zeros": sync.OnceValue(func() []byte {
		return slices.Concat([]byte(`{"Fallbacks":[`), bytes.Repeat([]byte(`0,`), 50<<20/slowdown), []byte(`0]}`))
	}),
}

// sendSnapshot sends a snapshot, of which it says that it has size bytes; 0 is the right number.
func sendSnapshot(ch rendezvous.Channel, b []byte, size uint32) error {
	mem, fd, err := segpool.CreateShared("ctnet snapshot", len(b), segpool.ByMaker)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	defer mem.Free()
	copy(mem.Bytes, b)
	if size == 0 {
		size = uint32(len(b))
	}
	return ch.Send(rendezvous.Message{Kind: rendezvous.KindSnapshot, Size: size}, fd)
}

type inspectArgs struct{ Name, Answer string }

// attackInspector listens, and answers whoever asks.
func attackInspector() {
	a := args[inspectArgs]()
	socket, err := rendezvous.Bind(background, key(a.Name), false)
	if err != nil {
		panic(err)
	}
	if of, ok := strings.CutPrefix(a.Answer, "millions of "); ok {
		millions[of]()
	}
	answer("ready", true)
	go func() {
		io.Copy(io.Discard, os.Stdin) // until the test's process is gone
		os.Exit(0)
	}()
	for {
		ch, err := socket.Accept()
		if err != nil {
			return
		}
		go func() {
			defer ch.Close()
			if _, _, err := ch.Receive(); err == nil {
				answerInspect[a.Answer](ch)
			}
		}()
	}
}

// TestInspectHostile asks processes that answer anything, all at once and beside an honest one. Each
// gets an error of its own, the honest one is seen, and it takes neither long nor much memory.
func TestInspectHostile(t *testing.T) {
	useDir(t)
	honest, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	defer honest.Close()
	ln, err := (&ctnet.ListenConfig{App: honest}).Listen(background, "ct", "honest")
	require.NoError(t, err)
	defer ln.Close()
	for what := range answerInspect {
		start(t, "inspected", inspectArgs{"evil " + what, what}).expect("ready")
	}
	_, err = ctnet.Inspect(background) // what is made once
	require.Error(t, err)
	before := leakcheck.Now()
	var at runtime.MemStats
	runtime.ReadMemStats(&at)
	allocated := at.TotalAlloc
	began := time.Now()
	all, err := ctnet.Inspect(background)
	took := time.Since(began)
	runtime.ReadMemStats(&at)
	require.Error(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "honest", all[0].Listeners[0].Address)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, len(answerInspect), err)
	for _, want := range []string{"it does not answer", "it has exited, or hung up", "its answer is larger than any answer may be", "more than 100000 elements", "broke the protocol"} {
		require.Contains(t, err.Error(), want)
	}
	require.Less(t, took, slowdown*limit)
	require.Less(t, at.TotalAlloc-allocated, uint64(2<<30), "of which most was garbage at once")
	leakcheck.RequireBack(t, before)
}

// TestResetHostile asks them to reset a connection.
func TestResetHostile(t *testing.T) {
	useDir(t)
	socket, err := rendezvous.Bind(background, key("it"), false)
	require.NoError(t, err)
	defer socket.Close()
	serve := func(f func(ch rendezvous.Channel) error) { serveOne(socket, f) }
	s := inspectOne(t, socket)
	before := leakcheck.Now()
	for what, f := range answerInspect {
		if what == "nothing" || strings.HasPrefix(what, "millions") {
			continue
		}
		serve(f)
		err := s.ResetConn(background, "1.2.3.4")
		switch what {
		case "done":
			require.NoError(t, err)
		case "refuses": // as an older version does
			require.ErrorContains(t, err, "can't reset a connection from outside")
		default:
			require.Error(t, err, what)
		}
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	serve(answerInspect["nothing"])
	require.Error(t, s.ResetConn(ctx, "1.2.3.4"))
	leakcheck.RequireBack(t, before)
}

// serveOne has f answer the next process that asks something at a socket.
func serveOne(socket *rendezvous.Socket, f func(ch rendezvous.Channel) error) {
	go func() {
		ch, err := socket.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		if _, _, err := ch.Receive(); err == nil {
			f(ch)
		}
	}()
}

// inspectOne returns the Snapshot of the application at a socket.
func inspectOne(t *testing.T, socket *rendezvous.Socket) *ctnet.Snapshot {
	t.Helper()
	serveOne(socket, func(ch rendezvous.Channel) error { return sendSnapshot(ch, []byte(`{"App":"1"}`), 0) })
	all, err := ctnet.Inspect(background)
	require.NoError(t, err)
	require.Len(t, all, 1)
	return &all[0]
}

// TestEventsHostile asks them for the events of a connection.
func TestEventsHostile(t *testing.T) {
	useDir(t)
	socket, err := rendezvous.Bind(background, key("it"), false)
	require.NoError(t, err)
	defer socket.Close()
	s := inspectOne(t, socket)
	before := leakcheck.Now()
	for what, f := range answerInspect {
		if what == "nothing" || what == "millions of zeros" {
			continue
		}
		serveOne(socket, f)
		_, err := s.Events(background, "1.2.3.4")
		require.Error(t, err, what)
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	serveOne(socket, answerInspect["nothing"])
	_, err = s.Events(ctx, "1.2.3.4")
	require.Error(t, err)

	const one = `{"ID":"1.2.3.4","Events":[{}]}`
	ask := func(answer string) ([]ctnet.EndEvents, error) {
		serveOne(socket, func(ch rendezvous.Channel) error { return sendSnapshot(ch, []byte(answer), 0) })
		return s.Events(background, "1.2.3.4")
	}
	for answer, want := range map[string]string{
		`{"Connections":[{"ID":"1.2.3.4","Events":[` + strings.Repeat("{},", 64) + `{}]}]}`:           "more than 64 elements",
		`{"Connections":[{"ID":"1.2.3.4"` + strings.Repeat(`,"Events":[{}]`, 65) + `}]}`:              "more than 64 elements",
		`{"Connections":[{"ID":"of another one","Events":[` + strings.Repeat("{},", 1<<20) + `{}]}]}`: "more than 64 elements",
		`{"Connections":[` + one + `,` + one + `,` + one + `]}`:                                       "more than 2 ends",
		`{"Connections":[` + one + `,` + one + `],"Connections":[` + one + `]}`:                       "more than 2 ends",
		`{"Connections":[{"ID":"1.2.3.4","Events":[{"At":"soon"}]}]}`:                                 "broke the protocol",
		`{"Connections":[{"ID":"1.2.3.4","Events":[{"Kind":7}]}]}`:                                    "broke the protocol",
		`{"Connections":[{"ID":"1.2.3.4","Events":{}}]}`:                                              "it is no list",
		`{"Connections":[{"ID":"of another one","Events":[{}]}]}`:                                     "no such process",
		`{"Connections":null}`: "no such process",
		// As a version answers that doesn't know the question: with all connections.
		`{"App":"1","Connections":[{"ID":"1.2.3.5"},{"ID":"1.2.3.4","State":"ESTABLISHED"}],"Pairs":[{}]}`: "keeps no events",
	} {
		_, err := ask(answer)
		require.ErrorContains(t, err, want, answer[:min(len(answer), 80)])
	}
	ends, err := ask(`{"Connections":[` + one + `,{"ID":"1.2.3.4","Events":[{"Kind":"\u001b","At":"9999-01-01T00:00:00Z","For":-1,"Ended":"?","Wakes":-1,"New":1}]}]}`)
	require.NoError(t, err)
	require.Len(t, ends, 2)
	require.Equal(t, ctnet.EventKind("\x1b"), ends[1].Events[0].Kind)
	leakcheck.RequireBack(t, before)
}

// TestEventsAsked has what versions that know of no events send and read: their question has no ID, and is
// answered as ever.
func TestEventsAsked(t *testing.T) {
	useDir(t)
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	defer a.Close()
	ln, err := (&ctnet.ListenConfig{App: a}).Listen(background, "ct", "it")
	require.NoError(t, err)
	defer ln.Close()
	d := ctnet.Dialer{App: a}
	c, err := d.Dial("ct", "it")
	require.NoError(t, err)
	defer c.Close()
	id := a.Snapshot().Connections[0].ID
	ask := func(m rendezvous.Message) map[string]json.RawMessage {
		ch, _, err := rendezvous.DialName(background, a.Snapshot().Sockets[0], func(rendezvous.Cred) bool { return true })
		require.NoError(t, err)
		defer ch.Close()
		require.NoError(t, ch.Send(m))
		m, fds, err := ch.Receive()
		require.NoError(t, err)
		defer fds.Close()
		require.EqualValues(t, rendezvous.KindSnapshot, m.Kind)
		mem, err := segpool.OpenShared(fds[0], int(m.Size), segpool.ByMaker)
		require.NoError(t, err)
		defer mem.Free()
		var answer map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(mem.Bytes, &answer))
		return answer
	}
	whole := ask(rendezvous.Message{Kind: rendezvous.KindInspect})
	require.Contains(t, whole, "Listeners")
	require.Contains(t, string(whole["Connections"]), id)
	require.NotContains(t, string(whole["Connections"]), "Events")
	m := rendezvous.Message{Kind: rendezvous.KindInspect}
	m.NameLen = uint32(copy(m.Name[:], id))
	of := ask(m)
	require.Len(t, of, 1)
	require.Equal(t, 2, strings.Count(string(of["Connections"]), `"Events":[{"Kind":"`))
	m.NameLen = 1<<32 - 1
	require.Equal(t, "null", string(ask(m)["Connections"]), "there is none with this ID")
}

// TestCaptureHostile asks them for a capture, which says anything.
func TestCaptureHostile(t *testing.T) {
	useDir(t)
	socket, err := rendezvous.Bind(background, key("it"), false)
	require.NoError(t, err)
	defer socket.Close()
	serve := func(blocks ...[]byte) {
		go func() {
			ch, err := socket.Accept()
			if err != nil {
				return
			}
			defer ch.Close()
			if m, _, err := ch.Receive(); err != nil || m.Kind == rendezvous.KindInspect {
				sendSnapshot(ch, []byte(`{"App":"1"}`), 0)
				return
			}
			ch.Send(rendezvous.Message{Kind: rendezvous.KindDone})
			for _, b := range blocks {
				ch.SendBlock(b)
			}
			ch.Receive() // until the other side has had enough
		}()
	}
	serve()
	all, err := ctnet.Inspect(background)
	require.NoError(t, err)
	require.Len(t, all, 1)
	before := leakcheck.Now()
	record := func(kind uint32, pos uint64, data string) []byte {
		return (&tap.Record{Kind: kind, Pos: pos, Data: []byte(data)}).Append(nil)
	}
	start := record(tap.Start, 0, `{"Network":"tcp","Local":"\u0000[::1%x]:1","Remote":"1.2.3.4:5"}`)
	for what, blocks := range map[string][][]byte{
		"garbage":        {[]byte("garbage")},
		"no start":       {record(tap.Sent, 0, "x")},
		"no JSON":        {record(tap.Start, 0, "{")},
		"starts twice":   {start, start},
		"goes back":      {start, record(tap.Sent, 10, "x"), record(tap.Sent, 9, "x")},
		"after the end":  {start, record(tap.SentFin, 10, ""), record(tap.Sent, 11, "x")},
		"no such kind":   {start, record(99, 0, "")},
		"too long":       {start, append(record(tap.Sent, 0, strings.Repeat("x", tap.MaxData)), make([]byte, tap.MaxBlock)...)},
		"cut off":        {start, record(tap.Sent, 0, "hello")[:34]},
		"longer than it": {start, record(tap.Sent, 0, strings.Repeat("x", tap.MaxData+1))},
	} {
		serve(blocks...)
		_, err := all[0].CaptureConn(background, "1.2.3.4", io.Discard, ctnet.CaptureConfig{})
		require.ErrorIs(t, err, syscall.EPROTO, what)
	}
	answers := maps.Clone(answerInspect)
	answers["a block with descriptors"] = func(ch rendezvous.Channel) error {
		ch.Send(rendezvous.Message{Kind: rendezvous.KindDone})
		rawpacket.SendOn(ch, append(start, record(tap.Over, 0, "")...), 0, 1)
		_, _, err := ch.Receive()
		return err
	}
	for what, f := range answers {
		if strings.HasPrefix(what, "millions") || what == "nothing" {
			continue
		}
		go func() {
			if ch, err := socket.Accept(); err == nil {
				defer ch.Close()
				ch.Receive()
				f(ch)
			}
		}()
		_, err := all[0].CaptureConn(background, "1.2.3.4", io.Discard, ctnet.CaptureConfig{})
		require.Error(t, err, what)
	}
	// One that says no more is waited for until the caller has had enough.
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	serve(start)
	_, err = all[0].CaptureConn(ctx, "1.2.3.4", io.Discard, ctnet.CaptureConfig{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	leakcheck.RequireBack(t, before)
}
