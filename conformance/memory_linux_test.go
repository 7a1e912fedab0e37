package conformance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

// resident returns how much memory the process's mappings take whose names contain name, in
// bytes. A page that is mapped twice counts once.
func resident(t *testing.T, name string) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	inside := false
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		switch {
		case !strings.HasSuffix(fields[0], ":"):
			inside = strings.Contains(line, name)
		case inside && fields[0] == "Pss:":
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			require.NoError(t, err)
			n += kib << 10
		}
	}
	return n
}

// transfer has n bytes go from one end to the other.
func transfer(t *testing.T, from, to *ctnet.Conn, n int) {
	t.Helper()
	go from.Write(make([]byte, n))
	m, err := to.Discard(n)
	require.NoError(t, err)
	require.Equal(t, n, m)
}

// TestIdleGivesBack has connections on which much was sent, and then nothing: they have next
// to no memory, and the account knows.
func TestIdleGivesBack(t *testing.T) {
	const conns = 24
	server, client := harness.NewApp(t), harness.NewApp(t)
	ln := listenOn(t, ctnet.ListenConfig{App: server})
	var all [][2]*ctnet.Conn
	for range conns {
		c, s := connectTo(t, ln, client)
		all = append(all, [2]*ctnet.Conn{c, s})
	}
	for range 2 {
		var reading sync.WaitGroup
		for _, p := range all {
			transfer(t, p[0], p[1], 1<<20)
			transfer(t, p[1], p[0], 1<<20)
			reading.Go(func() { p[1].Read(make([]byte, 1)) }) // as a server does all the time
		}
		require.Greater(t, resident(t, "memfd:ctnet segment"), int64(2<<20))
		harness.Eventually(t, func() bool { return resident(t, "memfd:ctnet segment") < 1<<20 })
		for _, a := range []*ctnet.App{server, client} {
			harness.Eventually(t, func() bool { return a.Snapshot().Memory == conns*2*ctnet.MinBuffer })
		}
		for _, p := range all {
			writeString(t, p[0], "x")
		}
		harness.RequireWithin(t, 10*time.Second, harness.AllDone(&reading), "the readers")
	}
	for _, p := range all {
		p[0].Close()
		p[1].Close()
	}
	for _, a := range []*ctnet.App{server, client} {
		harness.Eventually(t, func() bool { return a.Snapshot().Memory == 0 })
	}
}

// TestWriteFirst has both ends write much before they read, as a client does that sends a whole
// pipeline of commands to a server that answers meanwhile. No fifo is read then.
func TestWriteFirst(t *testing.T) {
	ln := listenOn(t, ctnet.ListenConfig{App: harness.NewApp(t)})
	c, s := connectTo(t, ln, harness.NewApp(t))
	b := make([]byte, ctnet.DefaultBuffer)
	for range 2 {
		for _, from := range []*ctnet.Conn{c, s} {
			require.NoError(t, from.SetWriteDeadline(time.Now().Add(10*time.Second)))
			_, err := from.Write(b)
			require.NoError(t, err)
		}
		for _, to := range []*ctnet.Conn{c, s} {
			_, err := io.ReadFull(to, b)
			require.NoError(t, err)
		}
	}
}

