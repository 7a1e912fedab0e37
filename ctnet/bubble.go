package ctnet

import (
	"bytes"
	"runtime"
	"strconv"

	"cutthrough.example/internal/wait"
)

// A goroutine in a testing/synctest bubble can't be woken from outside, and a goroutine that
// is started in a bubble belongs to it. So only dialers in the same bubble find a listener
// that was made in a bubble, and neither of them starts a goroutine. The runtime has no call
// that returns the caller's bubble, but the header of a stack trace names it.

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
