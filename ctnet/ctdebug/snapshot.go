package ctdebug

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"cutthrough.example/ctnet"
)

const (
	// maxBusy is how many answers that look at all sessions are made at a time, besides those of the
	// event stream.
	maxBusy = 2

	// defaultLimit and maxLimit are how many sessions one answer has, if the request says nothing,
	// and at most.
	defaultLimit = 1000
	maxLimit     = 10_000
)

// A snapshotAnswer is a [ctnet.Snapshot] with a part of the sessions.
type snapshotAnswer struct {
	ctnet.Snapshot // Omitted is how many sessions are in Connections of no answer

	Total  int // sessions
	Offset int // of the first one in Connections

	PairsOmitted, ListenersOmitted int
}

// serveSnapshot answers with a snapshot as JSON. The query's offset and limit say which of the
// sessions, sorted by their addresses, are in it.
func (h *handler) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	offset, ok := queryNumber(r, "offset", 0)
	limit, ok2 := queryNumber(r, "limit", defaultLimit)
	if !ok || !ok2 {
		http.Error(w, "ctdebug: offset and limit are numbers", http.StatusBadRequest)
		return
	}
	h.answer(w, func() ([]byte, error) { return h.encodeSnapshot(offset, min(limit, maxLimit)) })
}

// servePast answers with what happened last at the ends of the connection whose ID is in the query.
func (h *handler) servePast(w http.ResponseWriter, r *http.Request) {
	h.answer(w, func() ([]byte, error) { return json.Marshal(h.past(r.URL.Query().Get("id"))) })
}

// answer answers with the JSON that encode returns, unless too many requests are being answered.
func (h *handler) answer(w http.ResponseWriter, encode func() ([]byte, error)) {
	select {
	case h.busy <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "ctdebug: too many requests at a time", http.StatusServiceUnavailable)
		return
	}
	b, err := encode()
	<-h.busy
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close")                                     // the deadline stays with the connection
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime)) // where there is one
	w.Write(b)
}

func (h *handler) encodeSnapshot(offset, limit int) ([]byte, error) {
	a := snapshotAnswer{Snapshot: h.snapshot(), Offset: offset}
	a.Total = len(a.Connections) + a.Omitted
	all := a.Connections
	all = all[min(offset, len(all)):]
	a.Connections = all[:min(limit, len(all))]
	a.PairsOmitted = max(0, len(a.Pairs)-maxPairs)
	a.Pairs = a.Pairs[:len(a.Pairs)-a.PairsOmitted]
	a.ListenersOmitted = max(0, len(a.Listeners)-maxListeners)
	a.Listeners = a.Listeners[:len(a.Listeners)-a.ListenersOmitted]
	return json.Marshal(a)
}

// queryNumber returns a number that is not negative from the request's query.
func queryNumber(r *http.Request, name string, def int) (n int, ok bool) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}
