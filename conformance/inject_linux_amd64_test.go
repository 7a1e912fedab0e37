package conformance

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// In TestInjected system calls of ctnet fail, one in each run. The kernel does it (seccomp), so
// there is no seam in the code: another process, which plays the role "injected", has a filter
// that reports its calls to this process, which answers each: go on, or an errno. From where in
// the code a call comes is read from the stack of the process, whose binary is this one.

var injectAll = flag.Bool("inject.all", false, "TestInjected fails every call of each site, and not the first only")

func init() { roles["injected"] = injected }

// A call is a system call that is reported, and the errno that it may be failed with. Those that
// let go of something (close, munmap) are not among them: the kernel has let go then, whatever
// it says. Neither is write: ctnet writes to eventfds only, and that takes no memory. Package net
// panics if getsockname fails.
var injectable = map[int32]syscall.Errno{
	unix.SYS_OPENAT:        unix.EMFILE,
	unix.SYS_SOCKET:        unix.EMFILE,
	unix.SYS_ACCEPT4:       unix.EMFILE,
	unix.SYS_MEMFD_CREATE:  unix.EMFILE,
	unix.SYS_EVENTFD2:      unix.EMFILE,
	unix.SYS_EPOLL_CREATE1: unix.EMFILE,
	unix.SYS_EPOLL_CTL:     unix.ENOSPC,
	unix.SYS_MMAP:          unix.ENOMEM,
	unix.SYS_MADVISE:       unix.ENOMEM,
	unix.SYS_FTRUNCATE:     unix.ENOSPC,
	unix.SYS_FCNTL:         unix.EBUSY,
	unix.SYS_FSTAT:         unix.ENOMEM,
	unix.SYS_FSTATFS:       unix.ENOMEM,
	unix.SYS_NEWFSTATAT:    unix.ENOMEM,
	unix.SYS_READLINKAT:    unix.ENOMEM,
	unix.SYS_FACCESSAT:     unix.ENOMEM,
	unix.SYS_FACCESSAT2:    unix.ENOMEM,
	unix.SYS_MKDIRAT:       unix.ENOSPC,
	unix.SYS_FCHMODAT:      unix.EIO,
	unix.SYS_RENAMEAT:      unix.ENOSPC,
	unix.SYS_UNLINKAT:      unix.EIO,
	unix.SYS_GETDENTS64:    unix.ENOMEM,
	unix.SYS_FLOCK:         unix.ENOLCK,
	unix.SYS_CONNECT:       unix.ENOMEM,
	unix.SYS_BIND:          unix.ENOSPC,
	unix.SYS_LISTEN:        unix.ENOMEM,
	unix.SYS_SENDMSG:       unix.ENOBUFS,
	unix.SYS_RECVMSG:       unix.ENOMEM,
	unix.SYS_GETSOCKOPT:    unix.ENOBUFS,
	unix.SYS_SETSOCKOPT:    unix.ENOBUFS,
	unix.SYS_POLL:          unix.ENOMEM,
	unix.SYS_SOCKETPAIR:    unix.EMFILE,
}

// install installs the filter in all threads of this process, and returns the descriptor on
// which the calls are reported.
func install() (int, error) {
	var prog []unix.SockFilter
	add := func(code uint16, jt, jf uint8, k uint32) {
		prog = append(prog, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	}
	add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0) // the call's number
	left := len(injectable)
	for nr := range injectable {
		left--
		add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, uint8(left+1), 0, uint32(nr))
	}
	add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW)
	add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_USER_NOTIF)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC |
		unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// What the kernel reports, and what it is answered.
type (
	notification struct {
		ID         uint64
		PID, Flags uint32
		Nr         int32
		Arch       uint32
		IP         uint64
		Args       [6]uint64
	}
	response struct {
		ID    uint64
		Val   int64
		Error int32
		Flags uint32
	}
)

// A site is where in ctnet a system call is made.
type site string

// An injector answers for the calls of one process.
type injector struct {
	fd    int
	delta uintptr // from that process's text to this one's
	done  sync.WaitGroup

	mu    sync.Mutex
	armed bool
	seen  map[site]int // how often, since it was armed
	at    site         // fail this one,
	nth   int          // when it is seen so often
	errno syscall.Errno
	hit   bool
}

