// Package hostile tests that a peer can only hurt itself: a crash of one side, or an attack
// by it, costs the other side no more than a closed TCP connection does.
//
// Three kinds of processes take part, each started from the test's own binary. The victim
// listens and dials as programs do. The attacker does the handshake by itself, through
// internal/rendezvous and raw memory, as a client of the victim's listener or as a listener
// that the victim dials. The honest client dials the same listener beside it, and checks
// each byte. What must hold, during the attack and after it, is in [siege].
//
// Each test takes seconds. With -hostile.time each attack goes on for as long as that says,
// and TestAttacks, which is left out otherwise, prints what four of them cost:
//
//	go test ./conformance/hostile -run TestAttacks -v -timeout 0 -hostile.time=10s
package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"github.com/stretchr/testify/require"
)

var goOn = flag.Duration("hostile.time", 0, "how long each attack goes on")

// roles are what other processes do.
var roles = map[string]func(){
	"victim":    playVictim,
	"honest":    playHonest,
	"attacker":  playAttacker,
	"inspected": attackInspector,
}

func TestMain(m *testing.M) { harness.Main(m, roles) }

// limit is the longest that anything takes, on a busy machine too, if nothing hangs.
const limit = 30 * time.Second

// while is how long an attack goes on.
func while() time.Duration {
	if *goOn > 0 {
		return *goOn
	}
	return 400 * time.Millisecond
}

var background = context.Background()

const sigquit = syscall.SIGQUIT

// argsEnv is the environment variable with a role's arguments.
const argsEnv = "CTNET_TEST_ARGS"

// args returns the arguments of the role that this process plays.
func args[T any]() (a T) {
	harness.Check(json.Unmarshal([]byte(os.Getenv(argsEnv)), &a))
	return a
}

// A process plays a role. It is told what to do, and answers, by lines.
type process struct {
	t     testing.TB
	role  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	ended chan struct{} // closed when it has ended
	err   bytes.Buffer  // what it wrote to standard error; to be read once it has ended
}

// start starts a process, which runs until the test ends, if not before.
func start(t testing.TB, role string, args any) *process {
	t.Helper()
	b, err := json.Marshal(args)
	require.NoError(t, err)
	p := &process{t: t, role: role, cmd: exec.Command(os.Args[0]), lines: make(chan string, 1024), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), harness.RoleEnv+"="+role, argsEnv+"="+string(b))
	p.cmd.Stderr = &p.err
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	// Not StdoutPipe, which is closed before all is read if the process ends.
	out, w, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stdout = w
	require.NoError(t, p.cmd.Start())
	w.Close()
	var reading sync.WaitGroup
	reading.Go(func() {
		defer out.Close()
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case p.lines <- strings.TrimSpace(line):
			default: // nobody wants to know
			}
		}
	})
	go func() {
		p.cmd.Wait()
		reading.Wait()
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	return p
}

// say tells the process something.
func (p *process) say(line string) { fmt.Fprintln(p.in, line) }

// expect waits for a line that begins with a word, and returns the rest of it.
func (p *process) expect(word string) string {
	p.t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		var line string
		select {
		case line = <-p.lines:
		case <-p.ended:
			select {
			case line = <-p.lines:
			default:
				p.t.Fatalf("the %s has ended, before it said %q: %v\n%s", p.role, word, p.cmd.ProcessState, p.wrote())
			}
		case <-timeout.C:
			p.cmd.Process.Signal(syscall.SIGQUIT)
			<-p.ended
			p.t.Fatalf("the %s does not say %q\n%s", p.role, word, p.wrote())
		}
		if first, rest, _ := strings.Cut(line, " "); first == word {
			return rest
		}
	}
}

// ask tells the process a command and decodes its answer.
func ask[T any](p *process, command string) (answer T) {
	p.t.Helper()
	p.say(command)
	word, _, _ := strings.Cut(command, " ")
	require.NoError(p.t, json.Unmarshal([]byte(p.expect(word)), &answer))
	return answer
}

// wrote returns the begin of what the process, which has ended, wrote to standard error.
func (p *process) wrote() string {
	b := p.err.Bytes()
	return string(b[:min(len(b), 8<<10)])
}

// requireAlive fails the test if the process has ended.
func (p *process) requireAlive() {
	p.t.Helper()
	select {
	case <-p.ended:
		p.t.Fatalf("the %s has ended: %v\n%s", p.role, p.cmd.ProcessState, p.wrote())
	default:
	}
}

// kill ends the process, stopped or not.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.in.Close()
	<-p.ended
}

func (p *process) stop() { p.cmd.Process.Signal(syscall.SIGSTOP) }

// answer writes what [ask] reads.
func answer(word string, v any) {
	b, err := json.Marshal(v)
	harness.Check(err)
	fmt.Println(word, string(b))
}

// commands has f called with each line of standard input, until it is closed.
func commands(f func(word, rest string)) {
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		word, rest, _ := strings.Cut(s.Text(), " ")
		f(word, rest)
	}
}

// useDir gives the test a rendezvous directory of its own.
func useDir(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctnet-test-") // t.TempDir's is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CTNET_DIR", dir)
}
