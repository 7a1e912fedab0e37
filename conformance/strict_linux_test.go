package conformance

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var strictHost = flag.Bool("strict.host", false, "TestStrictHost sets vm.overcommit_memory to 2 for a moment, and uses up what may be committed. Other processes of the host may fail meanwhile")

func init() {
	roles["strict"] = playStrict
	roles["strained"] = playStrained
	roles["eater"] = playEater
}

// sharedMappings returns the addresses of mappings that other applications have, too.
func sharedMappings() (all [][2]uintptr) {
	b, err := os.ReadFile("/proc/self/maps")
	harness.Check(err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "/memfd:ctnet ") {
			var m [2]uintptr
			_, err := fmt.Sscanf(line, "%x-%x", &m[0], &m[1])
			harness.Check(err)
			all = append(all, m)
		}
	}
	return all
}

// removePages tries to remove the pages of all shared memory. It returns how many mappings there
// are, and of how many that was forbidden.
func removePages() (all, forbidden int) {
	for _, m := range sharedMappings() {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, m[0], m[1]-m[0], unix.MADV_REMOVE)
		if errno == unix.EPERM || errno == unix.EACCES { // EACCES: it is mapped for reading
			forbidden++
		}
		all++
	}
	return all, forbidden
}

// playStrict echoes in strict mode, and tries to remove pages when it is told to.
func playStrict() {
	segpool.PretendStrict(true)
	go echoOn(listen())
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(removePages())
	}
}

// TestStrictProcesses has two processes connected as where vm.overcommit_memory is 2. All pages of
// their shared memory are there, and neither side can remove one.
func TestStrictProcesses(t *testing.T) {
	defer segpool.PretendStrict(true)()
	p := launch(t, "strict", "CTNET_TEST_NETWORK=ct", "CTNET_TEST_NAME="+t.Name())
	require.Equal(t, "ready", p.line(t))
	a := harness.NewApp(t)
	var all []net.Conn
	for range 20 { // in three segments
		d := ctnet.Dialer{App: a, ReadBuffer: 1 << 20, WriteBuffer: 1 << 20}
		c, err := d.Dial("ct", t.Name())
		require.NoError(t, err)
		defer c.Close()
		requireEcho(t, c)
		all = append(all, c)
	}
	const mappings = 3 + 3 // segments, the events, and the sleep words of both
	for range 2 {
		require.Equal(t, fmt.Sprint(mappings, " ", mappings), p.ask(t, "remove"))
		n, forbidden := removePages()
		require.GreaterOrEqual(t, n, mappings) // other applications have some
		require.Equal(t, n, forbidden)
		requireAllocated(t)
		requireStreams(t, all)
	}
	before := len(sharedMappings())
	for _, c := range all[1:] { // so that slots are free again, and a segment goes
		require.NoError(t, c.Close())
	}
	harness.Eventually(t, func() bool { return len(sharedMappings()) < before })
	requireAllocated(t)
	for range 7 {
		c := dial(t, a, t.Name())
		defer c.Close()
		requireEcho(t, c)
	}
}

// requireAllocated makes sure that the files of all shared memory have all their pages.
func requireAllocated(t *testing.T) {
	t.Helper()
	for _, m := range sharedMappings() {
		info, err := os.Stat(fmt.Sprintf("/proc/self/map_files/%x-%x", m[0], m[1]))
		if errors.Is(err, os.ErrPermission) {
			return // it needs a capability
		}
		require.NoError(t, err)
		require.Equal(t, info.Size(), info.Sys().(*syscall.Stat_t).Blocks*512)
	}
}

// requireStreams sends more than a fifo has over each connection, and back.
func requireStreams(t *testing.T, all []net.Conn) {
	t.Helper()
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(i * 7)
	}
	for _, c := range all {
		go c.Write(sent)
		got := make([]byte, len(sent))
		_, err := io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, sent, got)
	}
}

// strictSlots is how many slots a segment has in strict mode.
const strictSlots = 8

