//go:build !linux

package rendezvous

// Absences are empty: other applications can be found on Linux only.
type Absences struct{}

// A Stamp is the version of Absences.
type Stamp struct{}

// Dir returns "".
func (Stamp) Dir() string { return "" }

// Absent returns nil.
func (*Absences) Absent(name string, opened uint64) (Stamp, error) { return Stamp{}, nil }

// Remember does nothing.
func (*Absences) Remember(name string, stamp Stamp) {}

// Distrust does nothing.
func (*Absences) Distrust(name string, stamp Stamp, cause error) {}

// A Lookup finds nobody.
type Lookup struct{}

// NewLookup returns the only Lookup.
func NewLookup(key string) Lookup { return Lookup{} }

// Present returns false.
func (Lookup) Present() bool { return false }

// Name returns "".
func (Lookup) Name() string { return "" }

// Dir returns "".
func Dir() string { return "" }

// Check returns nil.
func Check() error { return nil }
