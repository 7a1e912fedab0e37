package ctnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cutthrough.example/internal/pair"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/syserr"
)

const (
	// stoppedPatience is how long Inspect waits for a process that is stopped, and
	// inspectPatience for any other. One that has 100,000 connections takes a second.
	stoppedPatience = 500 * time.Millisecond
	inspectPatience = 3 * time.Second

	// maxAsked is how many sockets are connected to at a time.
	maxAsked = 256
)

// Inspect returns a [Snapshot] of each application that listens in this network namespace, or in
// the directory that CTNET_DIR names, or has dialed there, and that belongs to this user or to root;
// for root, of each application. One that only dials is found in its network namespace: while it has a
// connection through shared memory, and from then on when a fault has made a Dial use the kernel's
// socket. A connection with any other application is seen from the end that is in one of these.
//
// All are asked at the same time. Inspect waits for half a second for a process that is stopped, and
// for three for one that does not answer. The error names those; the other Snapshots are returned.
//
// PID, UID and Exe of a Snapshot are what the kernel says. Everything else is what the application
// says of itself, and may be any text and number if its user means harm.
func Inspect(ctx context.Context) ([]Snapshot, error) {
	sockets, err := rendezvous.List()
	if err != nil {
		return nil, err
	}
	slices.Sort(sockets)
	processes, errs := reach(ctx, sockets)
	var all []Snapshot
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range processes {
		asking.Go(func() {
			found, err := p.ask(ctx)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	asking.Wait()
	slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Or(a.PID-b.PID, strings.Compare(a.App, b.App)) })
	return all, errors.Join(errs...)
}

// A process is one that is to be asked.
type process struct {
	cred    rendezvous.Cred
	sockets []reached
}

type reached struct {
	name string
	*pair.Inspection
}

// reach connects to sockets, and returns the processes that it has found.
func reach(ctx context.Context, sockets []string) (all []*process, errs []error) {
	found := make([]*pair.Inspection, len(sockets))
	failed := make([]error, len(sockets))
	turns := make(chan struct{}, maxAsked)
	var connecting sync.WaitGroup
	for i, name := range sockets {
		turns <- struct{}{}
		connecting.Go(func() {
			defer func() { <-turns }()
			ctx, cancel := context.WithTimeout(ctx, stoppedPatience)
			defer cancel()
			found[i], failed[i] = pair.Reach(ctx, name)
		})
	}
	connecting.Wait()
	byPID := make(map[int]*process)
	for i, name := range sockets {
		err := failed[i]
		switch {
		case err == nil:
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
			continue // the listener is gone
		case isStranger(err):
			continue // its user shows it to nobody else
		default:
			if err == context.DeadlineExceeded && ctx.Err() == nil {
				err = rendezvous.ErrSilent // its queue is full
			}
			errs = append(errs, &os.PathError{Op: "inspect", Path: name, Err: err})
			continue
		}
		cred := found[i].Cred
		p := byPID[cred.PID]
		if p == nil || cred.PID == 0 {
			p = &process{cred: cred}
			byPID[cred.PID] = p
			all = append(all, p)
		}
		p.sockets = append(p.sockets, reached{name, found[i]})
	}
	return all, errs
}

// ask asks each application of the process once: it has the same answer on all of its sockets. After
// the first that doesn't answer it asks no more.
func (p *process) ask(ctx context.Context) (all []Snapshot, err error) {
	defer func() {
		for _, s := range p.sockets {
			s.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	defer time.AfterFunc(stoppedPatience, func() {
		if rendezvous.IsStopped(p.cred.PID) {
			cancel()
		}
	}).Stop()
	known := make(map[string]bool)
	for _, r := range p.sockets {
		if known[r.name] {
			continue
		}
		s, err := p.askAt(ctx, r)
		if errors.Is(err, syscall.EACCES) {
			return all, nil // root shows it to nobody else
		}
		if err != nil {
			return all, &os.PathError{Op: "inspect", Path: fmt.Sprintf("process %d at %s", p.cred.PID, r.name), Err: err}
		}
		for _, name := range s.Sockets {
			known[name] = true
		}
		if !slices.ContainsFunc(all, func(o Snapshot) bool { return o.App == s.App }) {
			all = append(all, s)
		}
	}
	return all, nil
}

// Errors of processes that do not answer.
var (
	errStopped = syserr.New(syscall.ETIMEDOUT, "it is stopped")
	errMute    = syserr.New(syscall.ETIMEDOUT, "it does not answer")
	errExited  = syserr.New(syscall.ECONNRESET, "it has exited, or hung up")
)

// askAt asks for a Snapshot at one socket.
func (p *process) askAt(ctx context.Context, r reached) (s Snapshot, err error) {
	b, err := r.Snapshot(ctx, "")
	switch {
	case err == nil:
	case ctx.Err() == context.Canceled && rendezvous.IsStopped(p.cred.PID):
		return s, errStopped
	case ctx.Err() == context.DeadlineExceeded:
		return s, errMute
	case ctx.Err() != nil:
		return s, ctx.Err()
	case rendezvous.IsEnd(err):
		return s, errExited
	default:
		return s, err
	}
	if s, err = decode(b); err != nil {
		return s, rendezvous.Broken(err)
	}
	s.socket = r.name
	s.UID, s.Exe = p.cred.UID, ""
	if p.cred.PID != 0 {
		s.PID = p.cred.PID // the number in this PID namespace
		s.Exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", p.cred.PID))
	}
	return s, nil
}

// Events asks the application of a Snapshot that [Inspect] has returned for the ends of one of its
// connections, and what happened there last. There are two if both ends are in that application. The error
// is ESRCH if it has no connection with that ID any more, and EPROTO if its version of ctnet keeps no
// events. What the application says may be anything, as with Inspect.
func (s *Snapshot) Events(ctx context.Context, id string) ([]EndEvents, error) {
	ends, err := s.askEvents(ctx, id)
	if err != nil {
		err = &os.PathError{Op: "events of", Path: id, Err: err}
	}
	return ends, err
}

func (s *Snapshot) askEvents(ctx context.Context, id string) ([]EndEvents, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	i, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	b, err := i.Snapshot(ctx, id)
	if err != nil {
		return nil, err
	}
	ends, err := decodeEvents(b, id)
	switch {
	case err != nil:
		return nil, rendezvous.Broken(err)
	case len(ends) == 0:
		return nil, syscall.ESRCH
	case len(ends[0].Events) == 0: // there is always the making of the end
		return nil, errNoEvents
	}
	return ends, nil
}

// errNoEvents is the error for a process of a version that takes the question for that of [Inspect].
var errNoEvents = syserr.New(syscall.EPROTO, "its version of ctnet keeps no events")

// ResetConn asks the application of a Snapshot that [Inspect] has returned to reset one of its
// connections: at both ends calls return ECONNRESET, at the other one after the bytes that were
// written. A Dial that was not answered yet fails. The error is ESRCH if the application has no
// connection with that ID any more.
func (s *Snapshot) ResetConn(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	err := s.reset(ctx, id)
	if err != nil {
		err = &os.PathError{Op: "reset", Path: id, Err: err}
	}
	return err
}

func (s *Snapshot) reset(ctx context.Context, id string) error {
	i, err := s.reach(ctx)
	if err != nil {
		return err
	}
	defer i.Close()
	return i.Reset(ctx, id)
}

// reach connects to the application once more, for one question.
func (s *Snapshot) reach(ctx context.Context) (*pair.Inspection, error) {
	if s.socket == "" {
		return nil, syserr.New(syscall.EINVAL, "the Snapshot is not one of Inspect")
	}
	i, err := pair.Reach(ctx, s.socket)
	if err != nil {
		return nil, err
	}
	if i.Cred.PID != 0 && i.Cred.PID != s.PID {
		i.Close()
		return nil, syserr.New(syscall.ESRCH, "another process has the socket now")
	}
	return i, nil
}

// CaptureConn asks the application of a Snapshot that [Inspect] has returned for what flows over one of its
// connections from now on, and writes it to w in the format pcapng, as packets of TCP with headers that are
// made up. Each call of w.Write is given whole blocks, soon after their bytes were written or read at that
// end. The capture ends when the connection has ended there, when there are as many packets as the
// CaptureConfig says, or with the error of ctx or w.
//
// The application never waits for the capturing process: packets that this one does not take fast enough are
// left out and counted. It logs the capture. The error is ESRCH if it has no connection with that ID any
// more, and EBUSY if another capture of the connection is under way.
func (s *Snapshot) CaptureConn(ctx context.Context, id string, w io.Writer, c CaptureConfig) (CaptureCounts, error) {
	f := captureFile{w: w, config: c, about: fmt.Sprintf("Connection %s of process %d (%s)", printable(id), s.PID, printable(s.Exe))}
	err := s.capture(ctx, id, &f)
	if !errors.As(err, new(writeError)) {
		err = errors.Join(err, f.end()) // what there is is a whole file
	}
	if err != nil {
		err = &os.PathError{Op: "capture", Path: id, Err: err}
	}
	return f.counts(), err
}

func (s *Snapshot) capture(ctx context.Context, id string, f *captureFile) error {
	i, err := s.reach(ctx)
	if err != nil {
		return err
	}
	defer i.Close()
	var bad error
	err = i.Capture(ctx, id, inspectPatience, func(block []byte) (done bool, err error) {
		done, bad = f.write(block)
		return done, bad
	})
	switch {
	case err == nil || errors.As(err, new(writeError)):
		return err
	case bad != nil:
		return rendezvous.Broken(err)
	case ctx.Err() != nil:
		return ctx.Err()
	case rendezvous.IsEnd(err):
		return errExited
	case errors.Is(err, os.ErrDeadlineExceeded) && rendezvous.IsStopped(i.Cred.PID):
		return errStopped
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errMute
	}
	return err
}
