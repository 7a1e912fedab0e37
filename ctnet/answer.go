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

// maxEnds and maxEvents are the most that an honest answer to [Snapshot.Events] has: ends of a connection,
// and events of an end.
const (
	maxEnds   = 2
	maxEvents = 64
)

// decodeEvents decodes an answer to [Snapshot.Events], which may be a hostile process's, and returns the ends
// of the connection with that ID.
func decodeEvents(b []byte, id string) ([]EndEvents, error) {
	decoding.Lock()
	defer decoding.Unlock()
	var a struct{ Connections endsOf }
	a.Connections.id = id
	err := json.Unmarshal(b, &a)
	return a.Connections.ends, err
}

// endsOf has the ends of the connection with an ID. Versions that don't know the question answer with all
// connections: the others are left out.
type endsOf struct {
	id   string
	ends []EndEvents
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *endsOf) UnmarshalJSON(b []byte) error {
	return eachElement(b, func(d *json.Decoder) error {
		var e struct {
			ConnInfo
			Events events
		}
		if err := d.Decode(&e); err != nil || e.ID != o.id {
			return err
		}
		if len(o.ends) == maxEnds {
			return fmt.Errorf("a connection has more than %d ends", maxEnds)
		}
		o.ends = append(o.ends, EndEvents{e.ConnInfo, e.Events})
		return nil
	})
}

// events is a list of no more than maxEvents.
type events []Event

// UnmarshalJSON implements json.Unmarshaler.
func (l *events) UnmarshalJSON(b []byte) error { return unmarshalList((*[]Event)(l), maxEvents, b) }

// A bounded is a list of no more elements than an honest answer has. An element can be two bytes
// there, and hundreds in memory.
type bounded[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *bounded[T]) UnmarshalJSON(b []byte) error {
	return unmarshalList((*[]T)(l), maxConnInfos, b)
}

// unmarshalList appends to a list that comes to no more than most elements.
func unmarshalList[T any](l *[]T, most int, b []byte) error {
	return eachElement(b, func(d *json.Decoder) error {
		if len(*l) == most {
			return fmt.Errorf("a list has more than %d elements", most)
		}
		var e T
		if err := d.Decode(&e); err != nil {
			return err
		}
		*l = append(*l, e)
		return nil
	})
}

// eachElement has f decode each element of a list.
func eachElement(b []byte, f func(d *json.Decoder) error) error {
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return errors.New("it is no list")
	}
	for d.More() {
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}
