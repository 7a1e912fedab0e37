//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A task is what a client or server process is to do, in its argument.
type task struct {
	Workload  string
	Transport string
	Dir       string  // for sockets and ctnet's directory
	Seconds   float64 // to measure
	Quick     bool

	// Of a peer, see peers.go.
	Address string
	Conns   int
}

func (t task) workload() *workload   { return workloadNamed(t.Workload) }
func (t task) transport() *transport { return transportNamed(t.Transport) }

// Descriptors of a child process.
const (
	controlFD = 3 // to the other one, for net/rpc
	resultFD  = 4 // to the command
)

// A result is what a client process reports.
type result struct {
	Sample sample
	Error  string
}

// measure runs a workload over a transport in new processes. The time is limited:
// a workload that hangs is an error, with the stacks of all goroutines.
func measure(t task, limit time.Duration) (sample, error) {
	dir, err := os.MkdirTemp("", "benchmarks-")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	t.Dir = dir

	sockets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return sample{}, err
	}
	ends := []*os.File{os.NewFile(uintptr(sockets[0]), "control"), os.NewFile(uintptr(sockets[1]), "control")}
	defer ends[0].Close()
	defer ends[1].Close()
	results, out, err := os.Pipe()
	if err != nil {
		return sample{}, err
	}
	defer results.Close()
	defer out.Close()

	var children []*child
	defer func() {
		for _, c := range children {
			c.stop()
		}
	}()
	for range t.workload().beside {
		cmd, err := startBurner()
		if err != nil {
			return sample{}, err
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
	}
	if !t.workload().alone {
		server, err := startChild("server", t, ends[0])
		if err != nil {
			return sample{}, err
		}
		children = append(children, server)
	}
	client, err := startChild("client", t, ends[1], out)
	if err != nil {
		return sample{}, err
	}
	children = append(children, client)
	// Only the children hold them now, so that their ends are noticed.
	ends[0].Close()
	ends[1].Close()
	out.Close()

	results.SetReadDeadline(time.Now().Add(limit))
	var r result
	err = json.NewDecoder(results).Decode(&r)
	switch {
	case err == nil && r.Error != "":
		err = errors.New(r.Error)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no result within %v", limit)
		for _, c := range children {
			c.dump()
		}
	case err != nil:
		err = fmt.Errorf("the client died: %w", err)
	}
	if err != nil {
		for i := len(children) - 1; i >= 0; i-- {
			children[i].stop()
			err = fmt.Errorf("%w%s", err, children[i].said())
		}
		return sample{}, err
	}
	return r.Sample, nil
}

// A child is a process of the command's own.
type child struct {
	role   string
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan struct{}
}

func startChild(role string, t task, files ...*os.File) (*child, error) {
	arg, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	c := &child{role: role, done: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe", "-child", role, "-task", string(arg))
	c.cmd.ExtraFiles = files
	c.cmd.Stdout = &c.output
	c.cmd.Stderr = &c.output
	c.cmd.Env = append(os.Environ(), "CTNET_DIR=")
	c.cmd.Env = append(c.cmd.Env, t.workload().env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	remove := func() {}
	if quota := t.workload().quota; quota > 0 {
		group, err := newQuota(fmt.Sprintf("%s-%s", filepath.Base(t.Dir), role), quota)
		if err != nil {
			return nil, err
		}
		remove = func() { os.Remove(group) }
		c.cmd.Env = append(c.cmd.Env, quotaGroup+"="+group)
	}
	if err := c.cmd.Start(); err != nil {
		remove()
		return nil, err
	}
	go func() {
		c.cmd.Wait()
		remove()
		close(c.done)
	}()
	return c, nil
}

// dump has the process print its goroutines and end.
func (c *child) dump() {
	c.cmd.Process.Signal(unix.SIGQUIT)
	c.ended(2 * time.Second)
}

// stop waits until the process has ended, which it does when the other one has,
// and does not wait long.
func (c *child) stop() {
	if !c.ended(2 * time.Second) {
		c.cmd.Process.Kill()
		<-c.done
	}
}

func (c *child) ended(within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-c.done:
		return true
	case <-t.C:
		return false
	}
}

// said is what the process has printed, as far as it is of use. The process must
// have ended.
func (c *child) said() string {
	const most = 20 << 10
	b := bytes.TrimSpace(c.output.Bytes())
	if len(b) == 0 {
		return ""
	}
	if len(b) > most {
		b = b[:most]
	}
	return fmt.Sprintf("\n%s:\n%s", c.role, b)
}

// runChild is the main function of a child process.
func runChild(role, arg string) error {
	var t task
	if err := json.Unmarshal([]byte(arg), &t); err != nil {
		return err
	}
	if t.workload() == nil || t.transport() == nil {
		return fmt.Errorf("no such task: %s", arg)
	}
	if err := enterQuota(); err != nil {
		return err
	}
	switch role {
	case "server":
		return runServer(t)
	case "client":
		return runClient(t)
	case "peer":
		return runPeer(t)
	case "proxy":
		return runProxy(t)
	case "burner":
		burnForever()
	}
	return fmt.Errorf("no such role: %s", role)
}

func controlConn() (net.Conn, error) {
	f := os.NewFile(controlFD, "control")
	defer f.Close()
	return net.FileConn(f)
}

// A server is the serving process of a workload.
type server struct {
	task
	address string
	burners
}

func runServer(t task) error {
	conn, err := controlConn()
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Control", &control{server: &server{task: t}}); err != nil {
		return err
	}
	// Until the client has ended.
	s.ServeConn(conn)
	return nil
}

