package ctnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// decoding is held by a goroutine that decodes an answer of [Inspect]: that may take many times its
// size.
var decoding sync.Mutex

// decode decodes an answer, which may be a hostile process's.
func decode(b []byte) (Snapshot, error) {
	decoding.Lock()
	defer decoding.Unlock()
	var a struct {
		Snapshot
		Sockets     bounded[string]
		Listeners   bounded[ListenerInfo]
		Connections bounded[ConnInfo]
		Fallbacks   bounded[FallbackInfo]
		Pairs       bounded[PairInfo]
	}
	err := json.Unmarshal(b, &a)
	s := a.Snapshot
	s.Sockets, s.Listeners, s.Connections, s.Fallbacks, s.Pairs = a.Sockets, a.Listeners, a.Connections, a.Fallbacks, a.Pairs
	return s, err
}

// A bounded is a list of no more elements than an honest answer has. An element can be two bytes
// there, and hundreds in memory.
type bounded[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *bounded[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return errors.New("it is no list")
	}
	for d.More() {
		if len(*l) == maxConnInfos {
			return fmt.Errorf("a list has more than %d elements", maxConnInfos)
		}
		var e T
		if err := d.Decode(&e); err != nil {
			return err
		}
		*l = append(*l, e)
	}
	return nil
}
