// Package services tests events in the life of services that run for long: they are restarted,
// killed, moved to namespaces of their own, and find files that other processes have left.
package services

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/leakcheck"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	harness.Main(m, map[string]func(){"puppet": puppetMain})
}

// A puppet is another process, which does what it is told over a socket.
type puppet struct {
	t       testing.TB
	cmd     *exec.Cmd // nil if another puppet has started it
	pid     int       // in the PID namespace of its parent
	control *net.UnixConn
	killed  bool
}

// startPuppet starts one, which ends with the test if not before, and must not fail.
func startPuppet(t testing.TB, change func(*exec.Cmd)) *puppet {
	t.Helper()
	p, err := tryPuppet(t, change)
	require.NoError(t, err)
	return p
}

func tryPuppet(t testing.TB, change func(*exec.Cmd)) (*puppet, error) {
	t.Helper()
	control, other := controlPair(t)
	defer other.Close()
	cmd := puppetCommand(other)
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		control.Close()
		return nil, err
	}
	p := &puppet{t: t, cmd: cmd, pid: cmd.Process.Pid, control: control}
	t.Cleanup(p.end)
	require.Equal(t, "ready", p.answer())
	return p, nil
}

// puppetCommand is the command for a puppet, with its end of the control socket.
func puppetCommand(control *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe") // works also for users who can't read its directory
	// The race detector would have it wait for a second at its end.
	cmd.Env = append(os.Environ(), harness.RoleEnv+"=puppet")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{control}
	return cmd
}

func controlPair(t testing.TB) (own *net.UnixConn, other *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	return packetConn(os.NewFile(uintptr(pair[0]), "")), os.NewFile(uintptr(pair[1]), "")
}

func packetConn(f *os.File) *net.UnixConn {
	defer f.Close()
	c, err := net.FileConn(f)
	harness.Check(err)
	return c.(*net.UnixConn)
}

// end has the puppet end, and waits for it.
func (p *puppet) end() {
	p.control.Close()
	if p.cmd == nil || p.cmd.ProcessState != nil {
		return
	}
	if p.killed {
		p.cmd.Wait()
		return
	}
	timer := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the other process: %v", err)
	}
}

// kill kills the puppet and returns when nothing is left of it.
func (p *puppet) kill() {
	p.t.Helper()
	p.killed = true
	require.NoError(p.t, p.cmd.Process.Kill())
	p.cmd.Wait()
	p.control.Close()
}

// freeze stops the puppet until thaw, or the end of the test.
func (p *puppet) freeze() {
	p.t.Helper()
	p.t.Cleanup(p.thaw)
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	err := unix.EINTR
	for err == unix.EINTR {
		err, _ = unix.Waitid(unix.P_PID, p.pid, nil, unix.WSTOPPED, nil).(syscall.Errno)
	}
	require.Zero(p.t, err)
}

func (p *puppet) thaw() { p.cmd.Process.Signal(syscall.SIGCONT) }

// send gives an order: its name and arguments, and a file that goes with it, or nil.
func (p *puppet) send(order []string, file *os.File) {
	p.t.Helper()
	var rights []byte
	if file != nil {
		var err error
		rights, err = rightsTo(file)
		require.NoError(p.t, err)
	}
	_, _, err := p.control.WriteMsgUnix([]byte(strings.Join(order, " ")), rights, nil)
	require.NoError(p.t, err, "%v", order)
}

// rightsTo returns what is sent along with a message for the receiver to get a file.
func rightsTo(f *os.File) (rights []byte, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	err = raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) })
	return rights, err
}

