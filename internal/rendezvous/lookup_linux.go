package rendezvous

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/hostnet"
)

// A Lookup looks for a listener under a key. To make one costs more than to look, so a dialer keeps
// it. It does not change, and is for the directory, or the network namespace, that [Dir] has said
// when it was made.
type Lookup struct {
	name   string           // or path, of the first seat; "" if the key can't have one
	beacon *hostnet.RawName // in the network namespace
}

// NewLookup returns the Lookup of a key.
func NewLookup(key string) Lookup {
	p := place{Dir()}
	name, err := p.name(key, 0)
	switch {
	case err != nil:
		return Lookup{}
	case p.dir == "":
		return Lookup{name: name, beacon: hostnet.NewRawName(name)}
	}
	return Lookup{name: name}
}

// Present reports whether somebody may listen under the key.
func (l Lookup) Present() bool {
	if l.beacon != nil {
		return lit(l.beacon)
	}
	return l.name != "" && isThere(l.name)
}

// Name returns the name or path at which the Lookup looks.
func (l Lookup) Name() string { return l.name }

// Check returns an error if this process can't look for listeners, and no other process can find
// its own: it may not make sockets of the kind that is needed, or the directory in CTNET_DIR is
// none. A directory that does not exist yet is not an error.
func Check() error {
	if dir := Dir(); dir != "" {
		if err := checkDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unusable(err)
		}
	}
	fd, err := newProbe()
	if err != nil {
		return unusable(err)
	}
	unix.Close(fd)
	if _, ok := hostnet.NetNamespace(); !ok {
		return unusable(hostnet.ErrNoNamespace)
	}
	return nil
}

func unusable(err error) error { return &Unusable{Place: placeName(), Err: err} }

// placeName names the place for messages.
func placeName() string {
	if dir := Dir(); dir != "" {
		return dir
	}
	return "the network namespace"
}
