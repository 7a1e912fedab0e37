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

// A Closer bounds the threads that block in closing what one peer has sent, or in receiving from
// it. Its users wait for their turn, so each must be a goroutine that serves this peer only.
type Closer chan struct{}

// NewCloser returns a Closer.
func NewCloser() Closer { return make(Closer, 2) }

// Do calls close when it is its turn.
func (c Closer) Do(close func()) {
	c <- struct{}{}
	close()
	<-c
}
