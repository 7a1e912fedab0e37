// Command ctss shows the listeners and connections of the programs on this machine that use ctnet,
// as ss does for sockets, and with the same flags and filters:
//
//	ctss -tap                                   # all, with their processes
//	ctss -i state established '( dport = :8080 )'
//	ctss --why                                  # what took the kernel's way, and why
//	ctss -w                                     # a view that is redrawn each second
//	ctss --events id = 1.0.0.1                  # what happened last at this one
//	ctss -K dst 127.0.0.1:8080                  # reset these
//	ctss dump 1.0.0.1 -w - | wireshark -k -i -  # see what flows over a connection
//
// It shows the applications of the caller's user; root sees all. docs/ctss.md has the rest.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the command. It returns the exit status: 2 if the arguments make no sense, and 1 if
// something could not be shown or done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "completion" {
		return exit(stderr, complete(stdout, args[1:]))
	}
	if len(args) > 0 && args[0] == "dump" {
		return runDump(ctx, args[1:], stdout, stderr)
	}
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintf(stderr, "ctss: %v; ctss -h shows what there is\n", err)
		return 2
	}
	if o.help {
		_, err := io.WriteString(stdout, usage)
		return exit(stderr, err)
	}
	if o.watch {
		return exit(stderr, watch(ctx, o, stdout))
	}
	all, problems := look(ctx, o)
	if len(all.apps) == 0 && problems == nil && os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "ctss: no program of this user uses ctnet here; root sees those of all users")
	}
	var past []history
	if o.events && !o.kill {
		var failed error
		past, failed = histories(ctx, o, all)
		problems = errors.Join(problems, failed)
	}
	out := bufio.NewWriter(stdout)
	switch {
	case o.kill:
		var failed error
		failed = kill(ctx, out, o, all)
		problems = errors.Join(problems, failed)
	case o.json:
		err = writeJSON(out, o, all, past, problems)
	case o.events:
		writeEvents(out, o, width(stdout), past, time.Now())
	case o.why:
		writeWhy(out, width(stdout), all)
	case o.summary:
		writeSummary(out, o, width(stdout), all)
	case o.names != "":
		writeNames(out, o.names, all)
	default:
		writeTable(out, o, width(stdout), all)
	}
	return exit(stderr, errors.Join(err, out.Flush(), problems))
}

// exit prints errors and returns the exit status. When nobody reads the output any more there is
// nobody to tell.
func exit(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if !errors.Is(err, syscall.EPIPE) {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(stderr, "ctss:", clean(strings.TrimSuffix(line, "\n")))
		}
	}
	return 1
}

// A host is what was found on this machine.
type host struct {
	apps   []ctnet.Snapshot
	kernel []kernelConn // of these applications' processes
}

// look asks all applications. The error says which could not be asked; the rest is there.
func look(ctx context.Context, o *options) (host, error) {
	apps, err := ctnet.Inspect(ctx)
	h := host{apps: apps}
	if ctx.Err() == nil && !o.kill && !o.why && !o.events {
		var kernelErr error
		h.kernel, kernelErr = kernelConns(apps)
		err = errors.Join(err, kernelErr)
	}
	return h, err
}
