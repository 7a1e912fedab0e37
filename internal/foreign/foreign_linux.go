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

// closing bounds the threads that block in close.
var closing = make(chan struct{}, 8)

// Close closes the descriptors that were not taken. It may block for as long as any peer likes.
// So its caller is a goroutine that serves one peer only, and that holds one of the places of
// which this peer has a limited number.
func (f FDs) Close() {
	for _, fd := range f {
		if fd >= 0 {
			Close(fd)
		}
	}
}

// Close is [FDs.Close] for one descriptor.
func Close(fd int) {
	closing <- struct{}{}
	unix.Close(fd)
	<-closing
}
