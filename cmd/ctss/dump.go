package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cutthrough.example/ctnet"
)

const dumpUsage = `usage: ctss dump ID -w FILE [-p PID] [-s BYTES] [-c COUNT]

Writes what flows over a connection as a pcapng file for Wireshark. ID is as
ctss -e shows it.

  -w FILE   write to this file; - is standard output
  -p PID    the process, if several have a connection with that ID
  -s BYTES  keep only that many bytes of each packet, with its headers
  -c COUNT  end after that many packets

It ends with the connection, or with Ctrl-C. While it runs:

  ctss dump 1.0.0.1 -w - | wireshark -k -i -
`

// A dump is what the arguments of ctss dump say.
type dump struct {
	id, file string
	pid      int
	config   ctnet.CaptureConfig
}

// parseDump reads the arguments. The ID may be before the flags or after them.
func parseDump(args []string) (d dump, err error) {
	flags := flag.NewFlagSet("dump", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&d.file, "w", "", "")
	flags.IntVar(&d.pid, "p", 0, "")
	flags.IntVar(&d.config.SnapLen, "s", 0, "")
	flags.Uint64Var(&d.config.Count, "c", 0, "")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		d.id, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return d, err
	}
	if d.id == "" {
		d.id = flags.Arg(0)
		args = flags.Args()[min(1, flags.NArg()):]
	} else {
		args = flags.Args()
	}
	switch {
	case len(args) > 0:
		return d, fmt.Errorf("there is more than one ID: %q", args[0])
	case d.id == "":
		return d, errors.New("dump needs the ID of a connection")
	case d.file == "":
		return d, errors.New("dump needs -w and a file")
	case d.config.SnapLen < 0:
		return d, errors.New("-s needs a number of bytes")
	}
	return d, nil
}

// runDump is the command. It returns the exit status.
func runDump(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	d, err := parseDump(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(stdout, dumpUsage)
		return exit(stderr, err)
	}
	if err != nil {
		fmt.Fprintf(stderr, "ctss: %v; ctss dump -h shows what there is\n", err)
		return 2
	}
	signal.Ignore(syscall.SIGPIPE) // so that a Write fails, and the process says so
	out := &dumpFile{name: d.file, stdout: stdout}
	counts, err := d.run(ctx, out, stderr)
	if err == errStuck {
		return exit(stderr, err)
	}
	err = errors.Join(err, out.Close())
	if out.began {
		fmt.Fprintf(stderr, "ctss: %d packets, %d bytes sent, %d bytes received", counts.Packets, counts.Sent, counts.Received)
		if counts.Dropped > 0 {
			fmt.Fprintf(stderr, "; %d packets are missing, as they were not written fast enough", counts.Dropped)
		}
		fmt.Fprintln(stderr)
	}
	return exit(stderr, err)
}

// giveUp is how long a dump that is to end waits for a Write that does not return, such as to a pipe that
// nobody reads.
const giveUp = time.Second

var (
	errStuck  = errors.New("the output takes nothing any more; the end of the capture is lost")
	errUnread = errors.New("nobody reads the output any more")
)

// run captures the connection. It is no error that it is interrupted. After errStuck the file is still in use.
func (d *dump) run(ctx context.Context, out *dumpFile, stderr io.Writer) (counts ctnet.CaptureCounts, err error) {
	all, problems := ctnet.Inspect(ctx)
	app, err := d.choose(all)
	if err != nil {
		return counts, errors.Join(err, problems)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out.opened = func() {
		fmt.Fprintf(stderr, "ctss: capturing connection %s of process %d, %s; Ctrl-C ends it\n", clean(d.id), app.PID, clean(app.Program))
		if file, ok := out.w.(*os.File); ok {
			fd := file.Fd()
			go func() {
				if awaitUnread(ctx, fd) {
					cancel(errUnread)
				}
			}()
		}
	}
	type result struct {
		counts ctnet.CaptureCounts
		err    error
	}
	done := make(chan result, 1)
	go func() {
		counts, err := app.CaptureConn(ctx, d.id, out, d.config)
		done <- result{counts, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done:
		case <-time.After(giveUp):
			return counts, errStuck
		}
	}
	if errors.Is(r.err, context.Canceled) {
		r.err = nil
		if context.Cause(ctx) == errUnread {
			r.err = errUnread
		}
	}
	return r.counts, r.err
}

// choose returns the application that has the connection.
func (d *dump) choose(all []ctnet.Snapshot) (*ctnet.Snapshot, error) {
	var found []*ctnet.Snapshot
	var pids []string
	for i := range all {
		for _, c := range all[i].Connections {
			if c.ID == d.id && (d.pid == 0 || d.pid == all[i].PID) {
				found = append(found, &all[i])
				pids = append(pids, fmt.Sprint(all[i].PID))
				break // two ends of one connection in one application have one ID
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("processes %s have a connection with the ID %s: add -p and one of them", strings.Join(pids, ", "), d.id)
	}
	return nil, fmt.Errorf("there is no connection with the ID %s", d.id)
}

// A dumpFile is the file that a dump writes to. It is made by the first Write, so a capture that does not
// begin leaves none, and only its user can read it.
type dumpFile struct {
	name   string
	stdout io.Writer
	opened func() // called once

	began bool
	w     io.Writer
}

func (f *dumpFile) Write(b []byte) (int, error) {
	if f.w == nil {
		if f.name == "-" {
			f.w = f.stdout
		} else {
			file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return 0, err
			}
			f.w = file
		}
		f.began = true
		f.opened()
	}
	n, err := f.w.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errUnread
	}
	return n, err
}

// Close closes the file, but not standard output.
func (f *dumpFile) Close() error {
	if file, ok := f.w.(*os.File); ok && f.name != "-" {
		return file.Close()
	}
	return nil
}
