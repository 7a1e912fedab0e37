// Package foreign is how descriptors are closed that a peer has sent. To close such a
// descriptor can block for as long as the peer likes: a socket may linger until its peer has
// taken what was sent, a file system in user space may not answer, and a unix socket may have
// more such descriptors in its queue. One can't see from the descriptor what it is.
package foreign

import "golang.org/x/sys/unix"

// FDs are descriptors that a peer has sent.
type FDs []int

// Take returns descriptor i, which is not closed with the others then.
func (f FDs) Take(i int) (fd int) {
	fd, f[i] = f[i], -1
	return fd
}

// Close closes the descriptors that were not taken. It can block for as long as the peer likes.
func (f FDs) Close() {
	for _, fd := range f {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Turns bound the goroutines that do at the same time for one peer what may keep a thread: to close
// what the peer has sent, or to map and unmap memory. Its users wait for their turn, so each is a
// goroutine that serves this peer only.
type Turns chan struct{}

// NewTurns returns Turns of which n can be taken at a time.
func NewTurns(n int) Turns { return make(Turns, n) }

// Do calls f when it is its turn.
func (t Turns) Do(f func()) {
	t <- struct{}{}
	f()
	<-t
}
