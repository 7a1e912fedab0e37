//go:build linux

package main

import "slices"

// A workload is one row of the table: something a program does with connections,
// over each transport that can do it.
type workload struct {
	name    string
	title   string
	columns []string // the metrics to show; the first is the one that is compared
	over    []string // names of transports

	// env is added to the environment of both processes.
	env []string

	// beside is how many processes burn CPU time meanwhile.
	beside int

	// quota is what each process may use of the machine, in percent of a CPU, or 0 for all of it.
	quota int

	// alone is for workloads whose client and server are in one process.
	alone bool

	// serve makes the server ready; it returns when it is.
	serve func(*server) error

	// run does the work and measures it.
	run func(*client) (sample, error)

	// ops makes the operations of a client process among others, an operation for each
	// connection, see peers.
	ops func(c *client, conns int) ([]func() error, error)

	// limit does so in C, once a round, to show what the machine allows.
	limit func(l *limits, seconds float64) (sample, error)

	// long is for what a quick run leaves out: it differs from another one in
	// numbers only.
	long bool

	// atLeast is for how many seconds it measures, but in a quick run.
	atLeast float64
}

// A metric is something that is measured.
type metric struct {
	title  string
	higher bool // is better
}

var metrics = map[string]metric{
	"ops":  {"ops/s", true},
	"p50":  {"p50 us", false},
	"p99":  {"p99 us", false},
	"p999": {"p99.9 us", false},
	"cpu":  {"CPU us/op", false},
	"busy": {"CPU %", false},
	"burn": {"M units/s", true},

	"gbs":     {"GB/s", true},
	"cpugb":   {"CPU s/GB", false},
	"slowest": {"slowest/mean", true},
	"memcpy":  {"memcpy GB/s", true},
	"nt":      {"non-temporal GB/s", true},

	"private":     {"private B/conn", false},
	"shared":      {"shared B/conn", false},
	"fds":         {"fds/conn", false},
	"tables":      {"page tables B/conn", false},
	"mappings":    {"mappings/conn", false},
	"dial":        {"dial, echo us", false},
	"snapshot":    {"Snapshot us/conn", false},
	"answer":      {"JSON B/conn", false},
	"attach":      {"first dial us", false},
	"lprivate":    {"private B/listener", false},
	"lfds":        {"fds/listener", false},
	"lgoroutines": {"goroutines/listener", false},
	"goroutines":  {"goroutines", false},
	"before":      {"before MB", false},
	"kept":        {"after/before", false},
}

var workloads = slices.Concat(roundTrips, streams, dials, webs, rpcs, idles, scales, growths, interferences, chains, crowds, thinks, procs, lonely, oneP)

func workloadNamed(name string) *workload {
	for _, w := range workloads {
		if w.name == name {
			return w
		}
	}
	return nil
}
