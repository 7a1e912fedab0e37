//go:build linux

package main

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A placement is where the two CPUs are. Those of a virtual machine move, within
// seconds and without a word, and what is measured depends more on where they are
// than on anything else. So it is measured too, before and after each sample.
type placement string

const (
	unknown placement = "unknown placement"
	oneCore placement = "one core"
	oneL3   placement = "one L3"
	apart   placement = "different L3s"
)

var placements = []placement{oneCore, oneL3, apart, unknown}

// near reports whether the CPUs share a cache.
func (p placement) near() bool { return p == oneCore || p == oneL3 }

// placementOf tells by the microseconds of a round trip between the two.
func placementOf(us float64) placement {
	switch {
	case us <= 0:
		return unknown
	case us < 0.08:
		return oneCore
	case us < 0.25:
		return oneL3
	}
	return apart
}

// allowedCPUs are those on which this process may run.
func allowedCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// pinThread keeps the calling thread, and processes it starts, on some CPUs.
func pinThread(cpus ...int) error {
	var set unix.CPUSet
	for _, n := range cpus {
		set.Set(n)
	}
	return unix.SchedSetaffinity(0, &set)
}

// tripInGo is the round trip between two CPUs in microseconds, for machines without
// a C compiler. It is 0 if others keep the threads from running.
func tripInGo(a, b int, d time.Duration) (float64, error) {
	var to, from, stop struct {
		atomic.Uint64
		_ [120]byte
	}
	const batch = 64
	errs := make(chan error, 2)
	ready := make(chan struct{})
	var result float64
	// Their threads end with them, as they were never unlocked.
	go func() {
		runtime.LockOSThread()
		err := pinThread(b)
		close(ready)
		for n := uint64(1); ; {
			if to.Load() == n {
				from.Store(n)
				n++
			} else if stop.Load() != 0 {
				break
			}
		}
		errs <- err
	}()
	go func() {
		runtime.LockOSThread()
		err := pinThread(a)
		<-ready
		defer func() {
			stop.Store(1)
			errs <- err
		}()
		var times []float64
		n := uint64(0)
		looks := 0
		for begin := time.Now(); len(times) < 3 || time.Since(begin) < d; {
			start := time.Now()
			for range batch {
				n++
				to.Store(n)
				for from.Load() != n {
					if looks++; looks%(1<<16) == 0 && time.Since(begin) > 2*time.Second {
						return
					}
				}
			}
			times = append(times, float64(time.Since(start).Nanoseconds())/batch/1e3)
		}
		result = median(times)
	}()
	for range 2 {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return result, nil
}
