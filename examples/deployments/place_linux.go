package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A place is a script that runs the server and the client. Its first lines are comments: what the
// place is, then what is expected.
type place struct {
	file, name string
	now        string // "now: way reason"
	says       string // "says: text": what one of the two logs
}

func readPlace(file string) (place, error) {
	p := place{file: file, name: strings.TrimSuffix(filepath.Base(file), ".sh")}
	text, err := os.ReadFile(file)
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "# now: "); ok {
			p.now = strings.TrimSpace(s)
		}
		if s, ok := strings.CutPrefix(line, "# says: "); ok {
			p.says = strings.TrimSpace(s)
		}
	}
	if p.now == "" {
		return p, fmt.Errorf("%s doesn't say what is expected", file)
	}
	return p, nil
}

// A way is a peer with which a place is run.
type way struct{ name, peer, env string }

type result struct {
	way, why string
	rate     float64
	said     string // the logs of both
}

// run runs the place.
func (p place) run(tool string, w way, seconds float64) (r result, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Duration(seconds*float64(time.Second)))
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", filepath.Base(p.file))
	cmd.Dir = filepath.Dir(p.file)
	cmd.Env = append(os.Environ(), "PEER="+w.peer, "TOOL="+tool, fmt.Sprintf("SECONDS_EACH=%g", seconds), "CTNET_DIR=", w.env)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	// If it takes too long, all of it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	r.said = said.String()
	if err == nil {
		_, err = fmt.Sscan(out.String(), &r.way, &r.why, &r.rate)
	}
	if err != nil {
		if w.env != "" && strings.HasPrefix(p.now, "shared-memory") && r.said != "" || w.name == "before" {
			return result{way: "fails", why: "-", said: r.said}, nil // no kernel's socket is there, or it was not to be found
		}
		return r, fmt.Errorf("%s: %w\n%s%s", p.name, err, out.String(), r.said)
	}
	return r, nil
}
