//go:build linux

package main

import (
	"fmt"
	"math"
	"path"
)

// A bar is what ctnet is expected to reach in a workload.
type bar struct {
	workload string
	what     string // the figure is
	// near is for CPUs that share a cache, far for others.
	near, far float64
	atMost    bool
	figure    func(v view) float64 // NaN if it was not measured
}

// A verdict is whether it was reached.
type verdict struct {
	Workload  string    `json:"workload"`
	What      string    `json:"what"`
	Placement placement `json:"placement"`
	Rounds    int       `json:"rounds"` // the least of the workloads that it is about
	AtMost    bool      `json:"atMost"`
	Bar       float64   `json:"bar"`
	Figure    float64   `json:"figure"`
	Reached   bool      `json:"reached"`
}

// verdicts has those that can be told.
func (r *report) verdicts() (all []verdict) {
	views := r.views()
	for _, b := range bars {
		for _, v := range views {
			x := b.figure(v)
			if math.IsNaN(x) || math.IsInf(x, 0) {
				continue
			}
			limit := b.far
			if v.p.near() {
				limit = b.near
			}
			all = append(all, verdict{
				b.workload, b.what, v.p, v.rounds(b.workload), b.atMost, limit, x,
				b.atMost && x <= limit || !b.atMost && x >= limit,
			})
		}
	}
	return all
}