// receive returns a message and the file that came with it, or nil.
func receive(control *net.UnixConn) (text string, file *os.File, err error) {
	b, oob := make([]byte, 1<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := control.ReadMsgUnix(b, oob)
	if err != nil {
		return "", nil, err
	}
	if n == 0 {
		return "", nil, io.EOF
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		harness.Check(err)
		fds, err := unix.ParseUnixRights(&msgs[0])
		harness.Check(err)
		unix.CloseOnExec(fds[0])
		file = os.NewFile(uintptr(fds[0]), "")
	}
	return string(b[:n]), file, nil
}

// answer returns the answer to the order that was given first.
func (p *puppet) answer() string {
	p.t.Helper()
	text, _ := p.answerWithFile()
	return text
}

func (p *puppet) answerWithFile() (string, *os.File) {
	p.t.Helper()
	p.control.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, file, err := receive(p.control)
	require.NoError(p.t, err)
	return text, file
}

// ask gives an order and returns the answer, which may be that it failed.
func (p *puppet) ask(order ...string) string {
	p.t.Helper()
	p.send(order, nil)
	return p.answer()
}

// do gives an order that must not fail.
func (p *puppet) do(order ...string) string {
	p.t.Helper()
	answer := p.ask(order...)
	require.NotContains(p.t, answer, failed, "%v", order)
	return answer
}

// start has a puppet start another one, in new namespaces.
func (p *puppet) start(flags uintptr) *puppet {
	p.t.Helper()
	control, other := controlPair(p.t)
	defer other.Close()
	p.send([]string{"start", strconv.FormatUint(uint64(flags), 10)}, other)
	answer := p.answer()
	require.NotContains(p.t, answer, failed)
	pid, err := strconv.Atoi(answer)
	require.NoError(p.t, err)
	child := &puppet{t: p.t, pid: pid, control: control}
	p.t.Cleanup(child.end)
	require.Equal(p.t, "ready", child.answer())
	return child
}

// leaveNothing checks at the end of the test that nothing has leaked since.
func leaveNothing(t testing.TB) {
	t.Helper()
	before := harness.MeasureIdle(t)
	t.Cleanup(func() { leakcheck.RequireBack(t, before) })
}

// failed is how the answer to an order that failed begins.
const failed = "failed: "

// A stage is what a puppet has.
type stage struct {
	listeners map[string]*served
	held      net.Conn
	beacons   []net.PacketConn
	squatters []net.Listener
	children  []*exec.Cmd
	thread    chan func() // what the thread in another network namespace is to do
}

func puppetMain() {
	control := packetConn(os.NewFile(3, ""))
	s := &stage{listeners: make(map[string]*served)}
	orders := make(chan func())
	go func() {
		for f := range orders {
			f()
		}
	}()
	answer := func(text string, err error) {
		if err != nil {
			text = failed + err.Error()
		}
		control.Write([]byte(text))
	}
	answer("ready", nil)
	for {
		text, file, err := receive(control)
		if err != nil {
			break // the test has ended
		}
		args := strings.Fields(text)
		orders <- func() {
			if args[0] == "file" {
				answer("file", s.sendFile(control, args[1]))
			} else {
				answer(s.obey(args, file))
			}
		}
	}
	for _, cmd := range s.children {
		cmd.Wait()
	}
	os.Exit(0)
}

// obey does what an order says.
func (s *stage) obey(args []string, file *os.File) (answer string, err error) {
	arg := func(i int) string { return args[i] }
	switch args[0] {
	case "listen": // how, network, address, label, what
		ln, err := listenAs(arg(1), arg(2), arg(3))
		if err != nil {
			return "", err
		}
		s.listeners[arg(4)] = serve(ln, arg(4), arg(5))
		return ln.Addr().String(), nil
	case "inherit": // label, what: the listener is the second file that it was started with
		f := os.NewFile(4, "")
		inner, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return "", err
		}
		ln, err := ctnet.NewListener(inner)
		if err != nil {
			return "", err
		}
		s.listeners[arg(1)] = serve(ln, arg(1), arg(2))
		return fmt.Sprintf("%T", ln), nil
	case "close": // label
		return "closed", s.listeners[arg(1)].close()
	case "drain": // label: returns when the last connection has ended
		return "drained", s.listeners[arg(1)].drain()
	case "dial": // path, network, address
		c, err := dialBy(arg(1), arg(2), arg(3))
		if err != nil {
			return "", err
		}
		defer c.Close()
		return answerOf(c)
	case "why": // network, address
		return why(arg(1), arg(2))
	case "hold": // path, network, address: dials, and keeps the connection
		if s.held, err = dialBy(arg(1), arg(2), arg(3)); err != nil {
			return "", err
		}
		return answerOf(s.held)
	case "ended": // returns when the held connection has ended
		_, err := s.held.Read(make([]byte, 1))
		s.held.Close()
		return fmt.Sprint(err), nil
	case "environment": // name, value
		return "set", os.Setenv(arg(1), arg(2))
	case "up": // interface, address with prefix or none
		return "up", interfaceUp(arg(1), args[2:])
	case "veth": // name, name and process of the other end
		pid, err := strconv.Atoi(arg(3))
		harness.Check(err)
		return "made", addVeth(arg(1), arg(2), pid)
	case "private":
		return "private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	case "proc":
		return "mounted", unix.Mount("proc", "/proc", "proc", 0, "")
	case "bind": // source, target
		return "bound", unix.Mount(arg(1), arg(2), "", unix.MS_BIND, "")
	case "read-only": // target of a bind
		return "changed", unix.Mount("", arg(1), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	case "start": // clone flags
		flags, err := strconv.ParseUint(arg(1), 10, 64)
		harness.Check(err)
		defer file.Close()
		cmd := puppetCommand(file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flags)}
		if err := cmd.Start(); err != nil {
			return "", err
		}
		s.children = append(s.children, cmd)
		return fmt.Sprint(cmd.Process.Pid), nil
	case "unshare": // makes a thread that is in a new network namespace
		s.thread = make(chan func())
		entered := make(chan error)
		go func() {
			runtime.LockOSThread()
			entered <- unix.Unshare(unix.CLONE_NEWNET)
			for f := range s.thread {
				f()
			}
		}()
		return "unshared", <-entered
	case "thread": // an order for that thread
		done := make(chan struct{})
		s.thread <- func() {
			defer close(done)
			answer, err = s.obey(args[1:], nil)
		}
		<-done
		return answer, err
	case "impostor": // path: a listener that says nothing
		ln, err := net.Listen("unixpacket", arg(1))
		if err != nil {
			return "", err
		}
		if err := os.Chmod(arg(1), 0o666); err != nil {
			return "", err
		}
		s.listeners["impostor"] = &served{ln: ln}
		return "listens", nil
	case "squat": // name: occupies it as a listener does, and says nothing
		beacon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: arg(1), Net: "unixgram"})
		if err != nil {
			return "", err
		}
		s.beacons = append(s.beacons, beacon)
		ln, err := net.Listen("unixpacket", arg(1))
		if err != nil {
			return "", err
		}
		s.squatters = append(s.squatters, ln)
		s.listeners["impostor"] = &served{ln: s.squatters[0]}
		return "squats", nil
	case "inspect": // the addresses of all listeners
		all, err := ctnet.Inspect(context.Background())
		if err != nil {
			return "", err
		}
		addresses := []string{"listeners"}
		for _, snapshot := range all {
			for _, l := range snapshot.Listeners {
				addresses = append(addresses, l.Address)
			}
		}
		return strings.Join(addresses, " "), nil
	case "visited": // what the impostor's first visitor has said
		c, err := s.listeners["impostor"].ln.Accept()
		if err != nil {
			return "", err
		}
		defer c.Close()
		n, err := c.Read(make([]byte, 1))
		return fmt.Sprint(n, " ", err), nil
	}
	return "", errors.New("no such order")
}

