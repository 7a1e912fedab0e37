//go:build !linux

package ctnet

import (
	"context"
	"io"
	"syscall"
)

// Inspect returns the Snapshots of the applications on this machine that belong
// to this user. On this system they can't be asked.
func Inspect(ctx context.Context) ([]Snapshot, error) { return nil, nil }

// Events fails: on this system applications can't be asked. [App.Events] has those of this process.
func (s *Snapshot) Events(ctx context.Context, id string) ([]EndEvents, error) {
	return nil, syscall.ENOSYS
}

// ResetConn fails: on this system applications can't be asked.
func (s *Snapshot) ResetConn(ctx context.Context, id string) error { return syscall.ENOSYS }

// CaptureConn fails: on this system applications can't be asked.
func (s *Snapshot) CaptureConn(ctx context.Context, id string, w io.Writer, c CaptureConfig) (CaptureCounts, error) {
	return CaptureCounts{}, syscall.ENOSYS
}