// listen opens the transport's listener.
func (s *server) listen() (net.Listener, error) {
	ln, address, err := s.transport().listen(s.Dir)
	s.address = address
	return ln, err
}

// each accepts connections and calls handle for each in a goroutine.
func (s *server) each(handle func(net.Conn)) error {
	ln, err := s.listen()
	if err != nil {
		return err
	}
	go accept(ln, handle)
	return nil
}

// accept calls handle for each connection in a goroutine, until the listener is closed.
func accept(ln net.Listener, handle func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

// A control is what a client can ask of the server's process apart from the
// workload.
type control struct {
	server *server
}

// A Served tells a client of the server.
type Served struct {
	Address string
	PID     int
}

// Nothing is no argument.
type Nothing struct{}

// Serve starts the workload's server.
func (c *control) Serve(_ Nothing, reply *Served) error {
	if err := c.server.workload().serve(c.server); err != nil {
		return err
	}
	*reply = Served{c.server.address, os.Getpid()}
	return nil
}

// Footprint measures the process when its garbage is gone.
func (c *control) Footprint(_ Nothing, reply *Footprint) (err error) {
	*reply, err = footprint()
	return err
}

// Grow lets the runtime reach the size that goroutines need.
func (c *control) Grow(n int, _ *Nothing) error {
	growGoroutines(n)
	return nil
}

// Burn starts a goroutine per P that does nothing but calculate.
func (c *control) Burn(_ Nothing, _ *Nothing) error {
	c.server.burn()
	return nil
}

// Burned is how far these have come.
func (c *control) Burned(_ Nothing, reply *float64) error {
	*reply = c.server.total()
	return nil
}

// A client is the dialing process of a workload.
type client struct {
	task
	served    Served
	control   *rpc.Client
	serverPID int // 0 if the server is in this process
	proxyPID  int // 0 if there is no proxy
	burners
	burnAtServer bool
}

func runClient(t task) error {
	out := os.NewFile(resultFD, "result")
	var r result
	s, err := runTask(t)
	if r.Sample = s; err != nil {
		r.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(r)
}

func runTask(t task) (sample, error) {
	c := &client{task: t}
	if t.workload().alone {
		s := &server{task: t}
		if err := t.workload().serve(s); err != nil {
			return sample{}, err
		}
		c.served.Address = s.address
		return t.workload().run(c)
	}
	conn, err := controlConn()
	if err != nil {
		return sample{}, err
	}
	c.control = rpc.NewClient(conn)
	if err := c.control.Call("Control.Serve", Nothing{}, &c.served); err != nil {
		return sample{}, fmt.Errorf("server: %w", err)
	}
	c.serverPID = c.served.PID
	return t.workload().run(c)
}

// dial connects to the server.
func (c *client) dial() (net.Conn, error) {
	return c.dialContext(context.Background())
}

func (c *client) dialContext(ctx context.Context) (net.Conn, error) {
	return c.transport().dial(ctx, c.served.Address)
}

// burned is how far calculating goroutines have come, if there are.
func (c *client) burned() (n float64, err error) {
	if c.burnAtServer {
		err = c.control.Call("Control.Burned", Nothing{}, &n)
		return n, err
	}
	return c.total(), nil
}

// A Footprint is what a process takes of the machine.
type Footprint struct {
	Private, Shared float64 // bytes
	PageTables      float64 // bytes
	Mappings        int
	FDs, Goroutines int
}

func (f Footprint) plus(g Footprint) Footprint {
	return Footprint{
		f.Private + g.Private,
		f.Shared + g.Shared,
		f.PageTables + g.PageTables,
		f.Mappings + g.Mappings,
		f.FDs + g.FDs,
		f.Goroutines + g.Goroutines,
	}
}

func (f Footprint) minus(g Footprint) Footprint {
	return f.plus(Footprint{-g.Private, -g.Shared, -g.PageTables, -g.Mappings, -g.FDs, -g.Goroutines})
}

func footprint() (f Footprint, err error) {
	// Twice, because finalizers and cleanups make garbage of their own.
	for range 2 {
		runtime.GC()
		debug.FreeOSMemory()
	}
	return footprintNow()
}

// growGoroutines has n goroutines wait at once and then end. The runtime keeps
// their descriptors for ever, and this is not what is to be measured.
func growGoroutines(n int) {
	var wg sync.WaitGroup
	release := make(chan struct{})
	for range n {
		wg.Go(func() { <-release })
	}
	close(release)
	wg.Wait()
}

// discardUntilEnd reads a connection to its end.
func discardUntilEnd(c net.Conn) { io.Copy(io.Discard, c) }
