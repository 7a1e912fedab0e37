//go:build !linux

package rendezvous

// Absences are empty: other applications can be found on Linux only.
type Absences struct{}

// A Stamp is the version of Absences.
type Stamp struct{}

// Absent returns false.
func (*Absences) Absent(name string, opened uint64) (bool, Stamp) { return false, Stamp{} }

// Remember does nothing.
func (*Absences) Remember(name string, stamp Stamp) {}

// Distrust does nothing.
func (*Absences) Distrust(name string, stamp Stamp, silent bool) {}

// Present returns false.
func Present(key string) bool { return false }