func newInjector(t *testing.T, p *process) *injector {
	t.Helper()
	var fd int
	var at uintptr
	_, err := fmt.Sscanf(p.line(t), "ready %d %d", &fd, &at)
	require.NoError(t, err)
	link := fmt.Sprintf("/proc/%d/fd/%d", p.cmd.Process.Pid, fd)
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if to, _ := os.Readlink(link); to == "anon_inode:seccomp notify" {
			break
		}
		if time.Since(start) > patience {
			t.Skip("the kernel reports no system calls: ", p.line(t))
		}
	}
	pidfd, err := unix.PidfdOpen(p.cmd.Process.Pid, 0)
	require.NoError(t, err)
	defer unix.Close(pidfd)
	own, err := unix.PidfdGetfd(pidfd, fd, 0)
	if errors.Is(err, unix.EPERM) {
		t.Skip("another process's descriptors can't be had: ", err)
	}
	require.NoError(t, err)
	in := &injector{fd: own, delta: reflect.ValueOf(injected).Pointer() - at}
	in.done.Go(in.run)
	return in
}

// run answers until the process is dead.
func (in *injector) run() {
	defer unix.Close(in.fd)
	for {
		fds := []unix.PollFd{{Fd: int32(in.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(in.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // it was interrupted
		}
		r := response{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := in.decide(&n); errno != 0 {
			r.Flags, r.Error = 0, -int32(errno)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(in.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	}
}

// decide returns the errno of a call, or 0 if it is to go on.
func (in *injector) decide(n *notification) syscall.Errno {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.armed || n.Nr == unix.SYS_EPOLL_CTL && n.Args[1] == unix.EPOLL_CTL_DEL {
		return 0
	}
	s := in.site(n)
	if s == "" {
		return 0
	}
	in.seen[s]++
	if s == in.at && in.seen[s] == in.nth {
		in.hit = true
		return in.errno
	}
	return 0
}

// arm has the nth call of a site fail; without a site the calls are counted only.
func (in *injector) arm(at site, nth int, errno syscall.Errno) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.armed, in.seen, in.at, in.nth, in.errno, in.hit = true, make(map[site]int), at, nth, errno, false
}

func (in *injector) disarm() (seen map[site]int, hit bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.armed = false
	return in.seen, in.hit
}

var callNames = map[int32]string{
	unix.SYS_OPENAT: "openat", unix.SYS_SOCKET: "socket", unix.SYS_ACCEPT4: "accept4", unix.SYS_MEMFD_CREATE: "memfd_create",
	unix.SYS_EVENTFD2: "eventfd2", unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl", unix.SYS_MMAP: "mmap",
	unix.SYS_MADVISE: "madvise", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FCNTL: "fcntl", unix.SYS_FSTAT: "fstat",
	unix.SYS_FSTATFS: "fstatfs", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_READLINKAT: "readlinkat", unix.SYS_FACCESSAT: "faccessat",
	unix.SYS_FACCESSAT2: "faccessat2", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_RENAMEAT: "renameat",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_GETDENTS64: "getdents64", unix.SYS_FLOCK: "flock", unix.SYS_CONNECT: "connect",
	unix.SYS_BIND: "bind", unix.SYS_LISTEN: "listen", unix.SYS_SENDMSG: "sendmsg", unix.SYS_RECVMSG: "recvmsg",
	unix.SYS_GETSOCKOPT: "getsockopt", unix.SYS_SETSOCKOPT: "setsockopt",
	unix.SYS_POLL: "poll", unix.SYS_SOCKETPAIR: "socketpair",
}

// site returns where in ctnet a call comes from, or "" if it is not from there.
func (in *injector) site(n *notification) site {
	frames := runtime.CallersFrames(in.callers(n.PID))
	for {
		f, more := frames.Next()
		if name, ok := strings.CutPrefix(f.Function, "cutthrough.example/"); ok {
			ours := strings.HasPrefix(name, "ctnet.") || strings.HasPrefix(name, "internal/")
			if ours && !strings.HasPrefix(name, "internal/leakcheck.") {
				return site(fmt.Sprintf("%s in %s %s:%d", callNames[n.Nr], name, filepath.Base(f.File), f.Line))
			}
		}
		if !more {
			return ""
		}
	}
}

// callers returns the return addresses on the stack of a thread that is in a system call. The
// kernel tells the stack pointer and not the frame pointer; but frame pointers are a chain, and
// the first words on the stack that look like the beginning of one are that. One that ends before
// the goroutine's first function may be left of an earlier call.
func (in *injector) callers(tid uint32) (pcs []uintptr) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tid)) // number, arguments, sp, pc
	fields := strings.Fields(string(line))
	if err != nil || len(fields) != 9 {
		return nil
	}
	var sp uint64
	fmt.Sscanf(fields[7], "0x%x", &sp)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return nil
	}
	defer mem.Close()
	b := make([]byte, 16<<10)
	n, _ := mem.ReadAt(b, int64(sp))
	words := make([]uint64, n/8)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	text := func(i int) (uintptr, bool) {
		pc := uintptr(words[i]) + in.delta
		return pc, runtime.FuncForPC(pc) != nil
	}
	for i := range len(words) - 1 {
		var chain []uintptr
		for at := i; at+1 < len(words); {
			pc, ok := text(at + 1)
			if !ok {
				break
			}
			chain = append(chain, pc)
			next := words[at] - sp
			if words[at] < sp || next%8 != 0 || next/8 <= uint64(at) {
				break
			}
			at = int(min(next/8, uint64(len(words))))
		}
		switch {
		case len(chain) <= 3:
		case runtime.FuncForPC(chain[len(chain)-1]).Name() == "runtime.goexit":
			return chain
		case pcs == nil:
			pcs = chain
		}
	}
	return pcs
}

// An outcome is what came of a step: the errors of its attempts, if any failed.
type outcome struct {
	Step   string
	Errs   []string // texts
	Errnos []syscall.Errno
	Took   time.Duration
}

// injected runs a scenario for each line that it reads, which is the network and path, and
// answers with the outcomes.
func injected() {
	// What the runtime makes once, and can't do without.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Check(err)
	harness.Check(ln.Close())
	// Said before: once it is installed any call, also of the runtime's, may wait for the other
	// process to look. The descriptor will be the lowest one that is free.
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	harness.Check(err)
	fmt.Println("ready", fd, reflect.ValueOf(injected).Pointer())
	unix.Close(fd)
	if got, err := install(); err != nil || got != fd {
		fmt.Println("none:", got, err)
		return
	}
	dir := os.Getenv("CTNET_DIR")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		network, rest, _ := strings.Cut(in.Text(), " ")
		path, place, _ := strings.Cut(rest, " ")
		s := &scenario{network: network, path: map[string]ctnet.Path{"cut": ctnet.CutThrough, "any": ctnet.AnyPath}[path], dir: dir}
		os.Setenv("CTNET_DIR", map[string]string{"": dir, "abstract": ""}[place])
		harness.OpenProbe()
		before := leakcheck.Now()
		s.run()
		s.settle(before)
		harness.Check(json.NewEncoder(os.Stdout).Encode(s.outcomes))
	}
}

