package ctnet

import (
	"bytes"
	"runtime"
	"strconv"
	"time"
)

// A goroutine in a testing/synctest bubble can't be woken from outside, and a goroutine that
// is started in a bubble belongs to it. So only dialers in the same bubble find a listener
// that was made in a bubble, and neither of them starts a goroutine. The runtime has no call
// that returns the caller's bubble, but the header of a stack trace names it.

// bubbles is later than the time in any bubble, which begins at the start of the year 2000,
// and earlier than the time outside.
var bubbles = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// currentBubble returns the number of the caller's bubble, or 0 if it is in none.
func currentBubble() int {
	if time.Now().After(bubbles) {
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
