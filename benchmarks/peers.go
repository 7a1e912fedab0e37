//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// peersOf are the numbers of client processes.
var peersOf = []int{1, 4, 16, 64}

func peerWorkloads() (all []*workload) {
	for _, n := range peersOf {
		all = append(all, &workload{
			name:    fmt.Sprintf("peers-%d", n),
			title:   fmt.Sprintf("64 B round trips from one of %d client processes", n),
			columns: []string{"ops", "cpu", "p50", "p99"},
			over:    scalable,
			serve:   serveEcho,
			ops:     echoes,
			run:     func(c *client) (sample, error) { return peers(c, n, 1, 1) },
			long:    n == 4 || n == 16,
		})
	}
	for _, n := range peersOf {
		all = append(all, &workload{
			name:    fmt.Sprintf("busy-peers-%d", n),
			title:   fmt.Sprintf("64 B round trips on 64 connections of %d client processes", n),
			columns: []string{"ops", "cpu", "p99"},
			over:    scalable,
			serve:   serveEcho,
			ops:     echoes,
			run:     func(c *client) (sample, error) { return peers(c, n, n, 64/n) },
			long:    n == 4 || n == 16,
		})
	}
	return all
}

// A peer is one of many client processes.
type peer struct {
	cmd   *exec.Cmd
	in    *os.File // closed, it ends
	lines *bufio.Reader
}

// A peerReport is what an active peer has measured.
type peerReport struct {
	Sample sample
	CPU    float64 // seconds of its own while it measured
	Error  string
}

// peers starts n processes with a connection or more each, and has the first of
// them work.
func peers(c *client, n, active, conns int) (s sample, err error) {
	var all []*peer
	defer func() {
		for _, p := range all {
			p.in.Close()
		}
		for _, p := range all {
			p.cmd.Wait()
		}
	}()
	for range n {
		t := c.task
		t.Address, t.Conns = c.served.Address, conns
		p, err := startPeer("peer", t)
		if err != nil {
			return s, err
		}
		all = append(all, p)
	}
	for _, p := range all {
		if line, err := p.lines.ReadString('\n'); err != nil || line != "ready\n" {
			return s, fmt.Errorf("a client process did not start: %q %v", line, err)
		}
	}
	before := processCPU(c.serverPID)
	reports := make([]peerReport, active)
	var wg sync.WaitGroup
	for i := range active {
		wg.Go(func() {
			fmt.Fprintln(all[i].in, "go")
			if err := json.NewDecoder(all[i].lines).Decode(&reports[i]); err != nil {
				reports[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	server := (processCPU(c.serverPID) - before).Seconds()
	s.Metrics = make(map[string]float64)
	used, measured := 0.0, 0.0
	for _, r := range reports {
		if r.Error != "" {
			return s, errors.New(r.Error)
		}
		m := r.Sample.Metrics
		s.Metrics["ops"] += m["ops"]
		// Of latencies the mean of the processes.
		for _, name := range []string{"p50", "p99"} {
			s.Metrics[name] += m[name] / float64(active)
		}
		used += r.CPU
		measured += m["all"]
	}
	// Both with all that was done to warm up, as the server can't tell.
	s.Metrics["cpu"] = (used + server) / measured * 1e6
	return s, nil
}

func startPeer(role string, t task) (*peer, error) {
	arg, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	theirs, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", "-child", role, "-task", string(arg))
	cmd.Stdin = theirs
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		in.Close()
		return nil, err
	}
	return &peer{cmd, in, bufio.NewReader(stdout)}, nil
}

// echoes are round trips.
func echoes(c *client, conns int) (ops []func() error, err error) {
	for range conns {
		conn, err := c.dial()
		if err != nil {
			return nil, err
		}
		ops = append(ops, echoOn(conn))
	}
	return ops, nil
}

func runPeer(t task) error {
	c := &client{task: t, served: Served{Address: t.Address}}
	ops, err := t.workload().ops(c, t.Conns)
	if err != nil {
		return err
	}
	for _, op := range ops {
		if err := op(); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return nil // not needed
	}
	var r peerReport
	used := processCPU(0)
	next := 0
	count := make([]counter, t.Conns)
	s, err := c.drive(t.Conns, func() (func() error, func(), error) {
		op, n := ops[next], &count[next].Int64
		next++
		return func() error {
			n.Add(1)
			return op()
		}, func() {}, nil
	})
	if r.Sample = s; err != nil {
		r.Error = err.Error()
	} else {
		r.CPU = (processCPU(0) - used).Seconds()
		for i := range count {
			r.Sample.Metrics["all"] += float64(count[i].Load())
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	// The others may still be measuring; what closing takes is not theirs.
	in.ReadString('\n')
	return nil
}
