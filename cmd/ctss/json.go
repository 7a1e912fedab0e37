package main

import (
	"encoding/json"
	"io"
	"strings"
	"time"

	"cutthrough.example/ctnet"
)

// jsonVersion changes when a field changes its name or meaning, and not when one is added.
const jsonVersion = 1

// A report is what -j prints. docs/ctss.md describes it.
type report struct {
	Version      int
	Time         time.Time
	Applications []ctnet.Snapshot
	Kernel       []kernelConn
	Sums         []pairSum `json:",omitempty"` // only with -s, and then there are no connections and listeners
	Errors       []string  // what could not be seen
	Ends         []end     `json:",omitempty"` // with --events
}

// writeJSON prints what the options select. An application is there also if nothing of it is
// selected.
func writeJSON(out io.Writer, o *options, h host, past []history, problems error) error {
	r := report{Version: jsonVersion, Time: time.Now().UTC(), Applications: []ctnet.Snapshot{}, Kernel: []kernelConn{}, Errors: []string{}}
	for i := range h.apps {
		a := h.apps[i]
		one := host{apps: h.apps[i : i+1]}
		listeners, conns := []ctnet.ListenerInfo{}, []ctnet.ConnInfo{}
		for _, row := range one.rows(o) {
			if o.summary {
				continue
			}
			if row.conn != nil {
				conns = append(conns, *row.conn)
			} else {
				listeners = append(listeners, ctnet.ListenerInfo{Network: row.network, Address: row.local, Backlog: row.sendQ, Waiting: row.recvQ})
			}
		}
		a.Listeners, a.Connections = listeners, conns
		r.Applications = append(r.Applications, a)
	}
	if o.summary {
		r.Sums = sums(o, h.apps, h.summed(o))
		h.kernel = nil
	}
	for _, k := range h.kernel {
		if row := k.row(nil); o.shows(&row) {
			r.Kernel = append(r.Kernel, k)
		}
	}
	for _, one := range past {
		r.Ends = append(r.Ends, one.ends...)
	}
	if problems != nil {
		r.Errors = strings.Split(problems.Error(), "\n")
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