// sendFile sends the file of a listener.
func (s *stage) sendFile(control *net.UnixConn, label string) error {
	f, err := s.listeners[label].ln.(*ctnet.Listener).File()
	if err != nil {
		return err
	}
	defer f.Close()
	// As os/exec would do it, which makes the socket blocking.
	_, _, err = control.WriteMsgUnix([]byte("here it is"), unix.UnixRights(int(f.Fd())), nil)
	return err
}

// file returns the file of a puppet's listener.
func (p *puppet) file(label string) *os.File {
	p.t.Helper()
	p.send([]string{"file", label}, nil)
	text, file := p.answerWithFile()
	require.Equal(p.t, "here it is", text)
	require.Equal(p.t, "file", p.answer())
	return file
}

// listenAs listens. "kept" is as "ctnet", but the file of a unix listener stays when
// it is closed.
func listenAs(how, network, address string) (net.Listener, error) {
	switch how {
	case "ctnet":
		return ctnet.Listen(network, address)
	case "kept":
		inner, err := net.Listen(network, address)
		if err != nil {
			return nil, err
		}
		if u, ok := inner.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		return ctnet.NewListener(inner)
	}
	return nil, errors.New("no such way to listen")
}

var paths = map[string]ctnet.Path{"any": ctnet.AnyPath, "cut": ctnet.CutThrough, "kernel": ctnet.Kernel}

func dialBy(path, network, address string) (net.Conn, error) {
	d := ctnet.Dialer{Path: paths[path]}
	return d.Dial(network, address)
}

// A served is a listener with its connections.
type served struct {
	ln    net.Listener
	conns sync.WaitGroup
	done  chan struct{} // closed when nothing is accepted any more

	// Of one that speaks HTTP, see there.
	web   *http.Server
	mu    sync.Mutex
	fresh map[net.Conn]bool
}

