//go:build !linux

package rendezvous

// Absences would be the targets at which nobody was found. Other applications are found on
// Linux only.
type Absences struct{}

// A Stamp would say when that is out of date.
type Stamp struct{}

// Absent returns false.
func (*Absences) Absent(name string, opened uint64) (bool, Stamp) { return false, Stamp{} }

// Remember does nothing.
func (*Absences) Remember(name string, stamp Stamp) {}

// Distrust does nothing.
func (*Absences) Distrust(name string, stamp Stamp) {}

// Present returns false.
func Present(key string) bool { return false }
