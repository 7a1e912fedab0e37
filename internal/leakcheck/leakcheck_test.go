package leakcheck

import (
	"os"
	"testing"
)

// TestWithin leaks one of each that a test can leak here.
func TestWithin(t *testing.T) {
	before := Now()
	if !Now().within(before) {
		t.Fatal("what has not changed is a leak")
	}
	end := make(chan struct{})
	go func() { <-end }()
	if Now().within(before) {
		t.Error("a goroutine is not seen")
	}
	close(end)
	RequireBack(t, before)
	if before.FDs == 0 {
		return // no /proc
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if Now().within(before) {
		t.Error("a descriptor is not seen")
	}
	f.Close()
	RequireBack(t, before)
}
