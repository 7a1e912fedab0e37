// Command ctss shows the listeners and connections of the programs on this
// machine that use ctnet, as ss and netstat do for sockets. It shows those of
// applications that listen, and belong to the caller's user; root sees all.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"

	"cutthrough.example/ctnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	all, err := ctnet.Inspect(ctx)
	show(os.Stdout, all)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctss:", err)
		os.Exit(1)
	}
}

// show prints a line for each listener and each end of a connection, with the
// columns of ss: a listener's queue is that of the connections to be accepted.
func show(out io.Writer, all []ctnet.Snapshot) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "State\tRecv-Q\tSend-Q\tLocal\tRemote\tPeer\tProcess")
	for _, s := range all {
		process := fmt.Sprintf("%s/%d", s.Program, s.PID)
		for _, l := range s.Listeners {
			fmt.Fprintf(w, "LISTEN\t%d\t%d\t%s\t*\t\t%s\n", l.Waiting, l.Backlog, l.Address, process)
		}
		for _, c := range s.Connections {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%d\t%s\n", c.State, c.RecvQueue, c.SendQueue, c.Local, c.Remote, c.Peer.PID, process)
		}
	}
	for _, s := range all {
		fmt.Fprintf(w, "\n%s/%d: %d connections, %d segments of %d MiB together", s.Program, s.PID, s.Conns, s.Segments, s.Bytes>>20)
	}
	fmt.Fprintln(w)
}
