//go:build linux

package main

import "runtime"

var interferences = []*workload{
	{
		name:    "burn-client",
		title:   "a calculating goroutine per P of the client beside 64 active connections",
		columns: []string{"burn", "ops", "cpu", "p99"},
		over:    scalable,
		serve:   serveEcho,
		run: func(c *client) (sample, error) {
			c.burn()
			return roundTrip(c, 64, 0)
		},
		atLeast: 2,
	},
	{
		name:    "burn-server",
		title:   "a calculating goroutine per P of the server beside 64 active connections",
		columns: []string{"burn", "ops", "cpu", "p99"},
		over:    scalable,
		serve:   serveEcho,
		run: func(c *client) (sample, error) {
			c.burnAtServer = true
			if err := c.control.Call("Control.Burn", Nothing{}, new(Nothing)); err != nil {
				return sample{}, err
			}
			return roundTrip(c, 64, 0)
		},
		atLeast: 2,
	},
}

// burners are goroutines that know nothing of connections: what they get done tells
// what the connections leave of the processors.
type burners struct {
	done []counter
	last []uint64 // results, so that the compiler can't leave the work out
}

// burn starts one per P. They end with the process.
func (b *burners) burn() {
	b.done = make([]counter, runtime.GOMAXPROCS(0))
	b.last = make([]uint64, len(b.done))
	for i := range b.done {
		go func() {
			for x := uint64(1); ; {
				for range 1000 {
					x ^= x << 13
					x ^= x >> 7
					x ^= x << 17
				}
				b.last[i] = x
				b.done[i].Add(1)
			}
		}()
	}
}

// total is how many units they have done.
func (b *burners) total() (n float64) {
	for i := range b.done {
		n += float64(b.done[i].Load())
	}
	return n
}
