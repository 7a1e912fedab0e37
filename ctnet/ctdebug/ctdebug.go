// Package ctdebug serves a page that shows what ctnet does in this process: its sessions, which are
// the ends of its connections, with fifos, stalls and throughput; the applications at the other end;
// the memory that they share; and why the kernel's sockets are used. It is mounted as
// [net/http/pprof] is:
//
//	import _ "cutthrough.example/ctnet/ctdebug"
//
// registers it on [http.DefaultServeMux] under /debug/ctnet/, for the process's own application. A
// program that has a mux or an application of its own uses [Handler]:
//
//	mux.Handle("/debug/ctnet/", ctdebug.Handler(app))
//
// Only processes of this user and of root get an answer. The kernel says who asks: of a ctnet
// connection on networks ct and tcp, and of a TCP connection of this host on Linux. A server whose
// ConnContext is [ConnContext] can tell it of unix sockets too. Everybody else is answered 403 Forbidden, as are
// requests that have come through a proxy, that a web page of another origin has made, or whose Host
// is neither localhost nor an IP address. [Guarded] lets the program decide instead.
//
// docs/ctdebug.md describes the page, and the JSON behind it.
package ctdebug

import (
	"bytes"
	"embed"
	"net/http"
	"path"
	"time"

	"cutthrough.example/ctnet"
)

func init() { http.Handle("/debug/ctnet/", Handler(nil)) }

// Handler returns a handler that serves the page for an application; a nil App is the process's
// own. It looks at the part of the path after the last slash only, so it can be mounted under any
// path that ends with a slash. It answers this user and root, see the package comment. Connections
// of other Apps of this process are strangers to it without [ConnContext].
func Handler(app *ctnet.App) http.Handler {
	h := newHandler(app)
	h.guard = &ownUser{look: app.Snapshot}
	return h
}

// Guarded returns a handler that serves the page to those whom allow lets pass; to others it says
// 403 Forbidden. allow stands in place of the checks of the user, of proxies and of the Host, so it
// has to know who asks. What a web page of another origin asks for is refused all the same. allow is
// called for each request, by several goroutines at a time.
func Guarded(app *ctnet.App, allow func(*http.Request) bool) http.Handler {
	h := newHandler(app)
	h.guard = guardFunc(allow)
	return h
}

//go:embed web
var web embed.FS

// files are what the page is made of, by name.
var files = map[string]struct{ file, kind string }{
	"":            {"web/index.html", "text/html; charset=utf-8"},
	"ctdebug.css": {"web/ctdebug.css", "text/css; charset=utf-8"},
	"ctdebug.js":  {"web/ctdebug.js", "text/javascript; charset=utf-8"},
}

// A handler serves the page for one application.
type handler struct {
	snapshot func() ctnet.Snapshot
	past     func(id string) []ctnet.EndEvents
	guard    guard
	hub      hub
	busy     chan struct{} // has an element for each answer that is being made of all sessions
}

func newHandler(app *ctnet.App) *handler {
	return &handler{snapshot: app.Snapshot, past: app.Events, hub: hub{snapshot: app.Snapshot, interval: time.Second}, busy: make(chan struct{}, maxBusy)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
	_, name := path.Split(r.URL.Path)
	if text := h.refuse(r, name); text != "" {
		http.Error(w, text, http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	switch name {
	case "events":
		h.hub.serve(w, r)
	case "snapshot":
		h.serveSnapshot(w, r)
	case "past":
		h.servePast(w, r)
	default:
		f, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		b, err := web.ReadFile(f.file)
		if err != nil {
			panic(err) // it is in the program
		}
		w.Header().Set("Content-Type", f.kind)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// headers are those of every answer. The page loads nothing from elsewhere, runs no script but its
// own, and is shown in no frame; nothing keeps or reads what the answers say.
var headers = map[string]string{
	"Cache-Control": "no-store",
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}
