package ctnet

import (
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// defaultMemory returns the default of AppConfig.MaxMemory: a quarter of what the process may
// have. Shared memory counts for whoever touches a page first, so what is left has to do for
// what others make this process pay, too.
var defaultMemory = sync.OnceValue(func() int64 {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	limit := groupLimit(string(groups), "/sys/fs/cgroup")
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = min(limit, int64(info.Totalram)*int64(info.Unit))
	}
	return limit / 4
})

// groupLimit returns the least limit on memory of the control groups that a process is in,
// given its /proc/self/cgroup and where control groups are mounted; or 1<<62.
func groupLimit(groups, mount string) int64 {
	limit := int64(1 << 62)
	for line := range strings.Lines(groups) {
		// 0::/path for version 2, and 9:memory:/path for version 1
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		root, file := mount, "memory.max"
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			root, file = mount+"/memory", "memory.limit_in_bytes"
		}
		// A group has the limits of those that it is in, too. In a container the path may
		// be the host's, and the mount's root is the container's own group.
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			b, err := os.ReadFile(path.Join(root, dir, file))
			if n, bad := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && bad == nil && n > 0 {
				limit = min(limit, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}
