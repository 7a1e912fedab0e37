package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"github.com/stretchr/testify/require"
)

// drillTime is the most that a drill may take: a guard against hangs.
const drillTime = 2 * time.Minute

// TestDrill puts each fault of docs/drill.md, and none, into a pair of services, runs the document's
// commands, and reads what they print as it says. A pair without a fault is told apart also when processes
// never spin, and on a busy machine; so are the faults, in the long form.
func TestDrill(t *testing.T) {
	u := newDriller(t)
	faults := []string{"none", "stopped", "stalled", "fallback", "leak", "fifo"}
	machines := []string{"spinning", "sleeping", "busy"}
	for _, fault := range faults {
		for i, machine := range machines {
			if fault != "none" && i >= harness.Long(1, len(machines)) {
				continue
			}
			t.Run(fault+"/"+machine, func(t *testing.T) {
				t.Parallel()
				if fault == "fallback" && os.Geteuid() != 0 {
					t.Skip("only root can have another user")
				}
				d := u.drill(t, fault, machine)
				d.await(fault)
				for fault == "none" && d.requests() < 50 {
					d.await(fault)
				}
				require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
				require.NoError(t, d.cmd.Wait())
				d.requireGone()
				if d.dir != "" {
					left, err := filepath.Glob(filepath.Join(d.dir, "*.sock"))
					require.NoError(t, err)
					require.Empty(t, left)
				}
			})
		}
	}
}

// TestDrillEnds has drills end by themselves, and by a signal that they can't catch, also when a service is
// stopped.
func TestDrillEnds(t *testing.T) {
	u := newDriller(t)
	out, err := u.command("-fault", "none", "-for", "100ms").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, args := range [][]string{nil, {"-fault", "nothing"}} {
		out, err := u.command(args...).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "-fault must be one of [none stopped stalled fallback leak fifo]")
	}
	for _, fault := range []string{"none", "stopped"} {
		d := u.drill(t, fault, "spinning")
		d.await(fault)
		require.NoError(t, d.cmd.Process.Kill())
		require.Error(t, d.cmd.Wait())
		d.requireGone()
	}
}

// A driller has the commands, and the document.
type driller struct {
	*user
	bin, doc string
}

func newDriller(t *testing.T) *driller {
	u := newUser(t)
	d := &driller{u, u.dir, u.read("docs/drill.md")}
	build := exec.Command("go", "build", "-o", d.bin+"/", "./examples/drill", "./cmd/ctss")
	build.Dir, build.Env = u.root, u.env
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return d
}

func (u *driller) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(u.bin, "drill"), args...)
	cmd.Env = u.env
	return cmd
}

// drill starts a drill, on a machine where processes spin, or sleep at once, or which is busy.
func (u *driller) drill(t *testing.T, fault, machine string) *drill {
	require.Contains(t, u.doc, "\n    $ go run ./examples/drill -fault "+fault+"\n", "the document does not have it")
	dir := ""
	if fault != "fallback" { // the other user may not go into the directory
		dir = shortDir(t)
	}
	d := &drill{t: t, bin: u.bin, dir: dir, end: time.Now().Add(drillTime), env: slices.Concat(u.env, []string{"CTNET_DIR=" + dir})}
	switch machine {
	case "sleeping":
		d.env = append(d.env, "CTNET_SPIN=0")
	case "busy":
		keepBusy(t)
	}
	d.start(fault)
	for _, c := range d.commands {
		require.Contains(t, numbers.ReplaceAllString(u.doc, "N"), "$ ctss "+numbers.ReplaceAllString(c, "N")+"\n", "the document does not have it")
	}
	return d
}

var numbers = regexp.MustCompile(`\d+`)

