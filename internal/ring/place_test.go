package ring

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An account is an Owner with a limit.
type account struct {
	used, limit, spread int
	plenty              bool
}

func (a *account) MayGrow(n int) bool { return a.used+n <= a.limit }
func (a *account) Plenty(n int) bool  { return a.plenty }
func (a *account) Charge(n int)       { a.used += n }
func (a *account) Spread()            { a.spread++ }

// newGrowing returns a fifo with owners.
func newGrowing(size int, p, c Owner) *pair {
	r := &pair{h: new(Header), data: make([]byte, size)}
	r.c.Init(r.h, r.data, c)
	r.p.Init(r.h, r.data, p)
	return r
}

// write writes n bytes, or as many as there is room for.
func (r *pair) write(t testing.TB, n int) {
	for n > 0 {
		b := r.take(min(n, PieceSize))
		m, err := r.p.Write(b)
		require.NoError(t, err)
		r.q = append(r.q, b[:m]...)
		if n -= m; m == 0 {
			return
		}
	}
}

// read reads n bytes, or as many as there are.
func (r *pair) read(t testing.TB, n int) {
	b := make([]byte, n)
	for n > 0 {
		m, err := r.c.Read(b[:n])
		require.NoError(t, err)
		require.True(t, bytes.Equal(r.q[:m], b[:m]))
		r.q = r.q[m:]
		if n -= m; m == 0 {
			return
		}
	}
}

// TestResize makes the ring larger and smaller at any moment at which that is allowed, with
// any bytes in it, also several times before the consumer looks.
func TestResize(t *testing.T) {
	const size = 32 << 10
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := newGrowing(size, nil, nil)
		for range 300 {
			n := rnd.IntN(100)
			if rnd.IntN(2) == 0 {
				n = rnd.IntN(size)
			}
			switch rnd.IntN(8) {
			case 0, 1:
				r.write(t, n)
			case 2:
				_, err := r.p.Space(1)
				require.NoError(t, err)
				v := r.p.View()
				m := copy(v, r.take(min(n, len(v))))
				r.p.Commit(m)
				r.q = append(r.q, v[:m]...)
			case 3, 4:
				r.read(t, n)
			case 5:
				have, err := r.c.Buffered(n)
				require.NoError(t, err)
				b := make([]byte, min(n, have))
				r.c.Copy(b)
				require.True(t, bytes.Equal(r.q[:len(b)], b))
			case 6:
				if r.p.mask != 0 && r.p.canGrow() && rnd.IntN(4) == 0 {
					require.NoError(t, r.p.look())
					r.p.grow()
				}
			case 7:
				unused, ok := r.p.Shrink()
				if ok {
					require.Empty(t, r.q)
					clear(unused) // as given back
				} else {
					require.NotEmpty(t, r.q)
				}
			}
			require.Equal(t, len(r.q), r.p.Queued())
		}
		r.read(t, size)
		require.Empty(t, r.q)
	}
}

// TestWall has the producer write all that it may after the ring became larger with bytes that
// wrap, while the consumer does not know of it: it reads them where they were.
func TestWall(t *testing.T) {
	r := newGrowing(4*EasySize, &account{limit: 1 << 30}, nil)
	r.write(t, EasySize)
	r.read(t, 1000)
	r.write(t, 1000)
	_, err := r.c.Buffered(EasySize) // all of it, where it is
	require.NoError(t, err)
	r.p.grow()
	r.write(t, 8*EasySize)
	require.Equal(t, 2*EasySize-1000, len(r.q))
	require.False(t, r.p.HasSpace(1))
	b := make([]byte, EasySize)
	r.c.Copy(b)
	require.Equal(t, r.q[:EasySize], b)
	r.read(t, 500)
	require.True(t, r.p.HasSpace(0))
	require.False(t, r.p.HasSpace(501))
	_, err = r.c.Buffered(2 * EasySize) // it looks
	require.NoError(t, err)
	require.True(t, r.p.HasSpace(1500))
	r.write(t, 1500)
	r.empty(t)
}

// TestNoWall makes a ring larger whose bytes don't wrap: all of it can be written, although the
// consumer does not look. A wall of an earlier growth stays.
func TestNoWall(t *testing.T) {
	const size = 8 * EasySize
	r := newGrowing(size, nil, nil)
	r.write(t, EasySize)
	r.read(t, EasySize-1)
	free, err := r.p.Space(size - 1)
	require.NoError(t, err)
	require.Equal(t, size-1, free)
	r.write(t, size)
	require.Len(t, r.q, size)
	r.empty(t)

	r = newGrowing(size, &account{limit: 1 << 30}, nil)
	r.write(t, EasySize)
	r.read(t, 1000)
	r.write(t, 1000)
	_, err = r.c.Buffered(EasySize)
	require.NoError(t, err)
	r.p.grow() // these wrap
	r.p.grow() // and do not now
	r.write(t, size)
	require.Len(t, r.q, 4*EasySize-1000)
	r.empty(t)
}

