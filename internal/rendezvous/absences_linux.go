package rendezvous

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Absences are a negative cache: the targets at which Dials have found no listener, or none
// that they can use. With it a Dial that uses the kernel's socket costs one lstat more. In the
// network namespace, where looking costs no more than that, only the second kind is remembered.
type Absences struct {
	mu    sync.Mutex
	stamp Stamp // known is valid as long as this is the current stamp
	known map[string]absence
}

type absence struct {
	cause error
	until time.Time // the zero time means for ever
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

// Absent returns the cause if the target with this name is in the cache. If it returns nil, the
// caller looks for a listener, and passes the stamp to [Absences.Remember] or [Absences.Distrust].
// opened counts the listeners that this application has opened.
func (a *Absences) Absent(name string, opened uint64) (stamp Stamp, cause error) {
	stamp = Stamp{path: Dir(), own: opened}
	var st unix.Stat_t
	if stamp.path != "" && unix.Lstat(stamp.path, &st) == nil {
		stamp.dev, stamp.ino, stamp.mtime = uint64(st.Dev), st.Ino, st.Mtim
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || a.stamp != stamp || len(a.known) > maxAbsences {
		a.stamp, a.known = stamp, make(map[string]absence)
	}
	if k, ok := a.known[name]; ok && (k.until.IsZero() || time.Now().Before(k.until)) {
		cause = k.cause
	}
	return stamp, cause
}

// Dir returns the directory for which the stamp is valid, see the function [Dir].
func (s Stamp) Dir() string { return s.path }

// Remember remembers that there was no listener at a target when Absent returned stamp.
func (a *Absences) Remember(name string, stamp Stamp) {
	if stamp.path != "" && time.Since(time.Unix(stamp.mtime.Unix())) > stampAge {
		a.mark(name, stamp, absence{cause: ErrNobody})
	}
}

// Distrust remembers that Dials can't use the listener at a target: it does not answer, belongs
// to another user, or speaks another version. A change of the stamp ends that, as there may be
// another listener.
func (a *Absences) Distrust(name string, stamp Stamp, cause error) {
	leave := distrustTime
	if stamp.path == "" && !isSilence(cause) {
		leave = shortDistrustTime
	}
	a.mark(name, stamp, absence{cause, time.Now().Add(leave)})
}

func (a *Absences) mark(name string, stamp Stamp, k absence) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stamp == stamp { // otherwise a listener may be there by now
		a.known[name] = k
	}
}

// isSilence reports whether err says that a Dial has waited for an answer in vain.
func isSilence(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || err == error(ErrSilent)
}
