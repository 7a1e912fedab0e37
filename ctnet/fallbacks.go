package ctnet

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// A FallbackInfo counts the connections from one address, or the listeners at it, that use the
// kernel's socket for one reason.
type FallbackInfo struct {
	Op      string // "dial" or "listen"
	Network string
	Address string // "" for all those that the application does not count one by one
	Reason  Reason
	UID     int // as in [Fallback]
	Count   uint64
	Last    time.Time
	Error   string // the last cause
}

// fallbackTable counts them. It learns of a connection when the kernel's socket is connected.
type fallbackTable struct {
	mu      sync.Mutex
	entries map[fallbackKey]*fallbackEntry
	totals  map[fallbackTotal]uint64

	unusable bool // a reason that concerns the whole process was logged
}

type fallbackKey struct {
	op, network, address string
	reason               Reason // before foundOut
}

// A fallbackTotal counts by what was found out. The reason of an entry is the last one, but a count
// stays with the reason that it was made for.
type fallbackTotal struct {
	op     string
	reason Reason
}

type fallbackEntry struct {
	fallback Fallback // without what differs between Dials
	count    uint64
	last     time.Time
	asked    time.Time // when foundOut was called last
}

const (
	// maxFallbacks is the most entries. Further addresses share one for each reason.
	maxFallbacks = 1024

	// askTime is how long the result of foundOut is used again.
	askTime = time.Second
)

// add counts a connection, or a listener, that uses the kernel's socket because of cause. It returns
// the cause as far as it can be found out, and whether this is the first of its entry. kernel is the
// connection; for a listener it is nil.
func (t *fallbackTable) add(key fallbackKey, cause error, kernel net.Conn) (found error, first bool) {
	now := time.Now()
	t.mu.Lock()
	if e := t.entries[key]; e != nil && now.Sub(e.asked) < askTime {
		defer t.mu.Unlock()
		e.count++
		e.last = now
		if key.reason == ReasonAbsent {
			cause = e.fallback.Err
		}
		t.count(key.op, cause)
		return cause, false
	}
	t.mu.Unlock()

	found = foundOut(cause, kernel)

	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[key]
	if e == nil && len(t.entries) >= maxFallbacks {
		key.address = ""
		e = t.entries[key]
	}
	if e == nil {
		if t.entries == nil {
			t.entries = make(map[fallbackKey]*fallbackEntry)
		}
		e = new(fallbackEntry)
		t.entries[key] = e
	}
	first = e.count == 0
	e.fallback, e.asked, e.last = *newFallback(key.network, key.address, nil, found), now, now
	e.count++
	t.count(key.op, found)
	return found, first
}

// count counts a connection, or a listener, in totals. The caller has mu.
func (t *fallbackTable) count(op string, cause error) {
	if t.totals == nil {
		t.totals = make(map[fallbackTotal]uint64)
	}
	t.totals[fallbackTotal{op, reasonOf(cause)}]++
}

// sums returns how many connections, or listeners, use the kernel's socket, by reason.
func (t *fallbackTable) sums(op string) map[Reason]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := make(map[Reason]uint64)
	for of, n := range t.totals {
		if of.op == op {
			sums[of.reason] = n
		}
	}
	return sums
}

// list returns the table's contents.
func (t *fallbackTable) list() []FallbackInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]FallbackInfo, 0, len(t.entries))
	for key, e := range t.entries {
		f := &e.fallback
		all = append(all, FallbackInfo{key.op, key.network, key.address, f.Reason, f.UID, e.count, e.last, f.Err.Error()})
	}
	slices.SortFunc(all, func(a, b FallbackInfo) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Reason, b.Reason))
	})
	return all
}

// fellBack counts a connection or listener that uses the kernel's socket, logs the first of its
// kind, and returns the cause.
func (a *app) fellBack(op, network, address string, cause error, kernel net.Conn) error {
	found, first := a.fallbacks.add(fallbackKey{op, network, address, reasonOf(cause)}, cause, kernel)
	if first {
		if reasonOf(found).isFault() {
			a.show(true)
		}
		// In a goroutine: the handler may hold a lock of its own while it dials.
		go a.logFallback(op, network, address, found)
	}
	return found
}

func (a *app) logFallback(op, network, address string, cause error) {
	reason := reasonOf(cause)
	level := slog.LevelDebug
	if reason == ReasonUnusable {
		if a.sayUnusable() {
			level = slog.LevelWarn
		}
	} else if reason.isFault() {
		level = slog.LevelWarn
	}
	text := "ctnet: a connection takes the kernel's socket"
	if op == "listen" {
		text = "ctnet: no cut-through, connections take the kernel's socket"
	}
	a.log().Log(context.Background(), level, text, "network", network, "address", address, "reason", string(reason), "error", advised(cause))
}

// sayUnusable returns true once.
func (a *app) sayUnusable() bool {
	a.fallbacks.mu.Lock()
	defer a.fallbacks.mu.Unlock()
	said := a.fallbacks.unusable
	a.fallbacks.unusable = true
	return !said
}

// log returns the logger.
func (a *app) log() *slog.Logger {
	if a.logger != nil {
		return a.logger
	}
	return slog.Default()
}
