//go:build !unix

package main

import "context"

// awaitUnread returns false: a Write finds it out.
func awaitUnread(context.Context, uintptr) bool { return false }
