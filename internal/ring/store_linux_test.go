package ring

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestStoreThenLoad has two goroutines store their own word and then load the other
// one's, in memory like that of fifos: at least one of them sees the other's store. If
// loads overtake the stores, both goroutines miss it within a few thousand rounds.
func TestStoreThenLoad(t *testing.T) {
	mem, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANON)
	require.NoError(t, err)
	defer syscall.Munmap(mem)
	words := (*[2]struct {
		seq atomic.Uint64
		_   [56]byte
		req atomic.Uint32
		_   [60]byte
	})(unsafe.Pointer(unsafe.SliceData(mem)))

	const rounds = 200_000
	var arrived atomic.Uint64 // two for each round
	var saw [2][rounds]bool
	meet := func(round uint64) {
		arrived.Add(1)
		for n := 0; arrived.Load() < 2*round; n++ {
			if n%1000 == 999 {
				runtime.Gosched()
			}
		}
	}
	run := func(me int) {
		for r := range uint64(rounds) {
			meet(r + 1)
			if r%2 == 0 {
				Store64(&words[me].seq, r+1)
				saw[me][r] = words[1-me].seq.Load() == r+1
			} else {
				Store32(&words[me].req, uint32(r+1))
				saw[me][r] = words[1-me].req.Load() == uint32(r+1)
			}
		}
	}
	done := make(chan struct{})
	go func() {
		run(1)
		close(done)
	}()
	run(0)
	<-done
	missed := 0
	for r := range rounds {
		if !saw[0][r] && !saw[1][r] {
			missed++
		}
	}
	require.Zero(t, missed, "rounds in which neither saw the other")
}
