package rendezvous

import (
	"bytes"
	"fmt"
	"os"
)

// IsStopped reports whether a process is stopped, by a signal or a debugger. It returns false if there
// is no such process, or if this one may not know. The number may be that of a later process: the caller
// finds out after the call whether the one that it means has ended.
func IsStopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the name, which is in parentheses and may have any bytes.
	rest := b[bytes.LastIndexByte(b, ')')+1:]
	return len(rest) > 1 && (rest[1] == 'T' || rest[1] == 't')
}
