package rendezvous

import (
	"fmt"
	"os"
	"sync"
)

// overflowUID is the UID under which the kernel shows users that have no number in this user
// namespace.
var overflowUID = sync.OnceValue(func() (uid int) {
	uid = 65534 // the kernel's default
	if b, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		fmt.Sscan(string(b), &uid)
	}
	return uid
})

// allUsersMapped reports whether all users have a number here, as in the first user namespace.
var allUsersMapped = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	var inside, outside, n uint32
	_, err = fmt.Sscan(string(b), &inside, &outside, &n)
	return err == nil && inside == 0 && outside == 0 && n == 1<<32-1
})