// A scenario does all that ctnet can, once.
type scenario struct {
	network string
	path    ctnet.Path
	dir     string // for a socket file
	serving sync.WaitGroup
	flows   atomic.Int64 // that are being served

	mu       sync.Mutex
	outcomes []outcome
}

// patience is how long a step may take, with all its attempts: a handshake takes 5 seconds at
// most, and the second attempt is to succeed.
const patience = 8 * time.Second

// step tries twice: one call fails only, so the second attempt is to succeed.
func (s *scenario) step(name string, try func() error) bool {
	o := outcome{Step: name}
	start := time.Now()
	for range 2 {
		err := try()
		if err == nil {
			o.Took = time.Since(start)
			s.add(o)
			return true
		}
		o.add(err)
	}
	o.Step, o.Took = "FAILED "+name, time.Since(start)
	s.add(o)
	return false
}

func (o *outcome) add(err error) {
	o.Errs = append(o.Errs, err.Error())
	var errno syscall.Errno
	errors.As(err, &errno)
	o.Errnos = append(o.Errnos, errno)
}

func (s *scenario) add(o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes = append(s.outcomes, o)
}

func (s *scenario) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			o := outcome{Step: "accept"}
			o.add(err)
			s.add(o)
			continue
		}
		s.serving.Go(func() {
			defer c.Close()
			f, err := pattern.ReadHeader(c)
			if err != nil {
				return // of a Dial that failed
			}
			s.flows.Add(1)
			defer s.flows.Add(-1)
			rnd := rand.New(rand.NewPCG(f.Number, 0))
			_, readErr, writeErr := f.Run(c.(pattern.Stream), pattern.Acceptor, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) })
			if err := errors.Join(readErr, writeErr); err != nil {
				o := outcome{Step: "FAILED serve"}
				o.add(err)
				s.add(o)
			}
		})
	}
}

