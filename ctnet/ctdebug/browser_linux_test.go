package ctdebug

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
)

var pictures = flag.Bool("ctdebug.pictures", false, "TestPage writes the pictures in docs/ctdebug")

// hostileName is what a page that takes text for markup would run.
const hostileName = `<img src=x onerror="document.title='broken'">`

// A fleet is an application with connections to several others, all of them in this process.
type fleet struct {
	app   *ctnet.App
	names map[string]string // of the others' programs, by their application's identity
	conns [][2]net.Conn     // both ends; the second one is the application's
	buf   []byte

	stopped atomic.Bool // the page is told that ledger is
}

// newFleet makes an application with a number of sessions.
func newFleet(t testing.TB, sessions int) *fleet {
	f := &fleet{app: newApp(t), names: make(map[string]string), buf: make([]byte, 1<<16)}
	main := listen(t, f.app, "orders/main")
	admin := listen(t, f.app, "orders/admin")
	others := []struct {
		program string
		share   float64
		dialed  bool // by the application
		ln      net.Listener
		buffer  int
	}{
		{"/usr/bin/gateway", 0.40, false, main, 64 << 10},
		{"/usr/bin/checkout", 0.25, false, main, 64 << 10},
		{"/usr/bin/mobile-api", 0.20, false, main, 64 << 10},
		{"/usr/bin/batchd", 0.01, false, admin, 1 << 20},
		{"/usr/bin/ledger", 0.08, true, nil, 64 << 10},
		{"/usr/bin/stock", 0.05, true, nil, 64 << 10},
		{"/usr/bin/redis-ct", 0.01, true, nil, 1 << 20},
	}
	for _, o := range others {
		other := newApp(t)
		f.names[other.Snapshot().App] = o.program
		from, ln := other, o.ln
		if o.dialed {
			from, ln = f.app, listen(t, other, filepath.Base(o.program)+"/main")
		}
		d := ctnet.Dialer{App: from, ReadBuffer: o.buffer, WriteBuffer: o.buffer}
		for range int(o.share * float64(sessions)) {
			c, err := d.Dial("ct", ln.Addr().String())
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			if o.dialed {
				c, s = s, c
			}
			f.conns = append(f.conns, [2]net.Conn{c, s})
		}
	}
	return f
}

// close closes all connections.
func (f *fleet) close() {
	for _, c := range f.conns {
		c[0].Close()
		c[1].Close()
	}
}

// move has some bytes go both ways on a connection. It waits for nobody.
func (f *fleet) move(t testing.TB, i int) {
	in, out := rand.IntN(3000)+1, rand.IntN(600)+1
	c, s := f.conns[i][0], f.conns[i][1]
	for _, w := range []struct {
		from, to net.Conn
		n        int
	}{{c, s, in}, {s, c, out}} {
		_, err := w.from.Write(f.buf[:w.n])
		require.NoError(t, err)
		if rand.IntN(40) == 0 && w.n < 500 {
			w.n /= 2 // the rest waits
		}
		for w.n > 0 {
			n, err := w.to.Read(f.buf[:w.n])
			require.NoError(t, err)
			w.n -= n
		}
	}
}

// drive has bytes move on some of the connections, all over each second, until stop is closed.
func (f *fleet) drive(t testing.TB, share float64, stop chan struct{}) {
	const steps = 20
	n := int(share * float64(len(f.conns)))
	ticker := time.NewTicker(time.Second / steps)
	defer ticker.Stop()
	at := 0
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		for range n / steps {
			at = (at + 1) % n
			f.move(t, at*7919%len(f.conns))
		}
	}
}

// slowReader has a writer at one end of a connection wait for the reader at the other, which takes some
// bytes at an interval.
func slowReader(all *sync.WaitGroup, c [2]net.Conn, interval time.Duration, stop chan struct{}) {
	all.Go(func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := c[1].Write(b); err != nil {
				return
			}
		}
	})
	all.Go(func() {
		b := make([]byte, 16<<10)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				c[0].Close()
				return
			case <-ticker.C:
				c[0].Read(b)
			}
		}
	})
}

