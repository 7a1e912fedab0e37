//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A load is how much the CPUs have done for anything but this command and its
// children, the machine's host included. What is measured beside much of it is worth
// little.
type load struct {
	at     time.Time
	others float64 // seconds
}

func loadOf(cpus []int) load {
	var own float64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			own += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return load{time.Now(), busySeconds(cpus) - own}
}

// since is the share of the CPUs that others had.
func (l load) since(before load, cpus int) float64 {
	elapsed := l.at.Sub(before.at).Seconds() * float64(cpus)
	return max((l.others-before.others)/elapsed, 0)
}

// busySeconds leaves interrupts out: most are for what the workloads send.
func busySeconds(cpus []int) (sum float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	const ticks = 100 // a second, in all that Linux tells programs
	for line := range strings.Lines(string(b)) {
		for _, n := range cpus {
			if rest, ok := strings.CutPrefix(line, fmt.Sprintf("cpu%d ", n)); ok {
				var user, nice, system, idle, iowait, irq, softirq, steal float64
				fmt.Sscan(rest, &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal)
				sum += (user + nice + system + steal) / ticks
			}
		}
	}
	return sum
}