// shortDir returns a directory whose path is short enough for sockets in it.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ctnet-drill-") // t.TempDir's is too long
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// keepBusy has twice as many processes as there are CPUs do nothing but that.
func keepBusy(t *testing.T) {
	for range 2 * runtime.NumCPU() {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
}

// A drill is one under way.
type drill struct {
	t        *testing.T
	bin      string
	dir      string // "" for the network namespace
	env      []string
	cmd      *exec.Cmd
	commands []string
	client   string // the process's number
	server   string
	printed  []string // by the last commands
	end      time.Time
}

// start starts it, and learns the commands from what it prints.
func (d *drill) start(fault string) {
	d.cmd = exec.Command(filepath.Join(d.bin, "drill"), "-fault", fault, "-for", drillTime.String())
	d.cmd.Env, d.cmd.Stderr = d.env, os.Stderr
	out, err := d.cmd.StdoutPipe()
	require.NoError(d.t, err)
	require.NoError(d.t, d.cmd.Start())
	d.t.Cleanup(func() {
		d.cmd.Process.Signal(os.Interrupt)
		d.cmd.Wait()
	})
	var text strings.Builder
	for b := make([]byte, 4096); !strings.Contains(text.String(), "docs/drill.md"); {
		n, err := out.Read(b)
		require.NoError(d.t, err, text.String())
		text.Write(b[:n])
	}
	who := regexp.MustCompile(`client (\d+), server (\d+)`).FindStringSubmatch(text.String())
	require.NotNil(d.t, who, text.String())
	d.client, d.server = who[1], who[2]
	for line := range strings.Lines(text.String()) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "ctss "); ok {
			d.commands = append(d.commands, command)
		}
	}
	require.Len(d.t, d.commands, 5, text.String())
}

// requireGone makes sure that no process is left. One that nobody waits for any more can be a zombie.
func (d *drill) requireGone() {
	for _, pid := range []string{d.client, d.server} {
		harness.Eventually(d.t, func() bool {
			b, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(b), ") Z ")
		})
	}
}

// ctss runs one of the commands. A process that is stopped makes its exit status 1.
func (d *drill) ctss(command string) string {
	require.True(d.t, time.Now().Before(d.end), "after %v: %v", drillTime, d.printed)
	cmd := exec.Command("sh", "-c", filepath.Join(d.bin, "ctss")+" "+command)
	cmd.Env = d.env
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
		require.NoError(d.t, err, "%s", out)
	}
	d.printed = append(d.printed, "$ ctss "+command+"\n"+string(out))
	return string(out)
}

// await finds a fault, or none, and no other one.
func (d *drill) await(fault string) {
	for {
		found := d.find()
		if found == fault {
			return
		}
		require.Equal(d.t, "none", found, "it is another one: %v", d.printed)
	}
}

// find reads what the commands print in the order of docs/drill.md, and returns the fault, or none.
func (d *drill) find() string {
	d.printed = nil
	why, processes, stalls, idle := d.commands[1], d.commands[2], d.commands[3], d.commands[4]

	// The kernel's way was taken, for a reason that is a fault.
	if regexp.MustCompile(`(?m)^ *\d+ not-trusted +dial .* drill-client/` + d.client + ` `).MatchString(d.ctss(why)) {
		return "fallback"
	}
	// The peer is stopped.
	if strings.Contains(d.ctss(processes), ",stopped))") {
		return "stopped"
	}
	// A writer waits for space for a large part of its time: nothing moves, or bytes do.
	first, second := newStall(d.ctss(stalls)), newStall(d.ctss(stalls))
	if first != nil && second != nil {
		switch {
		case second.waits && second.idle > 2*time.Second:
			return "stalled"
		case second.sent > first.sent && second.sent/second.writes > second.buffer:
			return "fifo"
		}
	}
	// Many connections do nothing, and they become more.
	if n := d.ends(d.ctss(idle)); n >= 10 && d.ends(d.ctss(idle)) > n {
		return "leak"
	}
	return "none"
}

// A stall is what ctss -nime says of a connection whose Writes wait for space.
type stall struct {
	waits                bool
	idle                 time.Duration
	sent, writes, buffer int
}

// newStall returns the first one in an output, or nil.
func newStall(output string) *stall {
	word := func(name string) string {
		m := regexp.MustCompile(`\s` + name + `:(\S+)`).FindStringSubmatch(output)
		if m == nil {
			return ""
		}
		return m[1]
	}
	if word("bytes_sent") == "" {
		return nil
	}
	var s stall
	s.waits = strings.Contains(output, "waits-for-space")
	s.idle, _ = time.ParseDuration(word("idle"))
	s.sent, _ = strconv.Atoi(word("bytes_sent"))
	s.writes, _ = strconv.Atoi(word("writes"))
	s.buffer, _ = strconv.Atoi(word("send-buf"))
	return &s
}

// ends returns how many ends ctss -s says that the server has.
func (d *drill) ends(output string) int {
	m := regexp.MustCompile(`(?m)^\S+/` + d.server + ` +\S+ +(\d+) `).FindStringSubmatch(output)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	require.NoError(d.t, err)
	return n
}

// requests returns how many requests the client has sent, about.
func (d *drill) requests() int {
	s := newStall(d.ctss(fmt.Sprintf("-nime 'pid = %s and age > 0s'", d.client)))
	if s == nil {
		return 0
	}
	return s.writes
}