// serve accepts connections until the listener is closed. What is "echo" or "http".
func serve(ln net.Listener, label, what string) *served {
	l := &served{ln: ln, done: make(chan struct{})}
	if what == "http" {
		l.serveHTTP(label)
	}
	go func() {
		defer close(l.done)
		if l.web != nil {
			l.web.Serve(ln)
			return
		}
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			harness.Check(err)
			l.conns.Go(func() { echoLabelled(c, label) })
		}
	}()
	return l
}

// close ends accepting.
func (l *served) close() error {
	if err := l.ln.Close(); err != nil {
		return err
	}
	<-l.done
	return nil
}

// drain ends accepting, unless that was done, and waits for the connections to end.
func (l *served) drain() error {
	l.ln.Close()
	<-l.done
	l.conns.Wait()
	if l.web == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return l.web.Shutdown(ctx)
}

// A label is what each connection to a listener begins with.
const labelSize = 8

func echoLabelled(c net.Conn, label string) {
	defer c.Close()
	fmt.Fprintf(c, "%-*s", labelSize, label)
	if harness.IsCut(c) {
		io.Copy(c, c)
	} else { // package net would copy by a pipe, and keep that
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	}
}

// answerOf says which way a connection goes, and the label of the listener that it
// reaches, after some bytes went to and fro.
func answerOf(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	defer c.SetDeadline(time.Time{})
	label := make([]byte, labelSize)
	if _, err := io.ReadFull(c, label); err != nil {
		return "", fmt.Errorf("no label on a %T: %w", c, err)
	}
	if err := exchange(c); err != nil {
		return "", fmt.Errorf("no echo on a %T: %w", c, err)
	}
	return wayOf(c) + " " + strings.TrimSpace(string(label)), nil
}

func wayOf(c net.Conn) string {
	if harness.IsCut(c) {
		return "cut"
	}
	return "kernel"
}

// exchange sends random bytes, which must come back.
func exchange(c net.Conn) error {
	sent := make([]byte, 1+rand.IntN(1<<(1+rand.IntN(15))))
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	got := make([]byte, len(sent))
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes than were sent")
	}
	return nil
}

// interfaceUp gives a network interface of this thread's network namespace an
// address of IPv4, if one is said, and brings it up.
func interfaceUp(name string, address []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if len(address) > 0 {
		prefix, err := netip.ParsePrefix(address[0])
		if err != nil {
			return err
		}
		if err := req.SetInet4Addr(prefix.Addr().AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, req); err != nil {
			return err
		}
		req.SetInet4Addr(net.CIDRMask(prefix.Bits(), 32))
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, req); err != nil {
			return err
		}
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// addVeth makes two network interfaces that are joined: one here, the other one in
// the network namespace of a process.
func addVeth(name, peer string, pid int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	native := binary.NativeEndian
	attribute := func(kind uint16, parts ...[]byte) []byte {
		value := bytes.Join(parts, nil)
		b := native.AppendUint16(nil, uint16(4+len(value)))
		b = append(native.AppendUint16(b, kind), value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	const vethInfoPeer = 1 // VETH_INFO_PEER
	link := make([]byte, unix.SizeofIfInfomsg)
	body := bytes.Join([][]byte{
		link,
		attribute(unix.IFLA_IFNAME, []byte(name), []byte{0}),
		attribute(unix.IFLA_LINKINFO,
			attribute(unix.IFLA_INFO_KIND, []byte("veth")),
			attribute(unix.IFLA_INFO_DATA,
				attribute(vethInfoPeer, link,
					attribute(unix.IFLA_IFNAME, []byte(peer), []byte{0}),
					attribute(unix.IFLA_NET_NS_PID, native.AppendUint32(nil, uint32(pid)))))),
	}, nil)
	m := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = native.AppendUint16(m, unix.RTM_NEWLINK)
	m = native.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m = append(append(m, make([]byte, 8)...), body...) // sequence number, sender
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 1<<10)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("not an answer of netlink's")
	}
	if errno := -int32(native.Uint32(b[unix.SizeofNlMsghdr:])); errno != 0 {
		return os.NewSyscallError("RTM_NEWLINK", syscall.Errno(errno))
	}
	return nil
}

// startApart starts a puppet in new namespaces, with its loopback up if it has one
// of its own. A user who may not make namespaces makes them in a user namespace, as its root.
func startApart(t *testing.T, flags uintptr, change func(*exec.Cmd)) *puppet {
	t.Helper()
	if change == nil {
		change = func(*exec.Cmd) {}
	}
	p, err := tryPuppet(t, func(cmd *exec.Cmd) {
		change(cmd)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	})
	if err != nil {
		p, err = tryPuppet(t, func(cmd *exec.Cmd) {
			change(cmd)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  flags | unix.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			}
		})
	}
	if err != nil {
		t.Skipf("this user may make neither namespaces nor a user namespace to have them in: %v", err)
	}
	if flags&unix.CLONE_NEWNET != 0 {
		if answer := p.ask("up", "lo"); strings.Contains(answer, syscall.EPERM.Error()) {
			t.Skipf("this user has no rights in the namespaces that it may make: %s", answer)
		} else {
			require.Equal(t, "up", answer)
		}
	}
	return p
}

