//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

var idles = []*workload{{
	name:    "idle",
	title:   "10,000 idle connections after an echo each, and when they are closed",
	columns: []string{"private", "shared", "fds", "goroutines", "busy", "before", "kept"},
	over:    scalable,
	serve:   serveEcho,
	run:     idle,
	atLeast: 3,
}}

// idle opens connections, does an echo on each, looks at what both processes take
// then, and after they are closed.
func idle(c *client) (sample, error) {
	n := 10_000
	if c.Quick {
		n = 1000
	}
	growGoroutines(n)
	if err := c.control.Call("Control.Grow", n, new(Nothing)); err != nil {
		return sample{}, err
	}
	before, err := c.footprints()
	if err != nil {
		return sample{}, err
	}
	conns, err := c.dialEchoed(n)
	defer func() { closeAll(conns) }()
	if err != nil {
		return sample{}, err
	}
	open, err := c.footprints()
	if err != nil {
		return sample{}, err
	}
	// The collector and the scavenger have something to do for a while.
	time.Sleep(time.Duration(c.Seconds * 1e9))
	from, err := c.read()
	if err != nil {
		return sample{}, err
	}
	time.Sleep(time.Duration(c.Seconds * 1e9))
	to, err := c.read()
	if err != nil {
		return sample{}, err
	}
	closeAll(conns)
	conns = nil
	// What is kept for a while for the next Dial goes within some seconds.
	var after Footprint
	for range 6 {
		if !c.Quick {
			time.Sleep(time.Second)
		}
		if after, err = c.footprints(); err != nil {
			return sample{}, err
		}
		if after.total() < 1.05*before.total() || c.Quick {
			break
		}
	}
	per := float64(n)
	return sample{Metrics: map[string]float64{
		"private": (open.Private - before.Private) / per,
		"shared":  (open.Shared - before.Shared) / per,
		"fds":     float64(open.FDs-before.FDs) / per,
		// The server has one for each connection of its own will.
		"goroutines": float64(open.Goroutines - before.Goroutines - n),
		"busy":       (to.cpu - from.cpu).Seconds() / to.at.Sub(from.at).Seconds() * 100,
		"before":     before.total() / 1e6,
		"kept":       after.total() / before.total(),
	}}, nil
}

func (f Footprint) total() float64 { return f.Private + f.Shared }

// footprints is the sum of both processes.
func (c *client) footprints() (Footprint, error) {
	mine, err := footprint()
	if err != nil {
		return mine, err
	}
	var theirs Footprint
	if err := c.control.Call("Control.Footprint", Nothing{}, &theirs); err != nil {
		return mine, err
	}
	return mine.plus(theirs), nil
}

// footprintNow reads what the kernel counts. Of shared memory each process that
// maps a page has its share, so that the sum of both is what there is.
func footprintNow() (f Footprint, err error) {
	file, err := os.Open("/proc/self/smaps_rollup")
	if err != nil {
		return f, err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	for s.Scan() {
		name, rest, _ := strings.Cut(s.Text(), ":")
		var kib float64
		switch name {
		case "Pss_Anon":
			fmt.Sscan(rest, &kib)
			f.Private = kib * 1024
		case "Pss_Shmem":
			fmt.Sscan(rest, &kib)
			f.Shared = kib * 1024
		}
	}
	if err := s.Err(); err != nil {
		return f, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return f, err
	}
	if _, rest, ok := strings.Cut(string(status), "\nVmPTE:"); ok {
		var kib float64
		fmt.Sscan(rest, &kib)
		f.PageTables = kib * 1024
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return f, err
	}
	f.Mappings = bytes.Count(maps, []byte("\n"))
	fds, err := os.ReadDir("/proc/self/fd")
	f.FDs = len(fds)
	f.Goroutines = runtime.NumGoroutine()
	return f, err
}
