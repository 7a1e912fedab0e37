// Package asuser lets a test do a part of its work as another user.
package asuser

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Do calls f on a thread whose effective user is uid. The thread accesses files as the own
// user, but without privileges.
func Do(t testing.TB, uid int, f func()) {
	t.Helper()
	const same = ^uintptr(0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := os.Geteuid()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		t.Fatal(errno)
	}
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(own), 0, 0)
	defer func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(own), same); errno != 0 {
			panic(errno) // the thread is not to be used any more
		}
	}()
	f()
}