// requireRefused requires that there is no listener at an address, by either path.
func requireRefused(t *testing.T, p *puppet, prefix []string, network, address string) {
	t.Helper()
	for path := range paths {
		answer := p.ask(append(prefix, "dial", path, network, address)...)
		require.Contains(t, answer, failed, path)
		require.Contains(t, answer, syscall.ECONNREFUSED.Error(), path)
	}
}

// TestNetworkNamespaces has listeners at one address in several network namespaces.
// Each is found in its own, and in no other, although all use one directory. One of
// the namespaces is that of a single thread.
func TestNetworkNamespaces(t *testing.T) {
	for network, address := range map[string]string{
		"tcp":  "127.0.0.1:0",
		"tcp4": "0.0.0.0:0",
		"tcp6": "[::1]:0",
		"unix": fmt.Sprintf("@ctnet-%d", os.Getpid()),
	} {
		t.Run(network, func(t *testing.T) {
			leaveNothing(t)
			host, client := listenEcho(t, harness.NewApp(t), network, address, "host"), harness.NewApp(t)
			listen := host.ln.Addr().String()
			dial := listen
			if network == "tcp4" {
				dial = strings.Replace(dial, "0.0.0.0", "127.0.0.1", 1)
			}

			a := startApart(t, unix.CLONE_NEWNET, nil)
			b := startApart(t, unix.CLONE_NEWNET, nil)
			a.do("unshare")
			a.do("thread", "up", "lo")
			places := []struct {
				p      *puppet
				prefix []string
				label  string
			}{{a, nil, "a"}, {b, nil, "b"}, {a, []string{"thread"}, "thread"}}
			for i, place := range places {
				// Listeners in other namespaces are not found.
				for _, other := range places[i:] {
					requireRefused(t, other.p, other.prefix, network, dial)
				}
				place.p.do(append(place.prefix, "listen", "ctnet", network, listen, place.label, "echo")...)
			}
			for range 2 { // the second time by a pair that is there
				for _, place := range places {
					for path, way := range map[string]string{"any": "cut", "cut": "cut", "kernel": "kernel"} {
						require.Equal(t, way+" "+place.label, place.p.do(append(place.prefix, "dial", path, network, dial)...))
					}
				}
				requireReaches(t, "cut host", (&ctnet.Dialer{App: client}).Dial, network, dial)
			}
			// When one goes, it is gone there and nowhere else. What a process
			// knows to be gone it may leave to the kernel in all its threads.
			for i, place := range places {
				place.p.do("close", place.label)
				requireRefused(t, place.p, place.prefix, network, dial)
				for _, other := range places[i+1:] {
					answer := other.p.do(append(other.prefix, "dial", "any", network, dial)...)
					if other.p == place.p {
						answer = strings.Replace(answer, "kernel", "cut", 1)
					}
					require.Equal(t, "cut "+other.label, answer)
				}
			}
			require.NoError(t, host.close())
		})
	}
}

