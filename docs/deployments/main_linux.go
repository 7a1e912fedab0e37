// Command deployments runs the scripts in places, each of which imitates a place where two programs
// meet, and checks which way their connection takes, and why.
//
//	go run ./docs/deployments [-run regexp] [-v]
//	go run ./docs/deployments -measure 500ms [-rounds n] [-before commit]
//
// With -measure it prints a table with the requests a second that net/http makes on one connection,
// beside those over the kernel's socket alone, and beside those of an earlier commit. It needs root,
// and util-linux and iproute2.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("deployments: ")
	match := flag.String("run", "", "run the places whose names match this `regexp`")
	verbose := flag.Bool("v", false, "print what each place prints")
	measure := flag.Duration("measure", 0, "make requests for this `duration` in each place, and print the table")
	rounds := flag.Int("rounds", 3, "with -measure: measure each place `n` times, in turns, and print the best")
	before := flag.String("before", "", "with -measure: also measure the package of this `commit`")
	flag.Parse()
	pattern, err := regexp.Compile(*match)
	if err != nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	dir, err := os.MkdirTemp("", "deployments")
	if err != nil {
		log.Fatal(err)
	}
	err = run(dir, pattern, *verbose, table{measure: *measure, rounds: *rounds, before: *before})
	os.RemoveAll(dir)
	if err != nil {
		log.Fatal(err)
	}
}

// run runs the places that match a pattern. dir is for the programs.
func run(dir string, pattern *regexp.Regexp, verbose bool, t table) error {
	source, err := sourceDir()
	if err != nil {
		return err
	}
	places, err := readPlaces(filepath.Join(source, "places"))
	if err != nil {
		return err
	}
	places = slices.DeleteFunc(places, func(p place) bool { return !pattern.MatchString(p.name) })
	t.now = filepath.Join(dir, "now")
	if err := build(source, t.now, ""); err != nil {
		return err
	}
	if t.measure > 0 {
		return t.print(dir, source, places)
	}
	failed := 0
	for _, p := range places {
		if why := p.missing(); why != "" {
			fmt.Printf("%-24s not tried: %s\n", p.name, why)
			continue
		}
		r, err := p.run(t.now)
		if verbose {
			os.Stdout.Write(r.output)
		}
		if err == nil {
			err = p.check(r)
		}
		if err != nil {
			failed++
			fmt.Printf("%-24s FAILED: %v\n", p.name, err)
			continue
		}
		fmt.Printf("%-24s %-16s %s\n", p.name, r.way, p.because)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d places are not as they should be", failed, len(places))
	}
	return nil
}

