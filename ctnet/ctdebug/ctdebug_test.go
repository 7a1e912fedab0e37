package ctdebug

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
)

func newApp(t testing.TB) *ctnet.App {
	a, err := ctnet.NewApp(ctnet.AppConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// listen returns a listener on network ct that is closed at the test's end.
func listen(t testing.TB, app *ctnet.App, name string) net.Listener {
	ln, err := (&ctnet.ListenConfig{App: app}).Listen(t.Context(), "ct", name)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// connect dials a listener, and closes both ends at the test's end.
func connect(t testing.TB, app *ctnet.App, ln net.Listener) (c, s net.Conn) {
	c, err := (&ctnet.Dialer{App: app}).Dial("ct", ln.Addr().String())
	require.NoError(t, err)
	s, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

// open is Handler's guard for tests of other things.
func open(*http.Request) bool { return true }

// newServer serves a handler over TCP.
func newServer(t testing.TB, h http.Handler) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections() // Close waits for streams
		s.Close()
	})
	return s
}

// get returns a response and its body. change may change the request.
func get(t testing.TB, url string, change func(*http.Request)) (*http.Response, string) {
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	r.Close = true
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

// TestMounted asks http.DefaultServeMux for the page, as a program does that imports the package.
func TestMounted(t *testing.T) {
	leakcheck.Check(t)
	s := newServer(t, http.DefaultServeMux)
	resp, body := get(t, s.URL+"/debug/ctnet/", nil)
	require.Equal(t, wantStatus, resp.StatusCode, body)
	if wantStatus == http.StatusOK {
		require.Contains(t, body, "<title>ctnet</title>")
	}
}

// TestFiles asks for all that the page is made of. Nothing in it names another host.
func TestFiles(t *testing.T) {
	leakcheck.Check(t)
	s := newServer(t, Guarded(newApp(t), open))
	for name, kind := range map[string]string{"": "text/html", "ctdebug.css": "text/css", "ctdebug.js": "text/javascript", "snapshot": "application/json"} {
		resp, body := get(t, s.URL+"/x/"+name, nil)
		require.Equal(t, 200, resp.StatusCode)
		require.True(t, strings.HasPrefix(resp.Header.Get("Content-Type"), kind), name)
		require.NotEmpty(t, body)
		require.NotContains(t, strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "://")
		for header := range headers {
			require.NotEmpty(t, resp.Header.Get(header), header)
		}
	}
	resp, _ := get(t, s.URL+"/x/none", nil)
	require.Equal(t, 404, resp.StatusCode)
	resp, _ = get(t, s.URL+"/x/", func(r *http.Request) { r.Method = "POST" })
	require.Equal(t, 405, resp.StatusCode)
	resp, body := get(t, s.URL+"/x/events", func(r *http.Request) { r.Method = "HEAD" })
	require.Equal(t, 200, resp.StatusCode)
	require.Empty(t, body)
}

// TestSnapshot asks for parts of the sessions.
func TestSnapshot(t *testing.T) {
	leakcheck.Check(t)
	app := newApp(t)
	ln := listen(t, app, "svc/snapshot")
	for range 3 {
		connect(t, app, ln)
	}
	s := newServer(t, Guarded(app, open))
	ask := func(query string) (a snapshotAnswer) {
		resp, body := get(t, s.URL+"/snapshot"+query, nil)
		require.Equal(t, 200, resp.StatusCode)
		require.NoError(t, json.Unmarshal([]byte(body), &a))
		require.Equal(t, 6, a.Total)
		require.Equal(t, app.Snapshot().App, a.App)
		return a
	}
	all := ask("")
	require.Len(t, all.Connections, 6)
	require.Len(t, all.Listeners, 1)
	require.Len(t, all.Pairs, 1)
	require.Zero(t, all.Omitted)
	part := ask("?offset=4&limit=1")
	require.Equal(t, 4, part.Offset)
	require.Len(t, part.Connections, 1)
	require.Equal(t, all.Connections[4].Remote, part.Connections[0].Remote)
	require.Empty(t, ask("?offset=7").Connections)
	require.Empty(t, ask("?limit=0").Connections)
	require.Len(t, ask("?limit=99999999").Connections, 6)
	for _, query := range []string{"?offset=-1", "?limit=x", "?limit=99999999999999999999"} {
		resp, _ := get(t, s.URL+"/snapshot"+query, nil)
		require.Equal(t, 400, resp.StatusCode, query)
	}
}

// TestSnapshotBounds has more in a snapshot than there may be in an answer.
func TestSnapshotBounds(t *testing.T) {
	h := newHandler(nil)
	h.snapshot = func() ctnet.Snapshot {
		return ctnet.Snapshot{
			Connections: make([]ctnet.ConnInfo, maxLimit+10), Omitted: 5,
			Pairs: make([]ctnet.PairInfo, maxPairs+1), Listeners: make([]ctnet.ListenerInfo, maxListeners+2),
		}
	}
	h.guard = guardFunc(open)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/snapshot?limit=100000", nil))
	var a snapshotAnswer
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.Len(t, a.Connections, maxLimit)
	require.Equal(t, maxLimit+15, a.Total)
	require.Equal(t, 5, a.Omitted)
	require.Len(t, a.Pairs, maxPairs)
	require.Len(t, a.Listeners, maxListeners)
	require.Equal(t, []int{1, 2}, []int{a.PairsOmitted, a.ListenersOmitted})
}

// TestSnapshotBusy has more requests at a time than there may be.
func TestSnapshotBusy(t *testing.T) {
	leakcheck.Check(t)
	h := newHandler(newApp(t))
	h.guard = guardFunc(open)
	s := newServer(t, h)
	for range maxBusy {
		h.busy <- struct{}{}
	}
	for _, what := range []string{"/snapshot", "/past?id=1"} {
		resp, _ := get(t, s.URL+what, nil)
		require.Equal(t, 503, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		<-h.busy
		resp, _ = get(t, s.URL+what, nil)
		require.Equal(t, 200, resp.StatusCode)
		h.busy <- struct{}{}
	}
}

// TestPast asks what happened at a session.
func TestPast(t *testing.T) {
	leakcheck.Check(t)
	app := newApp(t)
	c, _ := connect(t, app, listen(t, app, "svc/past"))
	require.NoError(t, c.(*ctnet.Conn).CloseWrite())
	s := newServer(t, Guarded(app, open))
	ask := func(id string) (ends []ctnet.EndEvents) {
		resp, body := get(t, s.URL+"/past?id="+id, nil)
		require.Equal(t, 200, resp.StatusCode)
		require.NoError(t, json.Unmarshal([]byte(body), &ends))
		return ends
	}
	ends := ask(app.Snapshot().Connections[0].ID)
	require.Len(t, ends, 2)
	var kinds []ctnet.EventKind
	for _, e := range ends {
		for _, v := range e.Events {
			kinds = append(kinds, v.Kind)
		}
	}
	require.ElementsMatch(t, []ctnet.EventKind{
		ctnet.EventDialed, ctnet.EventWriteClosed, ctnet.EventFinSent, ctnet.EventAccepted, ctnet.EventFinSeen,
	}, kinds)
	require.Empty(t, ask("9.9.9.9"))
	require.Empty(t, ask(""))
}

// A stream is an event stream as a client reads it.
type stream struct {
	t      testing.TB
	body   io.ReadCloser
	lines  *bufio.Reader
	cancel func()
}

// events opens an event stream.
func events(t testing.TB, url string) *stream {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", url+"/events", nil)
	require.NoError(t, err)
	resp, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	s := &stream{t, resp.Body, bufio.NewReaderSize(resp.Body, 1<<16), cancel}
	t.Cleanup(s.close)
	return s
}

func (s *stream) close() {
	s.cancel()
	s.body.Close()
}

// A told is a message as a client decodes it.
type told struct {
	message
	Add, Set [][]any
}

// next returns the next event. ok is false at the stream's end.
func (s *stream) next() (name string, m told, ok bool) {
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return name, m, false
		}
		line = strings.TrimSuffix(line, "\n")
		switch field, value, _ := strings.Cut(line, ": "); field {
		case "event":
			name = value
		case "data":
			require.NoError(s.t, json.Unmarshal([]byte(value), &m))
		case "":
			return name, m, true
		}
	}
}

// until reads events until one is as is wanted.
func (s *stream) until(want func(told) bool) told {
	for {
		name, m, ok := s.next()
		require.True(s.t, ok)
		require.Equal(s.t, "change", name)
		require.Nil(s.t, m.App)
		if want(m) {
			return m
		}
	}
}

// quickHandler is a handler without a guard, whose stream has a message every few ms.
func quickHandler(app *ctnet.App) *handler {
	h := newHandler(app)
	h.guard = guardFunc(open)
	h.hub.interval = 5 * time.Millisecond
	return h
}

// Positions in a row of what changes.
const (
	firstColumns = 11
	rowState     = firstColumns
	rowLocal     = firstColumns + 1
	rowNums      = firstColumns + numBit
)

// apply changes a row as a client does.
func apply(row, set []any) {
	mask := int(set[1].(float64))
	set = set[2:]
	for i := range numBit + columns {
		if mask&(1<<i) == 0 {
			continue
		}
		if i >= numBit+counters {
			row[firstColumns+i] = row[firstColumns+i].(float64) + set[0].(float64)
		} else {
			row[firstColumns+i] = set[0]
		}
		set = set[1:]
	}
}

// TestStream follows sessions from their Dials to their ends.
func TestStream(t *testing.T) {
	leakcheck.Check(t)
	server, client := newApp(t), newApp(t)
	ln := listen(t, server, "svc/stream")
	c, s := connect(t, client, ln)
	web := newServer(t, quickHandler(server))
	st := events(t, web.URL)
	name, m, ok := st.next()
	require.True(t, ok)
	require.Equal(t, "full", name)
	snap := server.Snapshot()
	require.Equal(t, snap.App, m.App.App)
	require.Equal(t, snap.PID, m.App.PID)
	require.Equal(t, snap.Listeners, m.Listeners)
	require.NotNil(t, m.Fallbacks)
	require.Equal(t, 1, m.Totals.Sessions)
	require.Len(t, m.Pairs, 1)
	require.Equal(t, ctnet.RoleListened, m.Pairs[0].Role)
	require.Len(t, m.Add, 1)
	row := m.Add[0]
	require.Len(t, row, rowNums+columns)
	info := snap.Connections[0]
	require.Equal(t, []any{info.ID, "ct", info.Remote, info.Pair}, row[1:5])
	require.Equal(t, []any{"ESTABLISHED", info.Local}, row[rowState:rowNums])

	// What is read and written is told once, as a difference.
	_, err := c.Write(make([]byte, 1000))
	require.NoError(t, err)
	m = st.until(func(m told) bool { return len(m.Set) > 0 })
	require.Equal(t, row[0], m.Set[0][0])
	apply(row, m.Set[0])
	for row[rowNums+recvQueue].(float64) < 1000 {
		m = st.until(func(m told) bool { return len(m.Set) > 0 })
		apply(row, m.Set[0])
	}
	_, err = io.ReadFull(s, make([]byte, 1000))
	require.NoError(t, err)
	_, err = s.Write(make([]byte, 10))
	require.NoError(t, err)
	is := server.Snapshot().Connections[0]
	nums := numbers(&is)
	require.EqualValues(t, 1000, nums[recvBytes])
	require.EqualValues(t, 10, nums[sendBytes])
	st.until(func(m told) bool {
		if len(m.Set) > 0 {
			apply(row, m.Set[0])
		}
		for i := range nums {
			if i != moved && float64(nums[i]) != row[rowNums+i].(float64) {
				return false
			}
		}
		return true
	})

	// Once more: it is the difference.
	_, err = c.Write(make([]byte, 500))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 500))
	require.NoError(t, err)
	for row[rowNums+recvBytes].(float64) < 1500 {
		m = st.until(func(m told) bool { return len(m.Set) > 0 })
		apply(row, m.Set[0])
	}
	require.EqualValues(t, 1500, row[rowNums+recvBytes])
	last := row[rowNums+moved].(float64)
	require.InDelta(t, time.Now().UnixMilli(), last, 10_000)

	// A state, another session, another listener, and all of their ends.
	require.NoError(t, c.(*ctnet.Conn).CloseWrite())
	st.until(func(m told) bool {
		if len(m.Set) > 0 {
			apply(row, m.Set[0])
		}
		return row[rowState] == "CLOSE-WAIT"
	})
	require.Equal(t, last, row[rowNums+moved], "no bytes have moved")
	c2, s2 := connect(t, client, ln)
	m = st.until(func(m told) bool { return len(m.Add) > 0 })
	second := m.Add[0]
	require.NotEqual(t, row[0], second[0])
	other := listen(t, server, "svc/other")
	m = st.until(func(m told) bool { return m.Listeners != nil })
	require.Len(t, m.Listeners, 2)
	other.Close()
	m = st.until(func(m told) bool { return m.Listeners != nil })
	require.Len(t, m.Listeners, 1)
	c2.Close()
	s2.Close()
	m = st.until(func(m told) bool { return len(m.Del) > 0 })
	require.EqualValues(t, []int{int(second[0].(float64))}, m.Del)
	client.Close()
	s.Close()
	gone := 0
	m = st.until(func(m told) bool { gone += len(m.PairsGone); return gone > 0 })
	require.Zero(t, m.Totals.Sessions)

	// A new client gets what there is now.
	_, m, ok = events(t, web.URL).next()
	require.True(t, ok)
	require.Empty(t, m.Add)
	require.Empty(t, m.Pairs)
}