// playStrained has connections between two applications, and uses them and dials as it is told.
func playStrained() {
	if os.Getenv("CTNET_TEST_BACK") == "blind" {
		segpool.PretendStrict(false)
	}
	go echoOn(listen())
	client, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	d := ctnet.Dialer{App: client, Timeout: 5 * time.Second}
	connect := func() (net.Conn, error) { return d.Dial("ct", os.Getenv("CTNET_TEST_NAME")) }
	var all []net.Conn
	for range strictSlots {
		c, err := connect()
		harness.Check(err)
		all = append(all, c)
	}
	sent, got := make([]byte, 1<<20), make([]byte, 1<<20)
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "use":
			for _, c := range all {
				var writing sync.WaitGroup
				writing.Go(func() { c.Write(sent) })
				_, err := io.ReadFull(c, got)
				harness.Check(err)
				writing.Wait()
			}
			fmt.Println("used")
		case "dial":
			_, err := connect()
			fmt.Println("dialed", errors.Is(err, syscall.ENOMEM), err)
		}
	}
}

// playEater takes all memory that may be committed, until it is told to give it back.
func playEater() {
	type meal struct{ at, size uintptr }
	meals := make([]meal, 0, 1<<16)
	stop := make(chan struct{})
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("ready")
	in.Scan()
	go func() {
		in.Scan()
		close(stop)
	}()
	for size := uintptr(64 << 20); ; {
		at, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0)
		switch {
		case errno == 0:
			meals = append(meals, meal{at, size})
		case size > 4096:
			if size /= 2; size == 4096 {
				fmt.Println("ate")
			}
		}
		select {
		case <-stop:
			for _, m := range meals {
				unix.Syscall(unix.SYS_MUNMAP, m.at, m.size, 0)
			}
			fmt.Println("gave back")
			return
		default:
		}
	}
}

// setVM sets a file of /proc/sys/vm until the function that it returns is called.
func setVM(t *testing.T, name string, value int) (restore func()) {
	t.Helper()
	file := "/proc/sys/vm/" + name
	old, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strconv.Itoa(value)), 0))
	return func() { require.NoError(t, os.WriteFile(file, old, 0)) }
}

// meminfo returns a line of /proc/meminfo, in KiB.
func meminfo(t *testing.T, name string) (kib int) {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	require.NoError(t, err)
	_, line, ok := strings.Cut(string(b), name+":")
	require.True(t, ok)
	_, err = fmt.Sscan(line, &kib)
	require.NoError(t, err)
	return kib
}

// TestStrictHost sets vm.overcommit_memory to 2 and has another process take all memory that may
// be committed. Connections go on, and Dials fail until there is memory again. A process that
// does not know the mode gets SIGBUS.
func TestStrictHost(t *testing.T) {
	if !*strictHost || os.Geteuid() != 0 {
		t.Skip("needs -strict.host and root")
	}
	for _, blind := range []bool{false, true} {
		t.Run(map[bool]string{false: "knows", true: "blind"}[blind], func(t *testing.T) {
			eater := launch(t, "eater")
			require.Equal(t, "ready", eater.line(t))
			require.Greater(t, meminfo(t, "CommitLimit")-meminfo(t, "Committed_AS"), 2<<20, "nothing could start")
			defer setVM(t, "user_reserve_kbytes", 0)() // or the eater leaves some
			defer setVM(t, "overcommit_memory", 2)()

			env := []string{"CTNET_TEST_NETWORK=ct", "CTNET_TEST_NAME=" + t.Name()}
			if blind {
				env = append(env, "CTNET_TEST_BACK=blind")
			}
			p := launch(t, "strained", env...)
			require.Equal(t, "ready", p.line(t))
			require.Equal(t, "ate", eater.ask(t, ""))
			_, err := io.WriteString(p.in, "use\n")
			require.NoError(t, err)
			if blind {
				lives := p.out.Scan()
				require.Equal(t, "gave back", eater.ask(t, ""))
				require.False(t, lives)
				// It has written "[signal SIGBUS" and where to standard error.
				var exit *exec.ExitError
				require.ErrorAs(t, p.cmd.Wait(), &exit)
				require.Equal(t, 2, exit.ExitCode())
				return
			}
			require.Equal(t, "used", p.line(t))
			failed := p.ask(t, "dial")
			require.Equal(t, "gave back", eater.ask(t, ""))
			require.Contains(t, failed, "dialed true ")
			require.Equal(t, "dialed false <nil>", p.ask(t, "dial"))
		})
	}
}