// sourceDir returns the directory of this command, which go run can be told in two ways.
func sourceDir() (string, error) {
	for _, dir := range []string{".", "docs/deployments"} {
		if _, err := os.Stat(filepath.Join(dir, "places", "lib.sh")); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", errors.New("run it in the repository's root")
}

// build builds the programs that the places run. They are not linked with C, as they also run in
// a root directory that has nothing else.
func build(source, to, tags string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	host, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	cmd := exec.Command("go", "build", "-tags", tags, "-o", to, "./way", "./imitate")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+strings.TrimSpace(string(host)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// buildBefore builds the programs with the package as it was at a commit.
func buildBefore(commit, source, dir, to string) error {
	tree := filepath.Join(dir, "tree")
	at := filepath.Join(tree, "docs", "deployments")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	script := `git -C "$(git -C "$1" rev-parse --show-toplevel)" archive "$2" | tar -x -C "$3" && cp -r "$1/way" "$1/imitate" "$4"`
	if out, err := exec.Command("sh", "-ec", script, "sh", source, commit, tree, at).CombinedOutput(); err != nil {
		return fmt.Errorf("commit %s: %w\n%s", commit, err, out)
	}
	return build(at, to, "before")
}

// groups has the names of the places in the order in which the table has them.
var groups = []struct {
	title  string
	places []string
}{
	{"One host", []string{"one-user", "two-users", "root-and-user", "user-and-root", "two-users-unix", "two-users-unix-allow",
		"two-users-ct-untold", "two-users-ct", "runtime-dir", "switched-off"}},
	{"systemd", []string{"private-tmp", "dynamic-user", "hardened", "no-af-unix", "no-af-unix-dialer", "no-memfd", "no-memfd-listener",
		"private-users", "private-users-same", "private-network", "private-network-dir", "joined-network",
		"socket-unit", "socket-unit-allow", "root-directory", "no-proc", "memory-max"}},
	{"Docker", []string{"docker-bridge", "docker-service", "docker-host", "docker-userns-remap"}},
	{"Kubernetes", []string{"pod", "pod-user-namespace", "two-pods", "volume-ct", "volume-two-users", "volume-unix",
		"volume-tcp", "volume-one-side", "volume-user-namespaces"}},
	{"Rootless", []string{"rootless-pod", "rootless-host", "rootless-stranger", "rootless-bridge"}},
}

// A place is a script, with what its first lines say of it.
type place struct {
	path, name, group string
	title             string   // what is imitated
	way               string   // the way that connections should take
	because           string   // why they do
	why               string   // a part of the dialer's reason not to use shared memory, or ""
	log               string   // a part of the one line that the listener logs, or "" if it logs none
	needs             string   // what not every machine has, or ""
	imitates          []string // files, each with settings in it
}

// readPlaces reads the first lines of all scripts.
func readPlaces(dir string) (places []place, err error) {
	for _, g := range groups {
		for _, name := range g.places {
			p := place{path: filepath.Join(dir, name+".sh"), name: name, group: g.title}
			text, err := os.ReadFile(p.path)
			if err != nil {
				return nil, err
			}
			fields := map[string]*string{
				"place": &p.title, "way": &p.way, "because": &p.because, "why": &p.why, "listener": &p.log, "needs": &p.needs,
			}
			for line := range strings.Lines(string(text)) {
				key, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "# "), ": ")
				if !ok || !strings.HasPrefix(line, "# ") {
					break
				}
				if key == "imitates" {
					p.imitates = strings.Split(value, "; ")
					continue
				}
				field := fields[key]
				if field == nil {
					return nil, fmt.Errorf("%s: no such field: %s", p.path, key)
				}
				*field = value
			}
			if p.title == "" || p.way == "" || p.because == "" {
				return nil, fmt.Errorf("%s: place, way or because is missing", p.path)
			}
			places = append(places, p)
		}
	}
	return places, nil
}

// missing says what the place needs and this machine does not have.
func (p place) missing() string {
	if p.needs == "" {
		return ""
	}
	parent := "/sys/fs/cgroup/memory"
	if enabled, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control"); err == nil {
		parent = "/sys/fs/cgroup"
		if !slices.Contains(strings.Fields(string(enabled)), "memory") {
			return p.needs
		}
	}
	group, err := os.MkdirTemp(parent, "ctnet-probe-")
	if err != nil {
		return p.needs
	}
	os.Remove(group)
	return ""
}

// A result is what a place has printed.
type result struct {
	output []byte
	way    string // the dialer's word
	why    string
	server string   // the listener's word
	log    []string // what the listener has logged
	rate   float64  // requests a second, or 0
}

// run runs a place with the programs in a directory, and with further variables in its environment.
func (p place) run(programs string, env ...string) (result, error) {
	cmd := exec.Command("sh", p.path)
	cmd.Env = append(os.Environ(), "PROGRAMS="+programs)
	for _, name := range []string{"CTNET_DIR", "CTNET_ALLOW", "CTNET_KERNEL_ONLY", "XDG_RUNTIME_DIR", "MEASURE"} {
		cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{output: out}, fmt.Errorf("%w\n%s", err, out)
	}
	return parse(out)
}

