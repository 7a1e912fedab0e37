package main

import (
	"io"
	"os"
	"strconv"
)

// screen returns the size of the terminal that out is. For anything else columns is what $COLUMNS
// says, and otherwise there is no limit, which 0 stands for: whoever reads a pipe wants all of an
// address.
func screen(out io.Writer) (columns, lines int, terminal bool) {
	if f, ok := out.(*os.File); ok {
		if columns, lines, terminal = terminalSize(f); terminal && columns > 0 {
			return columns, lines, true
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n, lines, terminal
	}
	if terminal {
		return 80, lines, true // one that does not know its size
	}
	return 0, 0, false
}

func width(out io.Writer) int {
	columns, _, _ := screen(out)
	return columns
}
