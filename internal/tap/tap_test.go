package tap

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cutthrough.example/internal/pattern"
	"github.com/stretchr/testify/require"
)

// records takes the rest of a Tap that is closed, or is being closed.
func records(t testing.TB, tap *Tap) (all []Record) {
	t.Helper()
	for {
		block, ok := tap.Next()
		if !ok {
			return all
		}
		all = append(all, cutAll(t, block)...)
	}
}

func cutAll(t testing.TB, block []byte) (all []Record) {
	t.Helper()
	require.LessOrEqual(t, len(block), MaxBlock)
	for len(block) > 0 {
		r, rest, err := Cut(block)
		require.NoError(t, err)
		if r.Data = bytes.Clone(r.Data); len(r.Data) == 0 {
			r.Data = nil
		}
		all, block = append(all, r), rest
	}
	return all
}

func send(tap *Tap, pos uint64, b []byte) {
	tap.Lock()
	defer tap.Unlock()
	tap.Sent(pos, b)
}

func mark(tap *Tap, kind uint32, pos uint64) {
	tap.Lock()
	defer tap.Unlock()
	tap.Mark(kind, pos)
}

// TestTap has records come out in order, those of bytes that were seen before only once, and marks once.
func TestTap(t *testing.T) {
	tap := New(1 << 20)
	before := time.Now().UnixNano()
	send(tap, 10, []byte("question"))
	tap.Received(5, []byte("ans"))
	tap.Received(5, []byte("answ"))
	tap.Received(6, []byte("ns"))
	tap.Received(5, []byte("answer"))
	mark(tap, ReceivedFin, 11)
	mark(tap, ReceivedFin, 11)
	mark(tap, SentReset, 18)
	tap.Close()
	tap.Close()
	send(tap, 18, []byte("late"))
	mark(tap, SentFin, 18)
	all := records(t, tap)
	for i := range all {
		require.GreaterOrEqual(t, all[i].Time, before)
		all[i].Time = 0
	}
	require.Equal(t, []Record{
		{Kind: Sent, Pos: 10, Data: []byte("question")}, {Kind: Received, Pos: 5, Data: []byte("ans")},
		{Kind: Received, Pos: 8, Data: []byte("w")}, {Kind: Received, Pos: 9, Data: []byte("er")},
		{Kind: ReceivedFin, Pos: 11}, {Kind: SentReset, Pos: 18}, {Kind: Over},
	}, all)
	require.Equal(t, Counts{Sent: 8, Received: 6}, tap.Counts())
	_, ok := tap.Next()
	require.False(t, ok)
}

// TestTapWakes has a taker that waits get each record before the next one is made.
func TestTapWakes(t *testing.T) {
	tap := New(1 << 20)
	taken := make(chan []Record)
	go func() {
		defer close(taken)
		for {
			block, ok := tap.Next()
			if !ok {
				return
			}
			taken <- cutAll(t, block)
		}
	}()
	next := func() []Record {
		select {
		case r := <-taken:
			return r
		case <-time.After(time.Minute):
			t.Fatal("the taker was not woken")
			return nil
		}
	}
	for i := range 100 {
		send(tap, uint64(i), []byte{byte(i)})
		r := next()
		require.Len(t, r, 1)
		require.Equal(t, []byte{byte(i)}, r[0].Data)
	}
	mark(tap, SentFin, 100)
	require.EqualValues(t, SentFin, next()[0].Kind)
	tap.Close()
	require.EqualValues(t, Over, next()[0].Kind)
	require.Nil(t, next())
}

// TestTapFull has nobody take records: they are left out and counted, marks are not, and what comes later says
// how many are missing.
func TestTapFull(t *testing.T) {
	const limit = 1 << 20
	tap := New(limit)
	data := bytes.Repeat([]byte("x"), 100_000) // of four records
	var sent uint64
	for range 100 {
		send(tap, sent, data)
		sent += uint64(len(data))
	}
	require.Less(t, cap(tap.queue), 2*limit)
	mark(tap, SentFin, sent)
	tap.Close()
	var have, missing, dropped uint64
	var last Record
	for _, r := range records(t, tap) {
		dropped += uint64(r.Dropped)
		if r.Kind == Sent || r.Kind == SentFin {
			missing += r.Pos - have - missing
			have += uint64(len(r.Data))
		}
		last = r
	}
	require.Equal(t, sent, have+missing)
	require.Positive(t, dropped)
	require.EqualValues(t, Over, last.Kind)
	require.Equal(t, tap.Counts().Dropped, last.Pos)
	require.Equal(t, sent, tap.Counts().Sent)
	require.Equal(t, missing, tap.Counts().Dropped)
}

// TestTapConcurrently has several goroutines fill a small Tap and one that is slow take from it: no record is
// changed, none comes twice, and what is missing is what was counted.
func TestTapConcurrently(t *testing.T) {
	tap := New(64 << 10)
	var filling sync.WaitGroup
	filling.Go(func() {
		var pos uint64
		rnd := rand.New(rand.NewPCG(1, 1))
		for range 3000 {
			b := pattern.Pattern(0).Bytes(int64(pos), 1+rnd.IntN(3000))
			send(tap, pos, b)
			pos += uint64(len(b))
		}
	})
	filling.Go(func() {
		var pos uint64
		for range 3000 {
			tap.Received(pos, pattern.Pattern(0).Bytes(int64(pos), 77))
			pos += 77
		}
	})
	go func() {
		filling.Wait()
		tap.Close()
	}()
	var next [Received + 1]uint64
	var missing uint64
	for _, r := range records(t, tap) {
		if r.Kind == Over {
			break
		}
		require.GreaterOrEqual(t, r.Pos, next[r.Kind])
		missing += r.Pos - next[r.Kind]
		require.True(t, bytes.Equal(pattern.Pattern(0).Bytes(int64(r.Pos), len(r.Data)), r.Data))
		next[r.Kind] = r.Pos + uint64(len(r.Data))
	}
	n := tap.Counts()
	missing += n.Sent - next[Sent] + n.Received - next[Received]
	require.Equal(t, n.Dropped, missing)
}

// FuzzCut cuts any bytes into records.
func FuzzCut(f *testing.F) {
	f.Add((&Record{Kind: Sent, Pos: 7, Data: []byte("hello")}).Append((&Record{Kind: Over}).Append(nil)))
	f.Add((&Record{Kind: Start, Data: []byte("{}")}).Append(nil)[:33])
	f.Add((&Record{Kind: Sent, Data: make([]byte, MaxData+1)}).Append(nil))
	f.Fuzz(func(t *testing.T, block []byte) {
		for len(block) > 0 {
			r, rest, err := Cut(block)
			if err != nil {
				return
			}
			require.LessOrEqual(t, len(r.Data), MaxData)
			require.Less(t, len(rest), len(block))
			again, none, err := Cut(r.Append(nil))
			require.NoError(t, err)
			require.Empty(t, none)
			require.Equal(t, r, again)
			block = rest
		}
	})
}