// parse takes apart what a place has printed.
func parse(out []byte) (result, error) {
	r := result{output: out}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "way":
			r.way, _, _ = strings.Cut(value, ",")
		case "why":
			r.why = value
		case "server":
			r.server = value
		case "listener":
			r.log = append(r.log, value)
		case "requests/s":
			var err error
			if r.rate, err = strconv.ParseFloat(value, 64); err != nil {
				return r, err
			}
		}
	}
	if r.way == "" {
		return r, fmt.Errorf("it does not say which way was taken:\n%s", out)
	}
	return r, nil
}

// none is the way of a Dial that has failed.
const none = "none"

// check reports whether all is as the script says.
func (p place) check(r result) error {
	switch {
	case r.way != p.way:
		return fmt.Errorf("the way is %s (%s), and should be %s", r.way, r.why, p.way)
	case !strings.Contains(r.why, p.why) || p.why == "" && r.why != "":
		return fmt.Errorf("the reason is %q, and should be %q", r.why, p.why)
	case r.way != none && !strings.Contains(r.server, "by "+r.way):
		return fmt.Errorf("the way is %s, and the server says: %s", r.way, r.server)
	case p.log == "" && len(r.log) > 0, p.log != "" && (len(r.log) != 1 || !strings.Contains(r.log[0], p.log)):
		return fmt.Errorf("the listener has logged %q, and should log %q", r.log, p.log)
	}
	return nil
}

// A table is printed with the requests a second in each place.
type table struct {
	now     string // the directory of the programs
	measure time.Duration
	rounds  int
	before  string // a commit, or ""
}

// print measures all places and prints the table.
func (t table) print(dir, source string, places []place) error {
	old := ""
	if t.before != "" {
		old = filepath.Join(dir, "before")
		if err := buildBefore(t.before, source, dir, old); err != nil {
			return err
		}
	}
	rows := make([]row, len(places))
	for round := range t.rounds {
		for i, p := range places {
			if p.missing() != "" {
				continue
			}
			fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d: %s", round+1, t.rounds, p.name)
			if err := rows[i].add(p, t, old); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	group := ""
	for i, p := range places {
		if p.group != group {
			group = p.group
			fmt.Printf("\n%s:\n\n", group)
			head := []string{"place", "before", "requests/s", "now", "requests/s", "over TCP or the socket file", "why"}
			if old == "" {
				head = slices.Delete(head, 1, 3)
			}
			writeRow(os.Stdout, head)
			writeRow(os.Stdout, slices.Repeat([]string{"---"}, len(head)))
		}
		cells := []string{fmt.Sprintf("[%s](deployments/places/%s.sh)", p.title, p.name)}
		if old != "" {
			cells = append(cells, rows[i].oldWay, rate(rows[i].old))
		}
		now := p.way
		if why := p.missing(); why != "" {
			now = "not tried: " + why
		}
		writeRow(os.Stdout, append(cells, now, rate(rows[i].now), rate(rows[i].kernel), p.because))
	}
	return nil
}

// A row has the requests a second of each round.
type row struct {
	oldWay           string
	old, now, kernel []float64
}

// add measures a place once more.
func (w *row) add(p place, t table, old string) error {
	measure := "MEASURE=" + t.measure.String()
	if old != "" {
		// An earlier version may fail, or go astray, in any way.
		r, err := p.run(old, measure)
		if err != nil {
			r.way = none
		}
		w.oldWay = r.way
		if r.rate > 0 {
			w.old = append(w.old, r.rate)
		}
	}
	r, err := p.run(t.now, measure)
	if err == nil {
		err = p.check(r)
	}
	if err != nil {
		return err
	}
	if r.rate > 0 {
		w.now = append(w.now, r.rate)
	}
	// On network ct there is no kernel's socket.
	if r, err = p.run(t.now, measure, "CTNET_KERNEL_ONLY=1"); err == nil && r.way == "kernel's socket" {
		w.kernel = append(w.kernel, r.rate)
	}
	return err
}

// rate returns the best rate in a form for the table. On a machine that has other work to do it says
// more than the median.
func rate(rates []float64) string {
	if len(rates) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f k", slices.Max(rates)/1000)
}

func writeRow(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
