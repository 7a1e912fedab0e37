package rendezvous

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Cred identifies the process at the other end of a channel, as the kernel reports it. PID is 0
// if the process is in a PID namespace that can't be seen from here.
type Cred struct {
	PID, UID, GID int
}

// Ours reports whether a process belongs to this user or to root: it may ask for a snapshot, and
// take over an address.
func Ours(c Cred) bool { return Known(c) && (c.UID == os.Geteuid() || c.UID == 0) }

// Trusted reports whether a process is Ours, or belongs to a user that CTNET_ALLOW names. By
// default such a process may be at the other end.
func Trusted(c Cred) bool { return Ours(c) || Known(c) && allowed(c.UID) }

// Known reports whether the UID of c names one user. In a user namespace all users that have no
// number there appear under the overflow UID, so nobody may be trusted by that number.
func Known(c Cred) bool { return c.UID != overflowUID() || allUsersMapped() }

// allowVariable is the environment variable with the UIDs of further users that are trusted,
// separated by commas.
const allowVariable = "CTNET_ALLOW"

// allowList returns the users that CTNET_ALLOW names, and an error if a part of it is no UID.
func allowList() (uids []int, err error) {
	list := os.Getenv(allowVariable)
	if list == "" {
		return nil, nil
	}
	for field := range strings.SplitSeq(list, ",") {
		n, parseErr := strconv.ParseUint(strings.TrimSpace(field), 10, 32)
		if parseErr != nil {
			err = fmt.Errorf("%s=%q: %q is not the number of a user", allowVariable, list, field)
			continue
		}
		uids = append(uids, int(n))
	}
	return uids, err
}

// allowed reports whether CTNET_ALLOW names a user.
func allowed(uid int) bool {
	uids, _ := allowList()
	return slices.Contains(uids, uid)
}

// CheckAllowed returns an error if CTNET_ALLOW names anything but UIDs.
func CheckAllowed() error {
	_, err := allowList()
	return err
}

// A Stranger is the error of a Dial whose listener belongs to a user that is not trusted.
type Stranger struct{ Cred Cred }

func (s *Stranger) Error() string {
	if !Known(s.Cred) {
		return fmt.Sprintf("%v: the listener's user has no number in this user namespace", syscall.EACCES)
	}
	return fmt.Sprintf("%v: the listener belongs to user %d; Dialer.Allow or %s can say that this user is trusted",
		syscall.EACCES, s.Cred.UID, allowVariable)
}

// Unwrap returns EACCES.
func (s *Stranger) Unwrap() error { return syscall.EACCES }
