//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where there are more processes than CPUs, who spins keeps the one for whom it waits from running.
// Nothing may be slower there than TCP.

// settled is how many seconds a sample takes at least where it matters whether processes spin: they try
// that once a second.
const settled = 2.5

// crowds have other processes beside client and server, or less than two CPUs.
var crowds = func() (all []*workload) {
	for _, n := range []int{2, 4, 8} {
		all = append(all, &workload{
			name:    fmt.Sprintf("crowd-%d", n),
			title:   fmt.Sprintf("net/http hello, %d client processes with one connection each", n-1),
			columns: []string{"ops", "cpu", "p50", "p99"},
			over:    scalable,
			serve:   serveHTTP,
			ops:     hellos,
			run:     func(c *client) (sample, error) { return peers(c, n-1, n-1, 1) },
			atLeast: settled,
		})
	}
	some := []*workload{roundTrips[0], roundTripsOn(64), hello(1), hello(64), streamOf("stream-64k", 64<<10)}
	for _, w := range some {
		w := *w
		w.name = "beside-" + w.name
		w.title = "two processes beside that calculate: " + w.title
		w.over = scalable
		w.beside = 2
		w.atLeast = settled
		w.limit = nil
		all = append(all, &w)
	}
	for _, percent := range []int{50, 100, 150} {
		for _, w := range some[2:] {
			w := *w
			w.name = fmt.Sprintf("quota-%d-%s", percent, w.name)
			w.title = fmt.Sprintf("each process has %d %% of a CPU: %s", percent, w.title)
			w.over = scalable
			w.quota = percent
			w.limit = nil
			w.atLeast = settled
			w.long = true
			all = append(all, &w)
		}
	}
	return all
}()

// thinks are round trips with pauses.
var thinks = func() (all []*workload) {
	for _, us := range []int{10, 20, 50, 100, 500} {
		all = append(all, &workload{
			name:    fmt.Sprintf("think-%d", us),
			title:   fmt.Sprintf("a 64 B request every %d us", us),
			columns: []string{"p50", "p99", "busy"},
			over:    scalable,
			serve:   serveEcho,
			run:     func(c *client) (sample, error) { return roundTrip(c, 1, time.Duration(us)*time.Microsecond) },
			long:    true,
		})
	}
	return all
}()

// procs are round trips with more Ps than CPUs.
var procs = func() (all []*workload) {
	for _, n := range []int{2, 8, 32} {
		w := *roundTripsOn(64)
		w.name = fmt.Sprintf("procs-%d", n)
		w.title = fmt.Sprintf("GOMAXPROCS=%d: %s", n, w.title)
		w.over = scalable
		w.env = []string{fmt.Sprint("GOMAXPROCS=", n)}
		w.long = true
		all = append(all, &w)
	}
	return all
}()

// startBurner starts a process that calculates until it is killed.
func startBurner() (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe", "-child", "burner", "-task", `{"Workload":"rtt","Transport":"tcp"}`)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd, cmd.Start()
}

func burnForever() {
	new(burners).burn()
	select {}
}

// quotaGroup is the environment variable that tells a process its cgroup.
const quotaGroup = "BENCHMARKS_QUOTA"

// newQuota makes a cgroup whose processes have so many percent of a CPU, and returns its directory.
func newQuota(name string, percent int) (dir string, err error) {
	const period = 100_000 // us, the default
	quota := percent * period / 100
	root := "/sys/fs/cgroup"
	file, text := "cpu.max", fmt.Sprint(quota, " ", period)
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		root, file, text = filepath.Join(root, "cpu"), "cpu.cfs_quota_us", strconv.Itoa(quota)
	}
	dir = filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("a CPU quota needs a cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
		return "", errors.Join(fmt.Errorf("a CPU quota: %w", err), os.Remove(dir))
	}
	return dir, nil
}

// enterQuota has the process enter its cgroup, if it has one.
func enterQuota() error {
	dir := os.Getenv(quotaGroup)
	if dir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}
