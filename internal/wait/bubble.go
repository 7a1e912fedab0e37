package wait

import "time"

// bubbles is when time is in a testing/synctest bubble: it begins at the start of the year
// 2000. Outside, the clock is later, and that is all it takes to find out.
var bubbles = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// InBubble reports whether the caller is in a bubble.
func InBubble() bool { return IsBubble(time.Now()) }

// IsBubble is InBubble for a caller that has read the clock.
func IsBubble(now time.Time) bool { return now.Before(bubbles) }
