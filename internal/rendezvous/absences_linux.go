package rendezvous

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Absences are a negative cache: the targets at which Dials have found no listener, or none
// that they can use. With it a Dial that uses the kernel's socket costs one lstat more. In the
// network namespace, where looking costs no more than that, only the second kind is remembered.
type Absences struct {
	mu    sync.Mutex
	stamp Stamp                // until is valid as long as this is the current stamp
	until map[string]time.Time // when an absence expires; the zero time means never
}

// A Stamp changes whenever this application opens a listener, and whenever a file is added to the
// directory or removed from it.
type Stamp struct {
	path     string
	dev, ino uint64
	mtime    unix.Timespec
	own      uint64
}

const (
	// stampAge is the least age of the directory's last change for an absence to be
	// remembered: the clock of file systems goes in steps, and a second change within one
	// step would leave the stamp as it is.
	stampAge = 50 * time.Millisecond

	// distrustTime is how long Dials leave a listener alone that has failed. In the network
	// namespace nothing says that another one has its place, so it is shorter there if the
	// failure cost no time.
	distrustTime      = 5 * time.Second
	shortDistrustTime = time.Second

	maxAbsences = 4096
)

// Absent reports whether the target with this name is in the cache. If not, the caller looks
// for a listener, and passes the stamp to [Absences.Remember] or [Absences.Distrust]. opened
// counts the listeners that this application has opened.
func (a *Absences) Absent(name string, opened uint64) (bool, Stamp) {
	stamp := Stamp{path: Dir(), own: opened}
	var st unix.Stat_t
	if stamp.path != "" && unix.Lstat(stamp.path, &st) == nil {
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

// Remember remembers that there was no listener at a target when Absent returned stamp.
func (a *Absences) Remember(name string, stamp Stamp) {
	if stamp.path != "" && time.Since(time.Unix(stamp.mtime.Unix())) > stampAge {
		a.mark(name, stamp, time.Time{})
	}
}

// Distrust remembers that Dials can't use the listener at a target: it does not answer, belongs
// to another user, or speaks another version. A change of the stamp ends that, as there may be
// another listener. silent says that the Dial has waited for an answer.
func (a *Absences) Distrust(name string, stamp Stamp, silent bool) {
	leave := distrustTime
	if stamp.path == "" && !silent {
		leave = shortDistrustTime
	}
	a.mark(name, stamp, time.Now().Add(leave))
}

func (a *Absences) mark(name string, stamp Stamp, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stamp == stamp { // otherwise a listener may be there by now
		a.until[name] = until
	}
}
