// Package syserr has errors for which an errno alone says too little.
package syserr

import "syscall"

// An Error is an errno with advice what to do about it. errors.Is and errors.As find the errno.
type Error struct {
	Errno  syscall.Errno
	Advice string
}

func (e *Error) Error() string   { return e.Errno.Error() + ": " + e.Advice }
func (e *Error) Unwrap() error   { return e.Errno }
func (e *Error) Timeout() bool   { return e.Errno.Timeout() }
func (e *Error) Temporary() bool { return e.Errno.Temporary() }

// New returns an error of errno, with advice.
func New(errno syscall.Errno, advice string) *Error { return &Error{errno, advice} }
