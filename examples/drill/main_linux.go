// Command drill puts a fault into a running pair of services, for you to find it with ctss. docs/drill.md has
// each fault's symptom, the commands, and how to read what they print.
//
//	go run ./examples/drill -fault fifo
//
// It ends by itself, and on Ctrl-C, and leaves nothing.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A fault is what is wrong with the pair.
type fault string

const (
	none     fault = "none"
	stopped  fault = "stopped"  // the server gets SIGSTOP
	stalled  fault = "stalled"  // the server does not read one of the connections
	fallback fault = "fallback" // the server belongs to a user whom the client does not trust
	leak     fault = "leak"     // the client does not close all of its connections
	fifo     fault = "fifo"     // the client has asked for a fifo that is much smaller than a request
)

var faults = []fault{none, stopped, stalled, fallback, leak, fifo}

const (
	stranger   = 65534       // the server's user with fault fallback: nobody
	stopsAfter = time.Second // when fault stopped begins
	endTime    = 5 * time.Second
)

func main() {
	runtime.LockOSThread() // the children get a signal when the thread that has started them ends
	log.SetFlags(0)
	log.SetPrefix("drill: ")
	f := flag.String("fault", "", fmt.Sprintf("what is wrong, one of %v", faults))
	length := flag.Duration("for", 2*time.Minute, "how long it runs")
	role := flag.String("role", "", "used by the command itself")
	address := flag.String("address", "", "used by the command itself")
	flag.Parse()
	var err error
	switch *role {
	case "server":
		err = serve(fault(*f))
	case "client":
		err = request(fault(*f), *address)
	default:
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, fault(*f), *length)
		stop()
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run starts both services and waits until the time is over, ctx ends, or one of them does.
func run(ctx context.Context, f fault, length time.Duration) error {
	if !slices.Contains(faults, f) {
		return fmt.Errorf("-fault must be one of %v", faults)
	}
	uid := os.Geteuid()
	if f == fallback {
		if uid != 0 {
			return errors.New("fault fallback needs root: the server runs as another user")
		}
		uid = stranger
	}
	// The server inherits its listener, as from a socket unit of systemd: so the port belongs to this user,
	// and does not show that the server's user may be trusted.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	inherited, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer inherited.Close()
	ended := make(chan error, 2)
	server, ready, err := start("server", f, uid, ended, inherited, "")
	if err != nil {
		return err
	}
	defer server.end()
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return fmt.Errorf("the server does not begin: %q, %w", line, err)
	}
	client, _, err := start("client", f, os.Geteuid(), ended, nil, ln.Addr().String())
	if err != nil {
		return err
	}
	defer client.end()
	inherited.Close()
	ln.Close()
	fmt.Printf("fault %s: client %d, server %d. It ends after %v, or on Ctrl-C. Meanwhile:\n\n%s\n",
		f, client.cmd.Process.Pid, server.cmd.Process.Pid, length, commands(client.cmd.Process.Pid, server.cmd.Process.Pid))
	stopAt := make(<-chan time.Time)
	if f == stopped {
		stopAt = time.After(stopsAfter)
	}
	over := time.After(length)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case err := <-ended:
			return err
		case <-stopAt:
			if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
	}
}

// commands returns those with which docs/drill.md finds each of the faults.
func commands(client, server int) string {
	return strings.NewReplacer("CLIENT", fmt.Sprint(client), "SERVER", fmt.Sprint(server)).Replace(`    ctss -s 'pid = CLIENT or pid = SERVER'
    ctss --why
    ctss -np pid = CLIENT
    ctss -nime 'pid = CLIENT and space > 20%'
    ctss -s 'pid = SERVER and idle > 2s'

docs/drill.md says how to read what they print.`)
}

// A service is one of the two processes.
type service struct {
	cmd  *exec.Cmd
	in   io.Closer // it ends when this is closed
	done chan struct{}
}

// start starts a service as a user, and sends to ended when it ends. What it prints can be read.
func start(role string, f fault, uid int, ended chan<- error, inherited *os.File, address string) (*service, io.Reader, error) {
	// Not by the path, as another user may not be allowed to go there.
	cmd := exec.Command("/proc/self/exe", "-role", role, "-fault", string(f), "-address", address)
	cmd.Args[0] = "drill-" + role
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also if it is stopped
	if uid != os.Geteuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	if inherited != nil {
		cmd.ExtraFiles = []*os.File{inherited}
	}
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := cmp.Or(err, err2); err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	s := &service{cmd, in, make(chan struct{})}
	go func() {
		defer close(s.done)
		if _, err := cmd.Process.Wait(); err != nil {
			ended <- err
			return
		}
		ended <- fmt.Errorf("the %s has ended", role)
	}()
	return s, out, nil
}

// end has the service end in order, stopped or not, so that it leaves nothing; or kills it.
func (s *service) end() {
	s.cmd.Process.Signal(syscall.SIGCONT)
	s.in.Close()
	select {
	case <-s.done:
	case <-time.After(endTime):
		s.cmd.Process.Kill()
		<-s.done
	}
}
