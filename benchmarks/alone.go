//go:build linux

package main

// within are the transports inside one process; there ctnet uses no shared memory,
// bitmap or worker.
var within = []string{tcp, unixes, pipe, bufc, ct}

var lonely = []*workload{
	{
		name:    "alone-rtt",
		title:   "one process: 64 B round trip",
		columns: []string{"p50", "p99", "p999", "ops", "cpu"},
		over:    within,
		alone:   true,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return roundTrip(c, 1, 0) },
	},
	{
		name:    "alone-stream",
		title:   "one process: stream, writes of 64 KiB",
		columns: []string{"gbs", "cpugb"},
		over:    within,
		alone:   true,
		serve:   serveOneWay(64 << 10),
		run:     func(c *client) (sample, error) { return stream(c, 1, 64<<10, false) },
	},
	{
		name:    "alone-dial",
		title:   "one process: dial, 64 B echo, close",
		columns: []string{"ops", "cpu", "p50", "p99"},
		over:    within,
		alone:   true,
		serve:   serveEcho,
		run:     func(c *client) (sample, error) { return dialRepeatedly(c, 1) },
	},
}

// oneP are workloads of other files again, with one P in each process: there
// whoever spins is in the way of everything else.
var oneP = func() (all []*workload) {
	for _, w := range []*workload{
		roundTrips[0], roundTripsOn(64), streamOf("stream-64k", 64<<10), streamOf("stream-1k", 1<<10),
		dials[0], hello(1), hello(64), unary(64),
	} {
		w := *w
		w.name = "p1-" + w.name
		w.title = "GOMAXPROCS=1: " + w.title
		w.over = scalable
		w.env = []string{"GOMAXPROCS=1"}
		w.limit = nil
		all = append(all, &w)
	}
	return all
}()