// TestQuiet makes sure that sessions on which nothing happens are not told of again, though their
// readers sleep, and their times go on.
func TestQuiet(t *testing.T) {
	leakcheck.Check(t)
	app := newApp(t)
	ln := listen(t, app, "svc/quiet")
	c, _ := connect(t, app, ln)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Read(make([]byte, 1))
	}()
	web := newServer(t, quickHandler(app))
	st := events(t, web.URL)
	_, m, _ := st.next()
	require.Len(t, m.Add, 2)
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(app.Snapshot().Connections, func(c ctnet.ConnInfo) bool { return c.Recv.Asleep })
	}, leakcheck.Patience, time.Millisecond)
	st.until(func(m told) bool { return true }) // what there was before
	st.until(func(m told) bool { return true })
	for range 10 {
		m = st.until(func(m told) bool { return true })
		require.Empty(t, m.Set)
	}
	c.Close()
	<-done
}

// TestClients opens as many pages as there may be, and one more. No goroutine is left when they have
// gone.
func TestClients(t *testing.T) {
	leakcheck.Check(t)
	h := quickHandler(newApp(t))
	h.hub.interval = time.Hour // so that nobody is dropped as he is slow
	web := newServer(t, h)
	before := leakcheck.Now()
	for range 2 {
		var all []*stream
		for range maxClients {
			all = append(all, events(t, web.URL))
		}
		for _, s := range all {
			_, _, ok := s.next()
			require.True(t, ok)
		}
		resp, _ := get(t, web.URL+"/events", nil)
		require.Equal(t, 503, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		resp, _ = get(t, web.URL+"/events", func(r *http.Request) { r.Method = "HEAD" })
		require.Equal(t, 200, resp.StatusCode, "it is no client")
		for _, s := range all {
			s.close()
		}
		leakcheck.RequireBack(t, before)
		require.Nil(t, h.hub.stop)
	}
}

// TestSlowClient has a client that reads nothing: it is dropped, and the others are not.
func TestSlowClient(t *testing.T) {
	leakcheck.Check(t)
	app := newApp(t)
	h := quickHandler(app)
	// The program's name makes the messages large: they fill the socket.
	h.hub.snapshot = func() ctnet.Snapshot {
		s := app.Snapshot()
		for i := range 500 {
			s.Listeners = append(s.Listeners, ctnet.ListenerInfo{Network: "ct", Address: strings.Repeat("x", 1000), Waiting: i + int(time.Now().UnixNano()%1000)})
		}
		return s
	}
	web := newServer(t, h)
	c, err := net.Dial("tcp", web.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	fmt.Fprint(c, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	clients := func() int {
		h.hub.mu.Lock()
		defer h.hub.mu.Unlock()
		return len(h.hub.clients)
	}
	require.Eventually(t, func() bool { return clients() == 1 }, leakcheck.Patience, time.Millisecond)
	quick := events(t, web.URL)
	dropped := false
	for end := time.Now().Add(leakcheck.Patience); !dropped && time.Now().Before(end); {
		_, _, ok := quick.next()
		require.True(t, ok)
		dropped = clients() == 1
	}
	require.True(t, dropped)
	_, _, ok := quick.next()
	require.True(t, ok)
	c.Close()
}

// TestShutdown makes sure that a page that is open does not keep a server from its end.
func TestShutdown(t *testing.T) {
	leakcheck.Check(t)
	h := quickHandler(newApp(t))
	web := newServer(t, h)
	other := newServer(t, h)
	st, st2 := events(t, web.URL), events(t, other.URL)
	_, _, ok := st.next()
	require.True(t, ok)
	_, _, ok = st2.next()
	require.True(t, ok)
	_, _, ok = events(t, web.URL).next()
	require.True(t, ok)
	hooks := func(s *httptest.Server) int { return reflect.ValueOf(s.Config).Elem().FieldByName("onShutdown").Len() }
	require.Equal(t, hooks(other), hooks(web), "a server has one for all streams")
	ctx, cancel := context.WithTimeout(t.Context(), leakcheck.Patience)
	defer cancel()
	require.NoError(t, web.Config.Shutdown(ctx))
	for ok {
		_, _, ok = st.next()
	}
	_, _, ok = st2.next()
	require.True(t, ok, "the page of another server")
	require.Len(t, h.hub.servers, 2)
}

// TestNoDeadline serves where a write can't be bounded.
func TestNoDeadline(t *testing.T) {
	h := quickHandler(newApp(t))
	looked := false
	h.hub.snapshot = func() (s ctnet.Snapshot) { looked = true; return s }
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
	require.Equal(t, http.StatusNotImplemented, w.Code)
	require.False(t, looked)
}

// TestRest bounds the share of a CPU that snapshots take.
func TestRest(t *testing.T) {
	h := hub{interval: time.Second}
	require.Equal(t, 990*time.Millisecond, h.rest(10*time.Millisecond))
	require.Equal(t, 1800*time.Millisecond, h.rest(200*time.Millisecond))
}

// TestTableBounds gives a table more than it shows.
func TestTableBounds(t *testing.T) {
	s := ctnet.Snapshot{Omitted: 5}
	for i := range maxSessions + 10 {
		s.Connections = append(s.Connections, ctnet.ConnInfo{ID: fmt.Sprint(i), Remote: "r"})
	}
	for i := range maxPairs + 2 {
		s.Pairs = append(s.Pairs, ctnet.PairInfo{ID: fmt.Sprint(i)})
	}
	s.Listeners = make([]ctnet.ListenerInfo, maxListeners+3)
	s.Fallbacks = make([]ctnet.FallbackInfo, maxFallbacks+4)
	var tab table
	read := func(b []byte) (m told) {
		require.NoError(t, json.Unmarshal(b, &m))
		return m
	}
	m := read(tab.update(&s, time.Now(), 0))
	require.Len(t, m.Add, maxSessions)
	require.Equal(t, maxSessions+15, m.Totals.Sessions)
	require.Equal(t, 15, m.Totals.Omitted)
	require.Len(t, m.Pairs, maxPairs)
	require.Len(t, m.Listeners, maxListeners)
	require.Len(t, m.Fallbacks, maxFallbacks)
	require.Equal(t, []int{2, 3, 4}, []int{m.Totals.PairsOmitted, m.Totals.ListenersOmitted, m.Totals.FallbacksOmitted})

	// As some end, others take their places.
	s.Connections = s.Connections[4:]
	m = read(tab.update(&s, time.Now(), 0))
	require.Equal(t, []int{1, 2, 3, 4}, m.Del)
	require.Len(t, m.Add, 4)
	require.Equal(t, 11, m.Totals.Omitted)
	require.Nil(t, m.Listeners)
	require.Nil(t, m.Pairs)

	m = read(tab.full(&identity{}))
	require.Len(t, m.Add, maxSessions)
	require.Len(t, m.Pairs, maxPairs)
	require.Len(t, m.Listeners, maxListeners)
}

// TestHostileNames has names that other processes choose: they are JSON, in one line.
func TestHostileNames(t *testing.T) {
	name := "a\"b\\\n\r\u2028</script><img src=x>\x80é"
	s := ctnet.Snapshot{Connections: []ctnet.ConnInfo{{ID: "1", Remote: name, Local: name, Recv: ctnet.FlowInfo{Bytes: 1<<64 - 1}}}}
	var tab table
	b := tab.update(&s, time.Now(), 0)
	require.NotContains(t, string(b), "\n")
	require.NotContains(t, string(b), "\r")
	var m told
	require.NoError(t, json.Unmarshal(b, &m))
	want := strings.ToValidUTF8(name, "\uFFFD")
	require.Equal(t, want, m.Add[0][3])
	require.Equal(t, want, m.Add[0][rowLocal])
	require.Equal(t, float64(1<<53), m.Add[0][rowNums+recvBytes])

	for _, part := range []string{"\n", "\"", "\\", "<", "\x7f", "\u2028"} {
		b := appendString(nil, "a"+part)
		var s string
		require.NoError(t, json.Unmarshal(b, &s), "%q", b)
		require.Equal(t, "a"+part, s)
		require.NotContains(t, string(b), "<")
	}
}

// TestSameTwice has a snapshot with two sessions that can't be told apart: one is shown.
func TestSameTwice(t *testing.T) {
	s := ctnet.Snapshot{Connections: []ctnet.ConnInfo{{ID: "1", Recv: ctnet.FlowInfo{Ops: 1}}, {ID: "1", Recv: ctnet.FlowInfo{Ops: 2}}}}
	var tab table
	for i := range 3 {
		var m told
		require.NoError(t, json.Unmarshal(tab.update(&s, time.Now(), 0), &m))
		require.Equal(t, i == 0, len(m.Add) == 1)
		require.Empty(t, m.Set)
		require.Equal(t, 1, m.Totals.Omitted)
	}
}