func (r *pair) empty(t testing.TB) {
	r.read(t, len(r.data))
	require.Empty(t, r.q)
}

// stream has many bytes pass, as the fifo lets them.
func (r *pair) stream(t testing.TB, n int) {
	for ; n > 0; n -= len(r.data) {
		r.write(t, len(r.data))
		r.read(t, len(r.data))
	}
}

// TestGrow has a reader that keeps up, which makes the ring as large as can be, and readers
// that don't.
func TestGrow(t *testing.T) {
	const size = 1 << 20
	owner := &account{used: MinSize, limit: 1 << 30, plenty: true}
	r := newGrowing(size, owner, nil)
	require.Equal(t, MinSize, r.p.Ring())
	r.write(t, 2*size)
	require.Len(t, r.q, size, "there is plenty of memory")
	r.empty(t)
	_, ok := r.p.Shrink()
	require.True(t, ok)
	owner.plenty = false
	r.write(t, size)
	require.Len(t, r.q, EasySize, "a reader that does nothing")
	for range 20 { // a ring each time
		r.p.lap.at -= EasySize * quick // as if so much time had passed
		r.empty(t)
		r.write(t, size)
		require.Len(t, r.q, EasySize, "a reader that is slow")
	}
	// A reader that takes all and waits keeps up, however long that takes.
	r.empty(t)
	r.c.RequestData()
	r.write(t, 1)
	require.True(t, r.p.DataWanted())
	r.c.DropRequest()
	r.write(t, size)
	r.p.lap.at -= EasySize * quick
	require.Len(t, r.q, 2*EasySize)
	for i := 0; r.p.Ring() < size; i++ {
		require.Less(t, i, 10)
		r.p.lap.at = time.Since(epoch) // this machine may be slow
		r.empty(t)
		r.write(t, size)
	}
	r.stream(t, 4*size)
	require.Equal(t, size, r.p.Ring())
	r.empty(t)
	var unused []byte
	unused, ok = r.p.Shrink()
	require.True(t, ok)
	require.Len(t, unused, size-PageSize)
	require.Equal(t, MinSize, r.p.Ring())
	r.stream(t, 1000)
}

// TestStarving has a consumer that waits for more than the ring holds.
func TestStarving(t *testing.T) {
	poor := &account{}
	r := newGrowing(4*MinSize, poor, poor)
	r.c.RequestData()
	r.write(t, 3000)
	require.True(t, r.p.DataWanted())
	r.write(t, MinSize)
	require.Len(t, r.q, MinSize)
	require.False(t, r.p.Starves(), "the request is older than the bytes")
	for _, want := range []int{2, 4} {
		_, err := r.c.Buffered(4 * MinSize)
		require.NoError(t, err)
		r.c.RequestData()
		require.True(t, r.p.Starves())
		r.write(t, want*MinSize/2)
		require.True(t, r.p.DataWanted())
		require.Equal(t, want*MinSize, r.p.Ring())
		require.Len(t, r.q, want*MinSize)
	}
	require.False(t, r.p.Starves(), "there is no more")
	r.empty(t)
}

// TestOwners has the rings' sizes charged to both sides, and each of them forbid more.
func TestOwners(t *testing.T) {
	const size = 16 * MinSize
	quick := func(r *pair) {
		for range 20 {
			r.write(t, size)
			r.empty(t)
		}
	}
	for name, limits := range map[string][2]int{"producer": {5 * MinSize, 1 << 30}, "consumer": {1 << 30, 5 * MinSize}} {
		t.Run(name, func(t *testing.T) {
			p, c := &account{used: MinSize, limit: limits[0]}, &account{used: MinSize, limit: limits[1]}
			r := newGrowing(size, p, c)
			quick(r)
			require.Equal(t, 4*MinSize, r.p.Ring())
			require.Equal(t, 4*MinSize, p.used)
			require.Equal(t, 4*MinSize, c.used)
			require.Equal(t, c.used, r.c.Charged())
			require.Equal(t, 1, p.spread)
			require.NotZero(t, c.spread)
			require.True(t, r.c.Settle())
			_, ok := r.p.Shrink()
			require.True(t, ok)
			require.False(t, r.c.Settle())
			require.Equal(t, MinSize, p.used)
			require.Equal(t, MinSize, c.used)
			p.limit, c.limit = 1<<30, 1<<30
			quick(r)
			require.Equal(t, size, r.p.Ring())
			// What one call needs is not forbidden.
			_, ok = r.p.Shrink()
			require.True(t, ok)
			p.limit, c.limit = 0, 0
			n, err := r.p.Space(size)
			require.NoError(t, err)
			require.Equal(t, size, n)
		})
	}
	// A consumer without memory.
	r := newGrowing(size, nil, nil)
	r.c.Init(r.h, r.data, &account{used: MinSize})
	r.write(t, size)
	require.Len(t, r.q, MinSize)
}