// served waits until the other ends of flows that have ended know that too.
func (s *scenario) served() {
	for start := time.Now(); s.flows.Load() > 0 && time.Since(start) < patience; {
		time.Sleep(10 * time.Microsecond)
	}
}

// exchange has a flow on a connection.
func exchange(c net.Conn, number uint64, size int64) error {
	f := pattern.Flow{Seed: 1, Number: number, Size: [2]int64{size, size}}
	if err := f.WriteHeader(c); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(number, 1))
	_, readErr, writeErr := f.Run(c.(pattern.Stream), pattern.Dialer, rnd, func(to *pattern.Sink) error { return pattern.ReadAll(c, to, rnd) })
	return errors.Join(readErr, writeErr)
}

func (s *scenario) run() {
	server, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	client, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	dir := s.dir
	address := map[string]string{"ct": fmt.Sprintf("injected-%d", os.Getpid()), "tcp": "127.0.0.1:0", "unix": filepath.Join(dir, "injected")}[s.network]
	lc := ctnet.ListenConfig{App: server, Path: s.path, ReadBuffer: ctnet.MaxBuffer / 2, WriteBuffer: ctnet.MaxBuffer / 2} // two slots in each segment
	var ln net.Listener
	if s.step("listen", func() (err error) {
		os.Remove(filepath.Join(dir, "injected")) // package net leaves it if it fails at the end
		ln, err = lc.Listen(context.Background(), s.network, address)
		return err
	}) {
		s.serving.Go(func() { s.serve(ln) })
		s.use(server, client, lc, ln)
		s.step("close the listener", ln.Close)
	}
	s.step("close the client", client.Close)
	s.step("close the server", server.Close)
	s.serving.Wait()
	os.Remove(filepath.Join(dir, "injected"))
}

