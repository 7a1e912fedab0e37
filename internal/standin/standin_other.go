//go:build !unix

package standin

import "syscall"

// Supported reports whether the system has such sockets.
const Supported = false

// Most is the most bytes that a [Socket] holds at a time.
const Most = 0

// A Socket stands in for a connection's descriptor. There is none on this system.
type Socket struct{}

// New fails.
func New() (*Socket, error) { return nil, syscall.EOPNOTSUPP }

// The methods of a Socket are never called, as there is none.

func (s *Socket) FD() uintptr               { return 0 }
func (s *Socket) Put(b []byte) (int, error) { return 0, nil }
func (s *Socket) TakeBack() int             { return 0 }
func (s *Socket) End(reset bool)            {}
func (s *Socket) Ended() bool               { return false }
func (s *Socket) Close()                    {}