// TestMaxMemory has an application come to its MaxMemory: fifos don't grow beyond three quarters
// of it, and then there are no more connections. When some are closed there is room again.
func TestMaxMemory(t *testing.T) {
	const limit, least = 1 << 20, 2 * ctnet.MinBuffer
	for name, onServer := range map[string]bool{"client": false, "server": true} {
		t.Run(name, func(t *testing.T) {
			limited, other := newLimitedApp(t, ctnet.AppConfig{MaxMemory: limit}), harness.NewApp(t)
			server, client := other, limited
			text := fmt.Sprintf("limit of %d bytes of fifos reached", limit)
			if onServer {
				server, client = limited, other
				text = "the listener's application has reached a limit"
			}
			// A step of a fifo that was allowed before is small beside the limit.
			ln := listenOn(t, ctnet.ListenConfig{
				App: server, ReadBuffer: limit / 8, WriteBuffer: limit / 8, Peer: ctnet.PeerLimits{Memory: 2 * limit},
			})
			used := func() int { return int(limited.Snapshot().Memory) }
			var all [][2]*ctnet.Conn
			// Meanwhile fifos that are quiet for a second become small again.
			connect := func() error {
				before := used()
				d := ctnet.Dialer{App: client, Timeout: 10 * time.Second}
				c, err := d.Dial("ct", t.Name())
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				all = append(all, [2]*ctnet.Conn{c.(*ctnet.Conn), acceptConn(t, ln)})
				require.LessOrEqual(t, used()-before, least)
				return nil
			}
			stream := func(i int) {
				transfer(t, all[i][0], all[i][1], 2<<20)
				transfer(t, all[i][1], all[i][0], 2<<20)
			}
			most := 0
			for i := range 8 {
				require.NoError(t, connect())
				stream(i)
				most = max(most, used())
			}
			require.Greater(t, most, limit/2)
			require.LessOrEqual(t, most, limit) // 3/4, 8 new ones, and what was allowed before
			var err error
			for range limit / least {
				if err = connect(); err != nil {
					break
				}
			}
			requireLimitError(t, err, text)
			stream(len(all) - 1)                                        // the others may have been allowed one more step before
			require.Less(t, used(), limit+limit/16, "fifos have grown") // but for the odd step, see ring.Producer.Starves

			for _, p := range all[:len(all)-1] {
				p[0].Close()
				p[1].Close()
			}
			harness.Eventually(t, func() bool { return used() == least })
			harness.Eventually(t, func() bool {
				stream(len(all) - 1)
				return used() > least
			})
			require.NoError(t, connect())
		})
	}
}

func init() { roles["pour"] = pour }

// pour writes to all that connect. It joins a control group first, if it is given one.
func pour() {
	if group := os.Getenv("CTNET_TEST_BACK"); group != "" {
		harness.Check(os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	}
	ln := listen()
	go func() {
		for {
			c, err := ln.Accept()
			harness.Check(err)
			go func() {
				for b := make([]byte, 256<<10); ; {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	untilStdinCloses(ln.Addr())
}

// smallGroup makes a control group that may take 64 MiB of memory, or returns "" where that
// is not possible.
func smallGroup(t *testing.T) string {
	for file, root := range map[string]string{"memory.limit_in_bytes": "/sys/fs/cgroup/memory", "memory.max": "/sys/fs/cgroup"} {
		dir := filepath.Join(root, fmt.Sprintf("ctnet-test-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			// It can be removed when nobody is in it any more.
			harness.Eventually(t, func() bool { return syscall.Rmdir(dir) == nil })
		})
		f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_, err = f.WriteString(strconv.Itoa(64 << 20))
		f.Close()
		if err == nil {
			return dir
		}
	}
	return ""
}

// TestSlowReaders has 62 readers, each of which takes 1 MB/s, of a process that may take 64
// MiB where that can be had. The fifos stay within a quarter of that, and the process lives.
func TestSlowReaders(t *testing.T) {
	const readers, piece = 62, 16 << 10
	group := smallGroup(t)
	t.Logf("the control group is %q", group)
	cmd, _ := startProcessOn(t, "pour", "ct", t.Name(), group)
	a := harness.NewApp(t)
	var wg sync.WaitGroup
	for range readers {
		c := dial(t, a, t.Name())
		defer c.Close()
		wg.Go(func() {
			b := make([]byte, piece)
			tick := time.NewTicker(piece * time.Microsecond)
			defer tick.Stop()
			for range 100 {
				if _, err := io.ReadFull(c, b); err != nil {
					t.Error(err)
					return
				}
				<-tick.C
			}
		})
	}
	harness.RequireWithin(t, 60*time.Second, harness.AllDone(&wg), "the readers")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	require.NoError(t, err)
	_, rest, _ := bytes.Cut(b, []byte("RssShmem:"))
	var kib int
	_, err = fmt.Sscan(string(rest), &kib)
	require.NoError(t, err)
	t.Logf("%d KiB", kib)
	if group != "" {
		require.Less(t, kib, 17<<10) // and the bitmaps
	}
}
