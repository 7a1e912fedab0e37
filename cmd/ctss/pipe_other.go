//go:build !unix

package main

import (
	"context"
	"os"
)

// awaitUnread returns false: a Write finds it out.
func awaitUnread(context.Context, *os.File) bool { return false }
