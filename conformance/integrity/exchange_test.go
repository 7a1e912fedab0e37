package integrity

import (
	"encoding/json"
	"io"
	"sync"
)

// An exchange is what the sides of connections tell each other beside the connections. Each
// side says ended, closed and done once.
type exchange struct {
	mu    sync.Mutex
	notes map[key]*noted
	send  func(note) // to the other process, if there is one
}

// A note says what a side of a connection has done.
type note struct {
	key
	Report *report // if it is done
}

type key struct {
	Number uint64
	Side   int
	What   string
}

const (
	ended  = "ended"  // its stream: it has called CloseWrite or Close
	closed = "closed" // it has called Close
	done   = "done"   // and has looked at what came of it
)

type noted struct {
	note
	there chan struct{} // closed when the note is
}

func newExchange() *exchange { return &exchange{notes: make(map[key]*noted)} }

// awaited returns what will be noted.
func (x *exchange) awaited(k key) *noted {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.notes[k]
	if n == nil {
		n = &noted{there: make(chan struct{})}
		x.notes[k] = n
	}
	return n
}

// tell notes what this process's side has done.
func (x *exchange) tell(n note) {
	x.put(n)
	if x.send != nil {
		x.send(n)
	}
}

func (x *exchange) put(n note) {
	to := x.awaited(n.key)
	to.note = n
	close(to.there)
}

// wait waits for a note.
func (x *exchange) wait(number uint64, side int, what string) *report {
	n := x.awaited(key{number, side, what})
	<-n.there
	return n.Report
}

// forget forgets a connection. Both sides are done with it.
func (x *exchange) forget(number uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for side := range 2 {
		for _, what := range []string{ended, closed, done} {
			delete(x.notes, key{number, side, what})
		}
	}
}

// join exchanges notes with another process, until that says no more.
func (x *exchange) join(in io.Reader, out io.Writer) (ended <-chan error) {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	x.send = func(n note) {
		mu.Lock()
		defer mu.Unlock()
		enc.Encode(n) // if it fails the process is gone, as join finds out
	}
	over := make(chan error, 1)
	go func() {
		for dec := json.NewDecoder(in); ; {
			var n note
			if err := dec.Decode(&n); err != nil {
				over <- err
				return
			}
			x.put(n)
		}
	}()
	return over
}