// rounds is the number of ct's samples of a workload, or of that workload of a
// pattern of which there are fewest.
func (v view) rounds(pattern string) (least int) {
	for _, w := range workloads {
		if ok, _ := path.Match(pattern, w.name); !ok {
			continue
		}
		if n := len(v.values(w.name, ct, w.columns[0])); n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// better is a bar for how many times better ct is than another transport.
func better(workload, metric, base string, near, far float64) bar {
	return bar{
		workload: workload,
		what:     fmt.Sprintf("%s, times better than %s's", metrics[metric].title, base),
		near:     near,
		far:      far,
		figure:   func(v view) float64 { return v.times(workload, ct, base, metric) },
	}
}

// share is a bar for a cost relative to that of another transport.
func share(workload, metric, base string, limit float64) bar {
	return bar{
		workload: workload,
		what:     fmt.Sprintf("%s, relative to %s's", metrics[metric].title, base),
		near:     limit,
		far:      limit,
		atMost:   true,
		figure: func(v view) float64 {
			b := v.median(workload, base, metric)
			if b == 0 {
				return math.NaN()
			}
			return v.median(workload, ct, metric) / b
		},
	}
}

// least is a bar for a metric itself.
func least(workload, metric string, limit float64) bar {
	return bar{workload, metrics[metric].title, limit, limit, false,
		func(v view) float64 { return v.median(workload, ct, metric) }}
}

func most(workload, metric string, limit float64) bar {
	b := least(workload, metric, limit)
	b.atMost = true
	return b
}

// steady is a bar for a row of workloads that differ in scale: the least rate of
// all relative to that of the first.
func steady(name, what string, sizes []int) bar {
	return bar{
		workload: name + "*",
		what:     what,
		near:     0.8,
		far:      0.8,
		figure: func(v view) float64 {
			rate := func(n int) float64 { return v.median(fmt.Sprint(name, n), ct, "ops") }
			least := math.Inf(1)
			for _, n := range sizes[1:] {
				// NaN stays: all of them are needed.
				least = min(least, rate(n)/rate(sizes[0]))
			}
			return least
		},
	}
}

// The bars that the project has set itself.
var bars = append([]bar{
	better("rtt", "p50", tcp, 50, 25),
	{
		"rtt", "p50, relative to the core-to-core round trip", 3, 3, true,
		func(v view) float64 { return v.median("rtt", ct, "p50") / v.trip() },
	},
	better("rtt", "p99", tcp, 50, 50),
	better("rtt", "p999", tcp, 5, 5),
	share("rtt-nospin", "p50", tcp, 0.6),
	share("paced", "p50", tcp, 0.6),
	share("paced", "busy", tcp, 1),

	better("conns-8", "ops", tcp, 15, 10),
	better("conns-8", "ops", unixes, 8, 6),
	share("conns-8", "cpu", tcp, 1./12),
	better("conns-64", "ops", tcp, 15, 10),
	better("conns-64", "ops", unixes, 8, 6),
	share("conns-64", "cpu", tcp, 1./12),
	better("conns-1000", "ops", tcp, 15, 10),
	better("conns-1000", "ops", unixes, 8, 6),
	share("conns-1000", "cpu", tcp, 1./12),

	better("stream-64k", "gbs", tcp, 5, 5),
	better("stream-64k", "gbs", unixes, 3, 3),
	share("stream-64k", "cpugb", tcp, 0.3),
	ofBestRing("stream-64k"),
	better("stream-1m", "gbs", tcp, 3, 3),
	better("stream-1m", "gbs", unixes, 2.5, 2.5),
	share("stream-1m", "cpugb", tcp, 0.3),
	ofBestRing("stream-1m"),
	better("stream-1k", "gbs", tcp, 20, 6),
	better("stream-1k", "gbs", unixes, 8, 3),
	better("stream-checked", "gbs", tcp, 2, 2),
	better("streams-64", "gbs", tcp, 2, 2),
	better("streams-64", "gbs", unixes, 1.5, 1.5),
	least("streams-64", "slowest", 0.5),

	better("dial-1", "ops", tcp, 10, 10),
	better("dial-16", "ops", tcp, 5, 5),

	better("http-1", "ops", tcp, 6, 6),
	share("http-1", "cpu", tcp, 0.22),
	better("http-64", "ops", tcp, 2.5, 2.5),
	better("http-64", "ops", unixes, 2, 2),
	share("http-64", "cpu", tcp, 0.45),
	{
		"http-64", "CPU us/op, relative to net/http's own", 1.5, 1.5, true,
		func(v view) float64 { return v.median("http-64", ct, "cpu") / v.median("http-floor", bufc, "cpu") },
	},
	better("http-1m", "gbs", tcp, 2, 2),
	better("http-1m", "gbs", unixes, 1.8, 1.8),
	better("grpc-1", "ops", tcp, 2.5, 2.5),
	better("grpc-64", "ops", tcp, 1.5, 1.5),
	better("grpc-stream", "gbs", tcp, 2, 2),

	share("idle", "private", tcp, 1),
	most("idle", "shared", 9<<10),
	// Doorbells and the like are a few for all of them.
	most("idle", "fds", 0.01),
	most("idle", "goroutines", 8),
	most("idle", "busy", 0.05),
	most("idle", "kept", 1.1),

	steady("scale-", "least ops/s of all, relative to one connection's", scaleOf),
	steady("peers-", "least ops/s of all, relative to one process's", peersOf),
	steady("busy-peers-", "least ops/s of all, relative to one process's", peersOf),
	better("burn-client", "burn", tcp, 1, 1),
	better("burn-server", "burn", tcp, 1, 1),

	// With more processes than CPUs.
	better("chain-copy", "ops", tcp, 2, 2),
	share("chain-copy", "cpu", tcp, 0.9),
	better("chain-copy-64", "ops", tcp, 2, 2),
	better("crowd-2", "ops", tcp, 1, 1),
	better("crowd-4", "ops", tcp, 1, 1),
	better("crowd-8", "ops", tcp, 1, 1),
	better("beside-rtt", "p50", tcp, 1, 1),
	better("beside-conns-64", "ops", tcp, 1, 1),
	better("beside-http-1", "ops", tcp, 1, 1),
	better("beside-http-64", "ops", tcp, 1, 1),
	better("beside-stream-64k", "gbs", tcp, 1, 1),

	better("alone-rtt", "p50", pipe, 1, 1),
	better("alone-rtt", "p50", bufc, 1, 1),
	better("alone-stream", "gbs", pipe, 1, 1),
	better("alone-stream", "gbs", bufc, 1, 1),
}, barsOfOneP()...)

func ofBestRing(workload string) bar {
	return bar{
		workload: workload,
		what:     "GB/s, relative to the best ring in C",
		near:     0.9,
		far:      0.9,
		figure: func(v view) float64 {
			return v.median(workload, ct, "gbs") / v.median(workload, cRing, "gbs")
		},
	}
}

// barsOfOneP: with one P nothing is slower than unix sockets.
func barsOfOneP() (all []bar) {
	for _, w := range oneP {
		all = append(all, better(w.name, w.columns[0], unixes, 1, 1))
	}
	return all
}