// TestNamespacesShareDirectory has two processes in network, process and mount
// namespaces of their own, which have a directory in common, each at a path of its
// own, as containers have a volume.
func TestNamespacesShareDirectory(t *testing.T) {
	leaveNothing(t)
	volume := t.TempDir()
	start := func() (p *puppet, at string) {
		p = startApart(t, unix.CLONE_NEWNET|unix.CLONE_NEWPID|unix.CLONE_NEWNS, nil)
		at = t.TempDir()
		p.do("private")
		p.do("proc")
		p.do("bind", volume, at)
		p.do("environment", "CTNET_DIR", filepath.Join(at, "ct"))
		return p, at
	}
	server, there := start()
	client, here := start()
	server.do("listen", "ctnet", "ct", "svc/echo", "ct", "echo")
	server.do("listen", "ctnet", "unix", filepath.Join(there, "s"), "unix", "echo")
	tcp := server.do("listen", "ctnet", "tcp", "127.0.0.1:0", "tcp", "echo")
	socket := filepath.Join(here, "s")

	require.Equal(t, "cut ct", client.do("dial", "any", "ct", "svc/echo"))
	require.Equal(t, "cut unix", client.do("dial", "any", "unix", socket))
	require.Equal(t, "kernel unix", client.do("dial", "kernel", "unix", socket))
	requireRefused(t, client, nil, "tcp", tcp)
	// Beside this process they are at another path, too.
	t.Setenv("CTNET_DIR", filepath.Join(volume, "ct"))
	for network, address := range map[string]string{"ct": "svc/echo", "unix": filepath.Join(volume, "s")} {
		requireReaches(t, "cut "+network, (&ctnet.Dialer{App: harness.NewApp(t)}).Dial, network, address)
	}

	// A peer's death is noticed, and its name is free.
	for _, to := range [][]string{{"ct", "svc/echo"}, {"unix", socket}} {
		require.Equal(t, "cut "+to[0], client.do("hold", "any", to[0], to[1]))
		client.send([]string{"ended"}, nil)
		server.kill()
		require.Contains(t, client.answer(), syscall.ECONNRESET.Error())
		refused := client.ask("dial", "any", to[0], to[1])
		require.Contains(t, refused, failed)
		require.Contains(t, refused, syscall.ECONNREFUSED.Error())
		server, there = start()
		server.do("listen", "ctnet", "ct", "svc/echo", "ct", "echo")
		require.NoError(t, os.Remove(filepath.Join(volume, "s")))
		server.do("listen", "ctnet", "unix", filepath.Join(there, "s"), "unix", "echo")
		require.Equal(t, "cut "+to[0], client.do("dial", "any", to[0], to[1]))
	}
}

// TestOtherHost has two network namespaces with a cable between them: the kernel's
// network leads from one to the other, whatever their directory says.
func TestOtherHost(t *testing.T) {
	leaveNothing(t)
	a := startApart(t, unix.CLONE_NEWNET, nil)
	b := a.start(unix.CLONE_NEWNET)
	b.do("up", "lo")
	a.do("veth", "cable0", "cable1", strconv.Itoa(b.pid))
	a.do("up", "cable0", "192.0.2.1/24")
	b.do("up", "cable1", "192.0.2.2/24")

	_, port, err := net.SplitHostPort(b.do("listen", "ctnet", "tcp", "192.0.2.2:0", "b", "echo"))
	require.NoError(t, err)
	toA, toB := "192.0.2.1:"+port, "192.0.2.2:"+port
	fromA := func(to string) string { return a.do("dial", "any", "tcp", to) }
	fromB := func(to string) string { return b.do("dial", "any", "tcp", to) }
	require.Equal(t, "kernel b", fromA(toB))
	require.Equal(t, "cut b", fromB(toB))
	require.Contains(t, a.ask("dial", "cut", "tcp", toB), syscall.ECONNREFUSED.Error())
	require.Contains(t, a.ask("dial", "any", "tcp", toA), syscall.ECONNREFUSED.Error())

	// One on all addresses has all of its own host's, and none of the other's.
	a.do("listen", "ctnet", "tcp", ":"+port, "a", "echo")
	require.Equal(t, "kernel b", fromA(toB))
	require.Contains(t, a.ask("dial", "cut", "tcp", toB), syscall.ECONNREFUSED.Error())
	require.Equal(t, "cut a", fromA(toA))
	require.Equal(t, "cut a", fromA("127.0.0.1:"+port))
	require.Equal(t, "kernel a", fromB(toA))
	require.Equal(t, "cut b", fromB(toB))

	// Network "ct" is not the kernel's: processes that share a directory can connect.
	dir := ownDirectory(t)
	for _, p := range []*puppet{a, b} {
		p.do("environment", "CTNET_DIR", dir)
	}
	b.do("listen", "ctnet", "ct", t.Name(), "ct", "echo")
	require.Equal(t, "cut ct", a.do("dial", "any", "ct", t.Name()))
}