// serve serves the page of a fleet, in which the others have their names.
func (f *fleet) serve(t testing.TB, interval time.Duration) *httptest.Server {
	h := newHandler(f.app)
	h.hub.interval = interval
	h.guard = &ownUser{look: f.app.Snapshot} // as Chromium asks from this host and user
	h.snapshot = func() ctnet.Snapshot {
		s := f.app.Snapshot()
		s.Program, s.Exe = "orders", "/usr/bin/orders"
		for i := range s.Pairs {
			if name := f.names[s.Pairs[i].PeerApp]; name != "" {
				s.Pairs[i].PeerExe = name
				s.Pairs[i].PeerStopped = f.stopped.Load() && name == "/usr/bin/ledger"
			}
		}
		return s
	}
	h.hub.snapshot = h.snapshot
	return newServer(t, h)
}

// TestPage looks at the page with some sessions: what it shows, sorts and filters, in light and dark,
// and on a phone.
func TestPage(t *testing.T) {
	findChromium(t)
	leakcheck.Check(t)
	f := newFleet(t, 600)
	defer f.close()
	// A fallback to the kernel's way.
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	c, err := (&ctnet.Dialer{App: f.app}).Dial("tcp", plain.Addr().String())
	require.NoError(t, err)
	defer c.Close()

	stop := make(chan struct{})
	var all sync.WaitGroup
	whole := f.conns
	defer func() { (&fleet{conns: whole}).close() }()
	n := len(whole)
	stuck, quiet, slow := whole[n-8], whole[n-7], whole[n-6:]
	f.conns = whole[:n-8]
	all.Go(func() { f.drive(t, 0.7, stop) })
	for i, c := range slow {
		slowReader(&all, c, time.Duration(i+2)*10*time.Millisecond, stop)
	}
	all.Go(func() {
		for {
			if _, err := stuck[1].Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	defer all.Wait()
	defer stuck[0].Close()
	defer close(stop)

	b := startBrowser(t)
	b.size(1280, 760, false)
	b.colours("light")
	interval := 200 * time.Millisecond
	if *pictures {
		interval = time.Second
	}
	server := f.serve(t, interval)
	url := server.URL + "/"
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	want := len(whole)
	b.await(fmt.Sprintf(`document.readyState === "complete" && document.querySelector("#count").textContent === "%d sessions"`, want))
	require.Equal(t, "live", eval[string](b, `document.querySelector("#live").textContent`))
	require.True(t, strings.HasPrefix(eval[string](b, `document.title`), "orders "))

	// Rows are those of the snapshot; there are elements only for those that can be seen.
	visible := `[...document.querySelectorAll(".row:not([hidden])")].sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)`
	texts := func(column string) []string {
		return eval[[]string](b, visible+`.map((r) => r.querySelector(".c-`+column+`").textContent)`)
	}
	require.Less(t, eval[int](b, `document.querySelectorAll(".row").length`), 60)
	known := make(map[string]bool)
	for _, c := range f.app.Snapshot().Connections {
		known[c.Local+" "+c.Remote] = true
	}
	addresses := eval[[]string](b, visible+`.map((r) => r.querySelector(".c-local").title + " " + r.querySelector(".c-remote").title)`)
	require.Greater(t, len(addresses), 10)
	for _, a := range addresses {
		require.True(t, known[a], a)
	}

	// A click on a heading sorts by it, another one the other way.
	for _, dir := range []string{"ascending", "descending"} {
		eval[any](b, `document.querySelector("#head .c-peer button").click()`)
		require.Equal(t, dir, eval[string](b, `document.querySelector("#head .c-peer").getAttribute("aria-sort")`))
		peers := texts("peer")
		wantFirst := "batchd"
		if dir == "descending" {
			wantFirst = "stock"
		}
		require.True(t, strings.HasPrefix(peers[0], wantFirst), peers[0])
	}
	eval[any](b, `document.querySelector("#head .c-rate button").click()`)
	b.await(`rows.size && shown[0].recvRate + shown[0].sendRate >= shown[50].recvRate + shown[50].sendRate && shown[50].recvRate > 0`)
	b.await(`tick > 12`)

	// A writer that waits for space is found.
	eval[any](b, `document.querySelector("#head .c-stall button").click()`)
	b.await(`shown[0].stall > 0.5 && document.querySelector('.stall[data-hot="true"]')`)
	// So is one whose reader does nothing, though nothing is told of it any more.
	b.await(`[...rows.values()].some((r) => r.stall > 0.9 && r.sendRate === 0 && r.at < clock)`)
	eval[any](b, `document.querySelector("#head .c-rate button").click()`)

	// The filter.
	typed := func(s string) {
		text, err := json.Marshal(s)
		require.NoError(t, err)
		eval[any](b, fmt.Sprintf(`(() => { const f = document.querySelector("#filter"); f.value = %s; f.dispatchEvent(new Event("input")); })()`, text))
	}
	for text, n := range map[string]int{
		"ledger": 48, "LEDGER state:est": 48, "ledger state:half": 0, "ledger stock": 0, "batchd/": 0,
		fmt.Sprintf("pid:%d", os.Getpid()): want, "pid:1": 0, "local:orders/admin": 6, "net:ct worker:99": 0,
	} {
		typed(text)
		b.await(fmt.Sprintf(`shown.length === %d && document.querySelector("#none").hidden === %v`, n, n > 0))
	}
	typed("")
	b.await(fmt.Sprintf(`shown.length === %d`, want))

	// A peer is stopped, and goes on.
	typed("stopped")
	b.await(`shown.length === 0`)
	f.stopped.Store(true)
	b.await(`shown.length === 48 && document.querySelector(".row .c-peer").textContent.endsWith("(stopped)")`)
	eval[any](b, `document.querySelector("#tab-peers").click()`)
	b.await(`[...document.querySelectorAll("#peers .peer")].filter((n) => n.textContent.includes("stopped")).length === 1`)
	f.stopped.Store(false)
	eval[any](b, `document.querySelector("#tab-sessions").click()`)
	b.await(`shown.length === 0`)
	typed("")
	b.await(fmt.Sprintf(`shown.length === %d`, want))

	// The page goes on: a state, a session that is gone.
	require.NoError(t, quiet[0].(*ctnet.Conn).CloseWrite())
	b.await(`document.querySelector("#states").textContent.includes("CLOSE-WAIT1")`)
	ln := listen(t, f.app, "svc/late")
	c2, s2 := connect(t, f.app, ln)
	ln.Close()
	b.await(fmt.Sprintf(`rows.size === %d && [...rows.values()].some((r) => r.remote === "svc/late")`, want+2))
	c2.Close()
	s2.Close()
	b.await(fmt.Sprintf(`rows.size === %d`, want))

	// Details.
	eval[any](b, visible+`[3].click()`)
	b.await(`!document.querySelector("#detail").hidden && document.querySelectorAll("#detail tr").length > 8`)
	b.await(`[...document.querySelectorAll("#past td:nth-child(2)")].map((e) => e.textContent).some((s) => s === "dialed" || s === "accepted")`)
	// The writer whose reader does nothing says since when it waits.
	eval[any](b, `open([...rows.values()].find((r) => r.stall > 0.9 && r.sendRate === 0).n)`)
	b.await(`document.querySelector("#past td:nth-child(2)")?.textContent === "waits for space"`)

	picture := func(name string) {
		if *pictures {
			eval[any](b, `new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))`)
			require.NoError(t, os.MkdirAll("../../docs/ctdebug", 0o755))
			require.NoError(t, os.WriteFile("../../docs/ctdebug/"+name+".png", fewColours(t, b.picture()), 0o644))
		}
	}
	picture("detail")
	eval[any](b, `document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}))`)
	require.True(t, eval[bool](b, `document.querySelector("#detail").hidden`))

	// The other views.
	if *pictures {
		b.await(`tick > 45`)
	}
	picture("sessions")
	open := func(view string) {
		eval[any](b, `document.querySelector("#tab-`+view+`").click()`)
		require.False(t, eval[bool](b, `document.querySelector("#`+view+`").hidden`))
	}
	open("peers")
	nodes := eval[[]string](b, `[...document.querySelectorAll("#peers .peer .name")].map((n) => n.textContent.split(" ")[0])`)
	require.ElementsMatch(t, []string{"gateway", "checkout", "mobile-api", "batchd", "ledger", "stock", "redis-ct"}, nodes)
	picture("peers")
	open("memory")
	require.Equal(t, 8, eval[int](b, `document.querySelectorAll("#memory .card").length`)) // and inside
	require.Positive(t, eval[int](b, `[...document.querySelectorAll("#memory canvas")].reduce((n, c) => n + c.map.at.size, 0)`))
	picture("memory")
	open("workers")
	require.Positive(t, eval[int](b, `document.querySelectorAll("#workers td").length`))
	open("kernel")
	require.Contains(t, eval[string](b, `document.querySelector("#kernel").textContent`), string(ctnet.ReasonAbsent))
	open("listeners")
	hostile := listen(t, f.app, hostileName)
	b.await(`document.querySelectorAll("#listeners td.mono").length === 3`)
	require.Contains(t, eval[[]string](b, `[...document.querySelectorAll("#listeners td.mono")].map((e) => e.textContent)`), hostileName)
	require.False(t, eval[bool](b, `Boolean(document.querySelector("#listeners img"))`))

	hostile.Close()

	// Dark, in which text and background change places.
	open("sessions")
	bright := func(what string) int {
		return eval[int](b, `getComputedStyle(document.body).`+what+`.match(/\d+/g).slice(0, 3).reduce((n, v) => n + Number(v), 0)`)
	}
	require.Greater(t, bright("backgroundColor"), 600)
	b.colours("dark")
	require.Less(t, bright("backgroundColor"), 150)
	require.Greater(t, bright("color"), 600)
	b.await(`colours.text === getComputedStyle(document.documentElement).getPropertyValue("--text").trim()`)
	picture("dark")

	// A phone: nothing is wider than the screen, and rows have two lines.
	b.size(390, 844, true)
	b.await(`innerWidth === 390`)
	for _, view := range []string{"peers", "memory", "workers", "listeners", "kernel", "sessions"} {
		open(view)
		require.LessOrEqual(t, eval[int](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)`), 390, view)
	}
	require.Equal(t, 58, eval[int](b, visible+`[0].offsetHeight`))
	require.Positive(t, eval[int](b, visible+`[0].querySelector(".line2").offsetHeight`))
	require.LessOrEqual(t, eval[int](b, visible+`[0].getBoundingClientRect().right`), 390)
	b.colours("light")
	picture("phone")
	open("peers")
	picture("phone-peers")

	// A page that waits goes on when its server does.
	open("sessions")
	eval[any](b, `document.querySelector("#pause").click()`)
	require.Equal(t, "paused", eval[string](b, `document.querySelector("#live").textContent`))
	eval[any](b, `document.querySelector("#pause").click()`)
	b.await(`document.querySelector("#live").textContent === "live"`)

	// It has asked its own server only, and nothing was wrong in it.
	for _, sent := range b.happened("Network.requestWillBeSent") {
		var r struct{ Request struct{ URL string } }
		require.NoError(t, json.Unmarshal([]byte(sent), &r))
		require.True(t, strings.HasPrefix(r.Request.URL, url) || strings.HasPrefix(r.Request.URL, "data:"), r.Request.URL)
	}
	require.Empty(t, b.happened("Runtime.exceptionThrown"))
	require.Empty(t, b.happened("Log.entryAdded"))

	// A stream that breaks is opened anew.
	eval[any](b, `window.was = source, 0`)
	server.CloseClientConnections()
	b.await(`source !== was && document.querySelector("#live").textContent === "live"`)
	require.Equal(t, want, eval[int](b, `rows.size`))
}

// frames is JavaScript that scrolls through the sessions for some ms, by some pixels a frame, and returns
// the times between frames in ms, sorted.
const frames = `new Promise((done) => {
	const grid = document.querySelector("#grid"), times = [];
	let last = performance.now(), way = 1;
	const end = last + %d, pixels = %d;
	const step = (now) => {
		times.push(now - last);
		last = now;
		if (grid.scrollTop + grid.clientHeight >= grid.scrollHeight - 2) way = -1;
		if (grid.scrollTop <= 0) way = 1;
		grid.scrollTop += way * pixels;
		if (now < end) requestAnimationFrame(step);
		else done(times.slice(1).sort((a, b) => a - b).map((t) => Math.round(t * 10) / 10));
	};
	requestAnimationFrame(step);
})`

// TestManySessions measures the page with 10,000 sessions: the time between frames while it scrolls, what
// an update takes and how many bytes it has, with none, some and all of the sessions moving.
func TestManySessions(t *testing.T) {
	findChromium(t)
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	leakcheck.Check(t)
	if bits.UintSize == 32 {
		t.Skip("10,000 sessions don't fit into the address space that an application has on 32-bit systems")
	}
	f := newFleet(t, 10_000)
	defer f.close()
	b := startBrowser(t)
	b.size(1440, 900, false)
	b.call("Page.navigate", map[string]any{"url": f.serve(t, time.Second).URL + "/"}, nil)
	b.await(`document.readyState === "complete" && document.querySelector("#count").textContent === "10,000 sessions"`)
	t.Logf("all of it: %d bytes, shown in %.1f ms", eval[int](b, "cost.bytes"), eval[float64](b, "cost.apply"))
	shares, length := []float64{0, 1}, 1000
	if os.Getenv("CTNET_LONG_TEST") != "" {
		shares, length = []float64{0, 0.01, 0.1, 1}, 10_000
	}
	at := func(times []float64, q float64) float64 { return times[int(q*float64(len(times)-1))] }
	idle := eval[[]float64](b, fmt.Sprintf(frames, length/2, 0))
	t.Logf("a page that stands still: frames p50 %.1f ms, p99 %.1f ms, longest %.1f ms", at(idle, 0.5), at(idle, 0.99), at(idle, 1))
	for _, share := range shares {
		stop := make(chan struct{})
		var all sync.WaitGroup
		if share > 0 {
			all.Go(func() { f.drive(t, share, stop) })
		}
		b.await(fmt.Sprintf("cost.updates >= %d", eval[int](b, "cost.updates")+3))
		before := eval[[]float64](b, "[cost.total, cost.updates]")
		times := eval[[]float64](b, fmt.Sprintf(frames, length, 250))
		b.await(fmt.Sprintf("cost.updates >= %v", before[1]+2))
		after := eval[[]float64](b, "[cost.total, cost.updates]")
		apply := eval[float64](b, "cost.apply")
		script := eval[float64](b, `(() => {
			const grid = document.querySelector("#grid"), start = performance.now();
			for (let i = 0; i < 50; i++) { grid.scrollTop = i * 700; drawRows(); }
			return (performance.now() - start) / 50;
		})()`)
		close(stop)
		all.Wait()
		bytes := int((after[0] - before[0]) / max(1, after[1]-before[1]))
		t.Logf("%4.0f %% move: frames %d, p50 %.1f ms, p99 %.1f ms, longest %.1f ms, script %.1f ms; %d updates of %d bytes, the last shown in %.1f ms",
			share*100, len(times), at(times, 0.5), at(times, 0.99), at(times, 1), script, int(after[1]-before[1]), bytes, apply)
		// A table with an element for each session takes seconds. Other work on the machine, and a Chromium
		// that has no GPU, make these bounds generous.
		require.Less(t, at(times, 0.5), 150.0)
		require.Less(t, script, 100.0)
		require.Less(t, bytes, 1500+int(share*10_000*80))
	}
	require.Less(t, eval[int](b, `document.querySelectorAll(".row").length`), 60)
	require.Empty(t, b.happened("Runtime.exceptionThrown"))
}

// fewColours returns a PNG with 256 colours at most, which is a third as large: the most frequent ones,
// and for each other one that is near.
func fewColours(t testing.TB, data []byte) []byte {
	from, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	counts := make(map[color.RGBA]int)
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	size := from.Bounds()
	for y := range size.Dy() {
		for x := range size.Dx() {
			counts[at(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range all[:min(256, len(all))] {
		palette = append(palette, c)
	}
	nearest := make(map[color.RGBA]uint8)
	for c := range counts {
		nearest[c] = uint8(palette.Index(c))
	}
	to := image.NewPaletted(size, palette)
	for y := range size.Dy() {
		for x := range size.Dx() {
			to.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var b bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, to))
	return b.Bytes()
}
