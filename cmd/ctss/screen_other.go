//go:build !unix

package main

import "os"

// terminalSize returns false: it is not known.
func terminalSize(*os.File) (columns, lines int, ok bool) { return 0, 0, false }
