package ctnet

import (
	"bytes"
	"runtime"
	"strconv"

	"cutthrough.example/internal/wait"
)

// A testing/synctest bubble is a world of its own: a goroutine in it can't be
// woken from outside, and one that is started in it belongs to it. So a listener
// that was made in a bubble is there for dialers in the same bubble only, and
// neither starts a goroutine. The runtime has no call that tells which bubble the
// caller is in, but the header of its stack trace does.

// currentBubble returns the number of the caller's bubble, or 0 if it is in none.
func currentBubble() int {
	if !wait.InBubble() {
		return 0
	}
	// goroutine 7 [running, synctest bubble 3]:
	buf := make([]byte, 128)
	header, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte("]"))
	_, number, ok := bytes.Cut(header, []byte("synctest bubble "))
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(string(number))
	return n
}
