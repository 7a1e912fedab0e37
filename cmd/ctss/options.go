package main

import (
	"fmt"
	"strings"
)

const usage = `usage: ctss [flags] [filter]

Shows the connections of programs that use ctnet, as ss does.

  -a, --all         listeners too
  -l, --listening   listeners only
  -n, --numeric     don't look up the names of ports and users
  -p, --processes   the processes at both ends
  -m, --memory      fifos; and what each pair of applications has of memory
  -i, --info        bytes, calls, stalls, notifications
  -e, --extended    ID, user, age, idle time, place, program
  -s, --summary     numbers only: by network, by pair of processes, by program
  -t, -x, -c        network tcp only, unix only, ct only
  -j, --json        JSON, see docs/ctss.md
  -w, --watch       redraw each second, until Ctrl-C
      --why         what took the kernel's way, and why
      --events      what happened last at the connections the filter selects
  -K, --kill        reset the connections that the filter selects
  -h, --help

A filter is written as for ss:

  ctss state established '( dport = :8080 or sport = :8080 )'
  ctss dst 127.0.0.1 and not src svc/echo
  ctss id = 3.0.17.2        # as -e shows it;  pid = 4242 is one more
  ctss -s 'idle > 1m'       # and age: how long ago something happened
  ctss 'space >= 20%'       # writers stalled for space so much of their age

States: established half-open fin-wait close-wait closing reset closed
listening; all; connected, which is all but the last two. Operators: = != < > <=
>=, and or not.
/k behind a network's name marks the kernel's connections of these programs.

ctss dump ID -w FILE writes what flows over a connection, for Wireshark.
ctss completion bash|zsh|fish prints a script for the shell.
`

// Options are what the arguments say.
type options struct {
	all, listening, numeric, processes, memory, info, extended bool
	summary, json, watch, why, events, kill, help              bool
	networks                                                   map[string]bool // only these; empty for all
	filter                                                     *filter
	filtered                                                   bool   // the filter is not empty, or there are networks
	names                                                      string // "ports", "names" or "ids", for completion
}

// parseOptions reads the arguments: flags, which may be bundled, and then a filter.
func parseOptions(args []string) (*options, error) {
	o := &options{networks: map[string]bool{}}
	long := map[string]*bool{
		"all": &o.all, "listening": &o.listening, "numeric": &o.numeric, "processes": &o.processes,
		"memory": &o.memory, "info": &o.info, "extended": &o.extended, "summary": &o.summary,
		"json": &o.json, "watch": &o.watch, "why": &o.why, "kill": &o.kill, "help": &o.help,
		"events": &o.events,
	}
	short := map[rune]*bool{
		'a': &o.all, 'l': &o.listening, 'n': &o.numeric, 'p': &o.processes, 'm': &o.memory, 'i': &o.info,
		'e': &o.extended, 's': &o.summary, 'j': &o.json, 'w': &o.watch, 'K': &o.kill, 'h': &o.help,
	}
	networks := map[rune]string{'t': "tcp", 'x': "unix", 'c': "ct"}
	var words []string
	for i, arg := range args {
		if arg == "--" {
			words = append(words, args[i+1:]...)
			break
		}
		name, isLong := strings.CutPrefix(arg, "--")
		letters, isShort := strings.CutPrefix(arg, "-")
		switch {
		case isLong:
			if what, ok := strings.CutPrefix(name, "complete="); ok && (what == "ports" || what == "names" || what == "ids") {
				o.names = what
				continue
			}
			p := long[name]
			if p == nil {
				return nil, fmt.Errorf("there is no flag %q", arg)
			}
			*p = true
		case isShort && letters != "":
			for _, r := range letters {
				if n := networks[r]; n != "" {
					o.networks[n] = true
				} else if p := short[r]; p != nil {
					*p = true
				} else {
					return nil, fmt.Errorf("there is no flag -%c", r)
				}
			}
		default:
			words = append(words, arg)
		}
	}
	var err error
	if o.filter, err = parseFilter(strings.Join(words, " ")); err != nil {
		return nil, err
	}
	o.filtered = len(words) > 0 || len(o.networks) > 0
	if o.kill && len(words) == 0 {
		return nil, fmt.Errorf("-K needs a filter that says what to reset")
	}
	if o.events && len(words) == 0 {
		return nil, fmt.Errorf("--events needs a filter that says of which connections")
	}
	return o, nil
}

// shows reports whether a row is to be shown: by default all but listeners, as ss does it.
func (o *options) shows(r *row) bool {
	listens := r.state == stateListen
	switch {
	case len(o.networks) > 0 && !o.networks[r.network]:
		return false
	case o.filter.hasStates:
	case o.listening && !o.all:
		if !listens {
			return false
		}
	case listens && !o.all:
		return false
	}
	return o.filter.match(r)
}