func (s *scenario) use(server, client *ctnet.App, lc ctnet.ListenConfig, ln net.Listener) {
	at := ln.Addr().String()
	var conns []net.Conn
	dial := func(a *ctnet.App) func() error {
		return func() error {
			d := ctnet.Dialer{App: a, Path: s.path}
			c, err := d.Dial(s.network, at)
			if err == nil {
				conns = append(conns, c)
			}
			return err
		}
	}
	s.step("first dial", dial(client))
	s.step("second dial", dial(client))
	s.step("dial that needs a segment", dial(client))
	s.step("idle", func() error {
		cpu := func() time.Duration {
			var u unix.Rusage
			harness.Check(unix.Getrusage(unix.RUSAGE_SELF, &u))
			return time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		const while = 20 * time.Millisecond
		before := cpu()
		time.Sleep(while) // what is measured
		if took := cpu() - before; took > while*3/4 {
			return fmt.Errorf("an idle process took %v of CPU time in %v", took, while)
		}
		return nil
	})
	for i, c := range conns {
		if s.exchange(c, uint64(i), 300_000) {
			s.step("close", c.Close)
		}
	}
	conns = nil
	if s.step("dial again", dial(client)) && s.exchange(conns[0], 10, 10_000) {
		s.step("close", conns[0].Close)
	}
	conns = nil
	if s.step("dial inside", dial(server)) && s.exchange(conns[0], 20, 300_000) {
		s.step("close", conns[0].Close)
	}
	conns = nil
	s.step("raw calls", func() error {
		d := ctnet.Dialer{App: client, Path: s.path}
		c, err := d.Dial(s.network, at)
		if err != nil {
			return err
		}
		defer c.Close()
		defer s.served()
		raw, err := c.(syscall.Conn).SyscallConn()
		if err == nil {
			err = connCheck(raw)
		}
		return errors.Join(err, exchange(c, 40, 10_000))
	})
	s.step("inspect", func() error {
		all, err := ctnet.Inspect(context.Background())
		if err == nil && len(all) == 0 && ctnetListens(ln) {
			err = errors.New("nobody was found")
		}
		return withoutOthers(err, ln.Addr().String())
	})
	if f, ok := ln.(interface{ File() (*os.File, error) }); ok && s.network != "ct" {
		s.step("hand on", func() error {
			file, err := f.File()
			if err != nil {
				return err
			}
			defer file.Close()
			kernel, err := net.FileListener(file)
			if err != nil {
				return err
			}
			next, err := ctnet.NewApp(ctnet.AppConfig{})
			harness.Check(err)
			defer next.Close()
			lc.App = next
			other, err := lc.NewListener(kernel)
			if err != nil {
				kernel.Close()
				return err
			}
			s.serving.Go(func() { s.serve(other) })
			defer other.Close()
			d := ctnet.Dialer{App: client, Path: s.path}
			c, err := d.Dial(s.network, at)
			if err != nil {
				return err
			}
			defer c.Close()
			defer s.served()
			return exchange(c, 30, 10_000)
		})
	}
}

// ctnetListens reports whether a listener offers shared memory.
func ctnetListens(ln net.Listener) bool {
	_, ok := ln.(*ctnet.Listener)
	return ok
}

// exchange is a step that can't be done twice. No connection that was made may be harmed.
func (s *scenario) exchange(c net.Conn, number uint64, size int64) bool {
	o := outcome{Step: "transfer"}
	start := time.Now()
	err := exchange(c, number, size)
	s.served()
	o.Took = time.Since(start)
	if err != nil {
		o.Step = "FAILED transfer"
		o.add(err)
		c.Close()
	}
	s.add(o)
	return err == nil
}

// settle waits until nothing is left.
func (s *scenario) settle(before leakcheck.Usage) {
	var now leakcheck.Usage
	start := time.Now()
	for time.Since(start) < patience {
		now = leakcheck.Now()
		if now.FDs <= before.FDs && now.Goroutines <= before.Goroutines && now.Mappings <= before.Mappings {
			return
		}
		time.Sleep(time.Millisecond)
	}
	s.add(outcome{Step: "FAILED to let go", Errnos: []syscall.Errno{0}, Errs: []string{fmt.Sprintf("before %+v, now %+v\n%s", before, now, leakcheck.Stacks())}})
}

// An injection is a process of the role "injected", and what answers for its calls.
type injection struct {
	*process
	in *injector
}

func newInjection(t *testing.T) *injection {
	p := launch(t, "injected", "GODEBUG=asyncpreemptoff=1")
	in := newInjector(t, p)
	t.Cleanup(func() {
		if p.cmd != nil {
			p.in.Close()
		}
		in.done.Wait()
	})
	return &injection{p, in}
}

// scenario has the process run one, in which one call fails.
func (i *injection) scenario(t *testing.T, what string, at site, nth int, errno syscall.Errno) (outcomes []outcome, seen map[site]int, hit bool) {
	t.Helper()
	i.in.arm(at, nth, errno)
	hung := time.AfterFunc(6*patience, func() { i.cmd.Process.Signal(syscall.SIGQUIT) }) // it says where
	defer hung.Stop()
	require.NoError(t, json.Unmarshal([]byte(i.ask(t, what)), &outcomes), "%s", at)
	seen, hit = i.in.disarm()
	return outcomes, seen, hit
}

// What is said of a call that has failed is its errno, but for what these begin with.
var otherwise = []struct {
	site, step string
	errno      syscall.Errno // 0 is a text alone
}{
	// The listener's process could not tell the dialer.
	{"epoll_ctl in internal/rendezvous.(*Socket).answer", "first dial", unix.ECONNREFUSED},
	{"recvmsg in internal/rendezvous.Channel.receive", "", unix.ECONNREFUSED},
	{"getsockopt in internal/rendezvous.Channel.PeerCred", "", unix.ECONNREFUSED},
	{"readlinkat in internal/hostnet.NetNamespace", "", 0},
	// What os.NewFile has met is not known.
	{"fcntl in internal/sched.newEpoll", "first dial", unix.ENOSPC},
	// It looks as if the file were not there.
	{"newfstatat in internal/rendezvous.isThere", "", unix.ECONNREFUSED},
}

func saidOtherwise(s site, o outcome, errno syscall.Errno) bool {
	for _, other := range otherwise {
		if strings.HasPrefix(string(s), other.site) && strings.HasPrefix(o.Step, other.step) && errno == other.errno {
			return true
		}
	}
	return false
}

// withoutOthers returns an error of Inspect without those of the listeners of other programs on this
// host, which may be ending.
func withoutOthers(err error, own string) error {
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	return errors.Join(slices.DeleteFunc(slices.Clone(all.Unwrap()), func(err error) bool {
		path, ok := err.(*os.PathError)
		return ok && strings.HasPrefix(path.Path, "@") && !strings.HasSuffix(path.Path, own)
	})...)
}

// TestInjected has each system call that ctnet makes fail once, on all networks: the step that
// needs it fails with a clear error, or succeeds all the same; the next attempt succeeds;
// connections that were made are not harmed; and nothing is left.
func TestInjected(t *testing.T) {
	var hits, hidden atomic.Int64
	sites := make(map[site]bool)
	done := make(map[string]bool)
	ways := []string{"ct cut", "ct cut abstract", "tcp cut", "tcp any", "tcp any abstract", "unix any"}
	if raceEnabled && !*injectAll {
		ways = ways[:2] // the race detector's own calls are reported, too, and take most of the time
	}
	for _, what := range ways {
		t.Run(what, func(t *testing.T) {
			path := strings.Fields(what)[1]
			p := newInjection(t)
			// What happens once in a process, and then what happens each time.
			all := make(map[site]int)
			for range 2 {
				outcomes, seen, _ := p.scenario(t, what, "", 0, 0)
				for _, o := range outcomes {
					require.Empty(t, o.Errs, "%+v", o)
				}
				for s, n := range seen {
					all[s] = max(all[s], n)
				}
			}
			order := make([]site, 0, len(all))
			for s := range all {
				order = append(order, s)
			}
			slices.Sort(order)
			for _, s := range order {
				if key := path + string(s); done[key] && !*injectAll {
					continue // another network has had it
				} else {
					done[key] = true
				}
				nr := int32(-1)
				for n, name := range callNames {
					if strings.HasPrefix(string(s), name+" ") {
						nr = n
					}
				}
				for nth := 1; nth <= all[s] && (*injectAll || nth == 1); nth++ {
					outcomes, _, hit := p.scenario(t, what, s, nth, injectable[nr])
					if !hit { // what is done once in a process
						p.in.disarm()
						p = newInjection(t)
						if outcomes, _, hit = p.scenario(t, what, s, nth, injectable[nr]); !hit {
							t.Logf("not hit: %s, %d", s, nth)
							continue
						}
					}
					hits.Add(1)
					sites[s] = true
					visible := false
					for _, o := range outcomes {
						failed := strings.HasPrefix(o.Step, "FAILED")
						for i, text := range o.Errs {
							visible = true
							t.Logf("%s, %d: %s: %v: %s", s, nth, o.Step, o.Took, text)
							if errno := o.Errnos[i]; !failed && o.Step != "idle" && errno != injectable[nr] && !saidOtherwise(s, o, errno) {
								t.Errorf("%s, %d: %s does not say %v", s, nth, o.Step, injectable[nr])
							}
						}
						if failed {
							t.Errorf("%s, %d, %v: %s", s, nth, injectable[nr], o.Step)
						}
					}
					if !visible {
						hidden.Add(1)
					}
				}
			}
		})
	}
	t.Logf("%d sites were hit, %d calls failed, %d of which nobody noticed", len(sites), hits.Load(), hidden.Load())
}
