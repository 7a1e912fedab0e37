package ctnet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHostileClient overwrites all the memory that a client shares with a server, again and
// again. Another client of the server is not affected.
func TestHostileClient(t *testing.T) {
	usage := func() (u [3]int) {
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		maps, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		return [3]int{len(fds), runtime.NumGoroutine(), strings.Count(string(maps), "memfd:ctnet")}
	}
	within := func(what string, f func()) {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			stacks := make([]byte, 1<<20)
			t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
	// The runtime keeps what it needs to wait for a socket.
	ln, err := net.Listen("unix", os.Getenv("CTNET_DIR")+"/warm-up")
	require.NoError(t, err)
	ln.Close()
	before := usage()

	var apps [3]*App
	for i := range apps {
		apps[i], err = NewApp(AppConfig{})
		require.NoError(t, err)
	}
	server, good, bad := apps[0], apps[1], apps[2]
	var stop atomic.Bool
	var serving sync.WaitGroup
	serve := func(name string, handle func(c *Conn)) {
		// Small fifos, so that there is less to overwrite.
		lc := ListenConfig{App: server, ReadBuffer: MinBuffer, WriteBuffer: MinBuffer}
		ln, err := lc.Listen(t.Context(), networkCT, name)
		require.NoError(t, err)
		serving.Go(func() {
			for {
				c, err := ln.(*Listener).AcceptConn()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer c.Close()
					handle(c)
				})
			}
		})
	}
	serve("good", func(c *Conn) { io.Copy(c, c) })
	var slowest, ended atomic.Int64
	serve("bad", func(c *Conn) {
		const wait = 10 * time.Millisecond
		defer ended.Add(1)
		for b := make([]byte, 1000); !stop.Load(); {
			for _, call := range []func([]byte) (int, error){c.Read, c.Write} {
				c.SetDeadline(time.Now().Add(wait))
				start := time.Now()
				_, err := call(b)
				if took := int64(time.Since(start)); took > slowest.Load() {
					slowest.Store(took)
				}
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
			}
		}
	})

	others := mappings(t)
	for range 20 {
		d := Dialer{App: bad}
		_, err := d.Dial(networkCT, "bad")
		require.NoError(t, err)
	}
	var memory []mapping
	for m := range mappings(t) {
		if _, ok := others[m]; !ok {
			memory = append(memory, m)
		}
	}
	require.NotEmpty(t, memory)
	self, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	require.NoError(t, err)
	rounds := 0
	var scribbling sync.WaitGroup
	scribbling.Go(func() {
		rnd := rand.NewChaCha8([32]byte{1})
		for b := make([]byte, 64<<10); !stop.Load(); rounds++ {
			for _, m := range memory {
				for at := m.start; at < m.end; at += int64(len(b)) {
					rnd.Read(b)
					self.WriteAt(b[:min(int64(len(b)), m.end-at)], at)
				}
			}
		}
	})

	d := Dialer{App: good}
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	want := sha256.Sum256(data)
	within("the good client", func() {
		for start := time.Now(); time.Since(start) < 2*time.Second; {
			c, err := d.Dial(networkCT, "good")
			if err != nil {
				t.Error(err)
				return
			}
			var writing sync.WaitGroup
			writing.Go(func() {
				io.Copy(c, bytes.NewReader(data))
				c.(*Conn).CloseWrite()
			})
			h := sha256.New()
			_, err = io.Copy(h, c)
			c.Close()
			writing.Wait()
			if err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("the good client's stream is spoiled: %v", err)
				return
			}
		}
	})
	stop.Store(true)
	within("the bad client", scribbling.Wait)
	require.NoError(t, self.Close())
	within("App.Close", func() {
		for _, a := range []*App{bad, good, server} {
			a.Close()
		}
	})
	within("the server", serving.Wait)
	t.Logf("%d rounds, %d connections ended, the slowest call took %v", rounds, ended.Load(), time.Duration(slowest.Load()))
	require.Greater(t, rounds, 10)
	require.Less(t, time.Duration(slowest.Load()), 5*time.Second)
	var now [3]int
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if now = usage(); now[0] <= before[0] && now[1] <= before[1] && now[2] <= before[2] {
			return
		}
	}
	t.Fatalf("descriptors, goroutines, mappings: before %v, now %v", before, now)
}

// A mapping is shared memory of this process that both sides of a pair write to.
type mapping struct{ start, end int64 }

// mappings returns the mappings of segments and event blocks.
func mappings(t *testing.T) map[mapping]struct{} {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	all := make(map[mapping]struct{})
	for line := range strings.Lines(string(maps)) {
		var m mapping
		if strings.Contains(line, "memfd:ctnet segment") || strings.Contains(line, "memfd:ctnet events") {
			_, err := fmt.Sscanf(line, "%x-%x", &m.start, &m.end)
			require.NoError(t, err)
			all[m] = struct{}{}
		}
	}
	return all
}
