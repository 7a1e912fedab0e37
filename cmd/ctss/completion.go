package main

import (
	"embed"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

//go:embed completion/ctss.bash completion/ctss.zsh completion/ctss.fish
var scripts embed.FS

// complete prints a shell's script.
func complete(out io.Writer, args []string) error {
	if len(args) == 1 {
		if b, err := scripts.ReadFile("completion/ctss." + args[0]); err == nil {
			_, err := out.Write(b)
			return err
		}
	}
	return fmt.Errorf("completion needs one of bash, zsh and fish")
}

// writeNames prints for these scripts the ports, or the names, of all listeners and connections, or the IDs of
// connections, one a line.
func writeNames(out io.Writer, what string, h host) {
	found := make(map[string]bool)
	for _, r := range h.rows(&options{all: true, filter: &filter{}}) {
		if what == "ids" && r.conn != nil {
			found[clean(r.conn.ID)] = true
		}
		for _, address := range []string{r.local, r.remote} {
			at, err := netip.ParseAddrPort(address)
			switch {
			case what == "ports" && err == nil:
				found[fmt.Sprintf(":%d", at.Port())] = true
			case what == "names" && (r.state == stateListen || err == nil) && address != "*":
				found[clean(address)] = true
			}
		}
	}
	var all []string
	for s := range found {
		all = append(all, s)
	}
	slices.Sort(all)
	for _, s := range all {
		fmt.Fprintln(out, s)
	}
}
