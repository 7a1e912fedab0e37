package rendezvous

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Absences are the targets at which Dials have found nobody, or nobody to be had,
// so that Dials that end up in the kernel don't ask again and again.
type Absences struct {
	mu    sync.Mutex
	stamp Stamp // the directory's state for which until is valid
	until map[string]time.Time
}

// A Stamp changes whenever a listener comes or goes: a file is added to or
// removed from the directory, or one in this application.
type Stamp struct {
	path     string
	dev, ino uint64
	mtime    unix.Timespec
	own      uint64
}

const (
	// stampAge is the least age of a stamp to be relied on: the clock of file
	// systems goes in steps, and within one several changes look like one.
	stampAge = 50 * time.Millisecond

	// distrustTime is how long a listener that can't be had is left alone.
	distrustTime = 5 * time.Second

	maxAbsences = 4096
)

// Absent reports whether nobody is known to be at the target with this name. If not,
// what is found out can be told to Remember with the stamp that it returns. opened is
// another number when a listener of this application has come.
func (a *Absences) Absent(name string, opened uint64) (bool, Stamp) {
	stamp := Stamp{path: Dir(), own: opened}
	var st unix.Stat_t
	if unix.Lstat(stamp.path, &st) == nil {
		stamp.dev, stamp.ino, stamp.mtime = uint64(st.Dev), st.Ino, st.Mtim
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until == nil || a.stamp != stamp || len(a.until) > maxAbsences {
		a.stamp, a.until = stamp, make(map[string]time.Time)
	}
	until, ok := a.until[name]
	return ok && (until.IsZero() || time.Now().Before(until)), stamp
}

// Remember remembers that nobody was at a target, when the directory had a stamp.
func (a *Absences) Remember(name string, stamp Stamp) {
	if time.Since(time.Unix(stamp.mtime.Unix())) > stampAge {
		a.mark(name, stamp, time.Time{})
	}
}

// Distrust remembers that the listener at a target can't be had: it does not
// answer, is not ours to talk to, or speaks otherwise. The next one may, so a
// change of the stamp ends it.
func (a *Absences) Distrust(name string, stamp Stamp) {
	a.mark(name, stamp, time.Now().Add(distrustTime))
}

func (a *Absences) mark(name string, stamp Stamp, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stamp == stamp { // otherwise it may be wrong by now
		a.until[name] = until
	}
}

// Present reports whether the directory has a socket for a key.
func Present(key string) bool {
	path, err := socketPath(Dir(), key)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}
