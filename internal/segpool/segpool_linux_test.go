package segpool

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/ring"
)

// two is a geometry of two slots a segment.
var two = Geometry{ToServer: 4096, ToClient: 8192, Slots: 2}

var plenty = Limits{Conns: 1 << 20, Segments: 1 << 20, Bytes: 1 << 40, Memory: 1 << 40}

func private(t *testing.T, g Geometry) *Memory {
	m, err := CreatePrivate(g.Size())
	require.NoError(t, err)
	return m
}

func grow(t *testing.T, p *Pool) int {
	k, err := p.Next()
	require.NoError(t, err)
	require.NoError(t, p.Add(k, private(t, p.geo)))
	return k
}

func alloc(t *testing.T, p *Pool, id uint32) Slot {
	t.Helper()
	s, err := p.Alloc()
	require.NoError(t, err)
	require.Equal(t, id, s.ID)
	return s
}

func dropAll(int) bool { return true }

func TestGeometry(t *testing.T) {
	for _, up := range []int{ring.MinSize, 64 << 10, ring.MaxSize} {
		for _, down := range []int{ring.MinSize, 256 << 10, ring.MaxSize} {
			g, err := NewGeometry(up, down)
			require.NoError(t, err)
			require.Equal(t, up, g.ToServer)
			require.Equal(t, down, g.ToClient)
			require.Positive(t, g.Slots)
			require.LessOrEqual(t, g.Slots, maxSegmentSlots)
			require.Zero(t, g.Slots&(g.Slots-1))
			require.Zero(t, g.headers()%pageSize)
			require.Equal(t, g.headers()+g.Slots*(up+down), g.Size())
			require.Equal(t, MaxSlots, g.Segments()*g.Slots)
			if g.Slots > 1 {
				require.LessOrEqual(t, g.Slots*(up+down), segmentBytes)
			}
		}
	}
	for _, n := range []int{-1, 0, ring.MinSize / 2, ring.MinSize + 1, 3 * ring.MinSize, 2 * ring.MaxSize} {
		_, err := NewGeometry(n, ring.MinSize)
		require.Error(t, err)
		_, err = NewGeometry(ring.MinSize, n)
		require.Error(t, err)
	}
}

func TestSlotsDoNotOverlap(t *testing.T) {
	p := NewPool(two, NewAccount(plenty), dropAll)
	defer p.Close()
	grow(t, p)
	var slots []Slot
	for i := range uint32(2) {
		s := alloc(t, p, i)
		require.Len(t, s.ToServer.Data, two.ToServer)
		require.Len(t, s.ToClient.Data, two.ToClient)
		for _, b := range [][]byte{s.ToServer.Data, s.ToClient.Data} {
			require.Equal(t, len(b), cap(b))
			for j := range b {
				require.Zero(t, b[j])
				b[j] = 1
			}
		}
		require.Zero(t, s.ServerState())
		slots = append(slots, s)
	}
	for _, s := range slots {
		s.SayServer(Done)
		p.Free(s, Done, Used{})
	}
}

func TestState(t *testing.T) {
	s := MakeState(1<<32-1, Refused|111<<8)
	require.EqualValues(t, uint32(1<<32-1), s.Use())
	require.EqualValues(t, Refused, s.Code())
	require.EqualValues(t, 111, s.Detail())
}

func TestSharedRoundTrip(t *testing.T) {
	size := two.Size()
	m, fd, err := CreateShared("test", size, ByBoth)
	require.NoError(t, err)
	defer m.Free()
	o, err := OpenShared(fd, size, ByBoth)
	require.NoError(t, err)
	defer o.Free()
	require.Len(t, o.Bytes, size)
	require.NoError(t, unix.Close(fd))
	m.Bytes[0], o.Bytes[size-1] = 1, 2
	require.EqualValues(t, 1, o.Bytes[0])
	require.EqualValues(t, 2, m.Bytes[size-1])
	m.trim(m.Bytes[pageSize:])
	require.EqualValues(t, 1, o.Bytes[0])
	require.Zero(t, o.Bytes[size-1])
}

func TestOwnedIsReadOnlyForOthers(t *testing.T) {
	m, fd, err := CreateShared("test", pageSize, ByMaker)
	require.NoError(t, err)
	defer m.Free()
	defer unix.Close(fd)
	_, err = OpenShared(fd, pageSize, ByBoth)
	require.Error(t, err)
	_, err = unix.MmapPtr(fd, 0, nil, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EPERM)
	_, err = unix.Pwrite(fd, []byte{1}, 0)
	require.ErrorIs(t, err, unix.EPERM)
	o, err := OpenShared(fd, pageSize, ByMaker)
	require.NoError(t, err)
	defer o.Free()
	require.Error(t, unix.Mprotect(o.Bytes, unix.PROT_READ|unix.PROT_WRITE))
	m.Bytes[7] = 3
	require.EqualValues(t, 3, o.Bytes[7])
}

func TestSharedCannotChangeSize(t *testing.T) {
	m, fd, err := CreateShared("test", pageSize, ByBoth)
	require.NoError(t, err)
	defer m.Free()
	defer unix.Close(fd)
	require.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM)
	require.ErrorIs(t, unix.Ftruncate(fd, 2*pageSize), unix.EPERM)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM)
}

func TestOpenSharedRejects(t *testing.T) {
	m, shared, err := CreateShared("test", pageSize, ByBoth)
	require.NoError(t, err)
	defer m.Free()
	defer unix.Close(shared)
	for _, size := range []int{1, pageSize - 1, pageSize + 1, 2 * pageSize} {
		_, err := OpenShared(shared, size, ByBoth)
		require.Error(t, err)
	}

	for _, seals := range []int{0, unix.F_SEAL_SHRINK, unix.F_SEAL_SHRINK | unix.F_SEAL_GROW} {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		require.NoError(t, unix.Ftruncate(fd, pageSize))
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		for _, written := range []Writer{ByBoth, ByMaker} {
			_, err = OpenShared(fd, pageSize, written)
			require.Error(t, err)
		}
		unix.Close(fd)
	}

	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = OpenShared(int(r.Fd()), pageSize, ByMaker)
	require.Error(t, err)
	_, err = OpenShared(-1, pageSize, ByMaker)
	require.Error(t, err)
}

func TestPoolReusesWhatBothLetGo(t *testing.T) {
	for _, code := range []uint32{Done, Refused | 111<<8} {
		p := NewPool(two, NewAccount(plenty), dropAll)
		_, err := p.Alloc()
		require.ErrorIs(t, err, ErrFull)
		require.False(t, p.HasFree())
		require.Zero(t, grow(t, p))
		a, b := alloc(t, p, 0), alloc(t, p, 1)
		require.EqualValues(t, 1, a.Use)
		_, err = p.Alloc()
		require.ErrorIs(t, err, ErrFull)
		require.False(t, p.Idle())

		// Only this side.
		require.True(t, p.Free(a, Done, Used{}))
		require.Equal(t, MakeState(1, Done), a.ClientState())
		require.False(t, p.HasFree())
		a.SayServer(Accepted)
		require.False(t, p.HasFree())
		// Not of this use.
		old := a
		old.Use--
		old.SayServer(code)
		_, err = p.Alloc()
		require.ErrorIs(t, err, ErrFull)
		a.SayServer(code)
		require.True(t, p.HasFree())
		a = alloc(t, p, 0)
		require.EqualValues(t, 2, a.Use)

		// A word of the last use does not count for this one.
		require.True(t, p.Free(a, Done, Used{}))
		require.False(t, p.HasFree())
		a.SayServer(code)
		a = alloc(t, p, 0)
		require.EqualValues(t, 3, a.Use)

		// The server first.
		a.SayServer(code)
		require.False(t, p.Free(a, Done, Used{}))
		require.True(t, p.HasFree())
		require.True(t, p.Free(b, Done, Used{}))
		require.True(t, p.Idle())
		p.Close()
		require.Zero(t, p.account.Usage())
	}
}

func TestPoolLowestSlotFirst(t *testing.T) {
	p := NewPool(two, NewAccount(plenty), dropAll)
	defer p.Close()
	require.Equal(t, 0, grow(t, p))
	require.Equal(t, 1, grow(t, p))
	var s [4]Slot
	for i := range s {
		s[i] = alloc(t, p, uint32(i))
	}
	_, err := p.Alloc()
	require.ErrorIs(t, err, ErrFull)
	for _, i := range []int{3, 1, 2} {
		s[i].SayServer(Done)
		p.Free(s[i], Done, Used{})
	}
	for _, i := range []uint32{1, 2, 3} {
		alloc(t, p, i)
	}
}

func TestPoolDropsTheSecondEmptySegment(t *testing.T) {
	a := NewAccount(plenty)
	var asked []int
	agree := false
	p := NewPool(two, a, func(k int) bool {
		asked = append(asked, k)
		return agree
	})
	grow(t, p)
	grow(t, p)
	cycle := func() {
		var s [4]Slot
		for i := range s {
			s[i] = alloc(t, p, uint32(i))
		}
		for i := range s {
			s[i].SayServer(Done)
			p.Free(s[i], Done, Used{})
		}
	}
	cycle()
	require.Equal(t, []int{1}, asked)
	require.EqualValues(t, 2, a.Usage().Segments)
	agree = true
	cycle()
	require.Equal(t, []int{1, 1}, asked)
	require.Equal(t, Limits{Segments: 1, Bytes: int64(two.Size())}, a.Usage())
	// The other one stays.
	s := alloc(t, p, 0)
	s.SayServer(Done)
	p.Free(s, Done, Used{})
	require.EqualValues(t, 1, a.Usage().Segments)
	// Its number is used again.
	require.Equal(t, 1, grow(t, p))
	p.Close()
	require.Zero(t, a.Usage())
}

// TestPoolLooksInTurns puts slots into limbo of which the server has let go of the last ones only.
// Alloc looks at a few each time, however many there are, and finds the last ones in the end.
func TestPoolLooksInTurns(t *testing.T) {
	p := NewPool(Geometry{ToServer: ring.MinSize, ToClient: ring.MinSize, Slots: 64}, NewAccount(plenty), dropAll)
	defer p.Close()
	grow(t, p)
	var slots [12]Slot
	for i := range slots {
		slots[i] = alloc(t, p, uint32(i))
	}
	for _, s := range slots {
		require.True(t, p.Free(s, Done, Used{}))
	}
	for _, s := range slots[6:] {
		s.SayServer(Done)
	}
	for i, left := range []int{12, 10, 6, 6, 6} {
		_, err := p.Alloc()
		require.NoError(t, err)
		require.Equal(t, left, len(p.limbo), "after Alloc %d", i)
	}
	for _, s := range slots[:6] {
		s.SayServer(Done)
	}
	require.False(t, p.Reap())
}

func TestPoolCloseKeepsWhatIsInUse(t *testing.T) {
	a := NewAccount(plenty)
	p := NewPool(two, a, dropAll)
	grow(t, p)
	grow(t, p)
	s0, s1, s2 := alloc(t, p, 0), alloc(t, p, 1), alloc(t, p, 2)
	p.Free(s1, Done, Used{}) // in limbo
	p.Close()
	require.EqualValues(t, 2, a.Usage().Segments)
	s0.ToServer.Data[0] = 1
	require.False(t, p.Free(s0, Done, Used{}))
	require.EqualValues(t, 1, a.Usage().Segments)
	s2.ToClient.Data[two.ToClient-1] = 1
	s2.SayServer(Done)
	require.True(t, p.Free(s2, Done, Used{}))
	require.Zero(t, a.Usage())
	require.ErrorIs(t, p.Add(0, private(t, two)), ErrFull)
	require.Zero(t, a.Usage())
	_, err := p.Alloc()
	require.ErrorIs(t, err, ErrFull)
}

// TestPoolTrims has connections use both fifos beyond what is kept, in every order in
// which the two sides can let go. No slot is trimmed before both have: the server may still read
// from the one fifo, and write to the other.
func TestPoolTrims(t *testing.T) {
	g := Geometry{ToServer: 2 * trimmed, ToClient: 2 * trimmed, Slots: 4 * warmSlots}
	for name, tc := range map[string]struct {
		serverFirst bool
		used        Used
		unread      bool // bytes of the server that the client has not seen
		up, down    byte // what is left of a byte beyond trimmed
	}{
		"client first":  {used: Used{trimmed + 1, trimmed + 1}},
		"server first":  {serverFirst: true, used: Used{trimmed + 1, trimmed + 1}},
		"to the server": {used: Used{trimmed + 1, trimmed}, down: 1},
		"to the client": {serverFirst: true, used: Used{trimmed, trimmed + 1}, up: 1},
		"little used":   {used: Used{trimmed, trimmed}, up: 1, down: 1},
		"unread":        {used: Used{trimmed, 0}, unread: true, up: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPool(g, NewAccount(plenty), dropAll)
			defer p.Close()
			grow(t, p)
			for i := range uint32(warmSlots + 1) {
				s := alloc(t, p, i)
				for _, at := range []int{pageSize, trimmed} {
					s.ToServer.Data[at], s.ToClient.Data[at] = 1, 1
				}
				if tc.unread {
					var server ring.Producer
					server.Init(s.ToClient.Header, s.ToClient.Data, nil)
					server.Write([]byte{1})
				}
				up, down := byte(1), byte(1)
				if tc.serverFirst {
					s.SayServer(Done)
				}
				p.Free(s, Done, tc.used)
				if !tc.serverFirst {
					require.True(t, p.Reap())
					require.Equal(t, up, s.ToServer.Data[trimmed])
					require.Equal(t, down, s.ToClient.Data[trimmed])
					s.SayServer(Done)
					require.False(t, p.Reap())
				}
				require.Equal(t, tc.up, s.ToServer.Data[trimmed])
				require.Equal(t, tc.down, s.ToClient.Data[trimmed])
				if i >= warmSlots {
					up, down = tc.up, tc.down
				}
				require.Equal(t, up, s.ToServer.Data[pageSize])
				require.Equal(t, down, s.ToClient.Data[pageSize])
				alloc(t, p, i) // so that the next one is another
			}
		})
	}
}

// TestShare reaches each limit of an account that another one counts too, and of that one.
func TestShare(t *testing.T) {
	size := int64(two.Size())
	for what, full := range map[string]Limits{
		"connections":       {Conns: 2, Segments: 9, Bytes: 9 * size, Memory: 9 * newRings},
		"bytes of fifos":    {Conns: 9, Segments: 9, Bytes: 9 * size, Memory: 2 * newRings},
		"segments":          {Conns: 9, Segments: 2, Bytes: 9 * size, Memory: 9 * newRings},
		"bytes of segments": {Conns: 9, Segments: 9, Bytes: 2 * size, Memory: 9 * newRings},
	} {
		for _, tc := range []struct{ whole, share Limits }{{full, plenty}, {plenty, full}} {
			whole := NewAccount(tc.whole)
			a := whole.Share(tc.share)
			require.Equal(t, tc.share, a.Limits())
			for range 2 {
				for range 2 {
					require.NoError(t, a.addSegment(two.Size()))
					require.NoError(t, a.AddConn())
				}
				want := Limits{Conns: 2, Segments: 2, Bytes: 2 * size, Memory: 2 * newRings}
				require.Equal(t, want, a.Usage())
				require.Equal(t, want, whole.Usage())
				require.Equal(t, what != "bytes of fifos", a.MayGrow(1))
				errSegment, errConn := a.addSegment(two.Size()), a.AddConn()
				var le *LimitError
				if errConn != nil {
					require.NoError(t, errSegment)
					require.ErrorAs(t, errConn, &le)
					a.removeSegment(two.Size())
				} else {
					require.ErrorAs(t, errSegment, &le)
					a.RemoveConn()
				}
				require.Equal(t, what, le.What)
				require.Equal(t, want, a.Usage())
				require.Equal(t, want, whole.Usage())
				a.Charge(ringUnit)
				require.Equal(t, want.Memory+ringUnit, whole.Usage().Memory)
				a.ForgetConn(newRings + ringUnit)
				a.RemoveConn()
				a.removeSegment(two.Size())
				a.removeSegment(two.Size())
				require.Zero(t, a.Usage())
				require.Zero(t, whole.Usage())
			}
		}
	}
}

func TestLimits(t *testing.T) {
	size := int64(two.Size())
	limit := func(err error, n int64) {
		t.Helper()
		var le *LimitError
		require.ErrorAs(t, err, &le)
		require.ErrorIs(t, err, syscall.ENOBUFS)
		require.Equal(t, n, le.Limit)
	}
	for _, l := range []Limits{
		{Conns: 1, Segments: 1, Bytes: 10 * size, Memory: 1 << 20},
		{Conns: 1, Segments: 10, Bytes: 2*size - 1, Memory: 1 << 20},
	} {
		a := NewAccount(l)
		n := l.Segments
		if n > 1 {
			n = l.Bytes
		}
		p, tab := NewPool(two, a, dropAll), NewTable(two, a)
		grow(t, p)
		one := Limits{Segments: 1, Bytes: size}
		limit(p.Add(1, private(t, two)), n)
		require.Equal(t, one, a.Usage())
		limit(tab.Add(0, private(t, two)), n)
		require.Equal(t, one, a.Usage())

		require.NoError(t, a.AddConn())
		limit(a.AddConn(), 1)
		require.EqualValues(t, 1, a.Usage().Conns)
		a.RemoveConn()
		require.NoError(t, a.AddConn())
		a.RemoveConn()
		p.Close()
		require.Zero(t, a.Usage())
	}
	// A pair's own limit.
	g := Geometry{4096, 4096, MaxSlots / 2}
	p := NewPool(g, NewAccount(plenty), dropAll)
	p.segs = []*poolSegment{{}, {}}
	_, err := p.Next()
	limit(err, 2)
}

// pair returns a pool and a table with one segment in common.
func pair(t *testing.T) (*Pool, *Table) {
	m, fd, err := CreateShared("test", two.Size(), ByBoth)
	require.NoError(t, err)
	o, err := OpenShared(fd, two.Size(), ByBoth)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	p, tab := NewPool(two, NewAccount(plenty), dropAll), NewTable(two, NewAccount(plenty))
	require.NoError(t, p.Add(0, m))
	require.NoError(t, tab.Add(0, o))
	return p, tab
}

func TestTableRequest(t *testing.T) {
	p, tab := pair(t)
	c := alloc(t, p, 0)
	refused := func() {
		t.Helper()
		_, ok := tab.Request(c.ID)
		require.False(t, ok)
	}
	for use, code := range []uint32{Connect, ConnectNtf} {
		refused()
		for _, other := range []uint32{Idle, Accepted, Refused, 0xff} {
			c.SayClient(other)
			refused()
		}
		c.SayClient(code)
		s, ok := tab.Request(c.ID)
		require.True(t, ok)
		require.Equal(t, c.ID, s.ID)
		require.Equal(t, c.Use, s.Use)
		refused() // seen before
		c.SayClient(Connect)
		refused()
		s.SayServer(Accepted)
		require.Equal(t, MakeState(c.Use, Accepted), c.ServerState())
		c.ToServer.Data[5] = 7
		require.EqualValues(t, 7, s.ToServer.Data[5])
		if use == 0 {
			tab.Free(s)
			require.Equal(t, MakeState(c.Use, Done), c.ServerState())
		} else {
			tab.Refuse(s, 111, func() {})
			st := c.ServerState()
			require.EqualValues(t, Refused, st.Code())
			require.EqualValues(t, 111, st.Detail())
			require.Equal(t, c.Use, st.Use())
		}
		refused()
		p.Free(c, Done, Used{})
		c = alloc(t, p, 0)
		require.EqualValues(t, use+2, c.Use)
	}
	for _, id := range []uint32{2, 3, MaxSlots - 1, MaxSlots, 1<<32 - 1} {
		_, ok := tab.Request(id)
		require.False(t, ok)
	}
	p.Free(c, Done, Used{})
	p.Close()
	tab.Close()
	require.Zero(t, p.account.Usage())
	require.Zero(t, tab.account.Usage())
}

func TestTableAddAndDrop(t *testing.T) {
	p, tab := pair(t)
	require.Equal(t, two, tab.Geometry())
	for _, k := range []int{-1, 0, two.Segments(), 1 << 30} {
		require.Error(t, tab.Add(k, private(t, two)))
		require.EqualValues(t, 1, tab.account.Usage().Segments)
	}
	require.NoError(t, tab.Add(two.Segments()-1, private(t, two)))
	tab.Drop(two.Segments() - 1)
	tab.Drop(two.Segments() - 1)
	tab.Drop(-1)
	tab.Drop(two.Segments())
	require.EqualValues(t, 1, tab.account.Usage().Segments)

	// A slot in use keeps the segment mapped.
	c := alloc(t, p, 0)
	c.SayClient(Connect)
	s, ok := tab.Request(0)
	require.True(t, ok)
	tab.Drop(0)
	require.EqualValues(t, 1, tab.account.Usage().Segments)
	_, ok = tab.Request(0)
	require.False(t, ok)
	s.ToClient.Data[0] = 1
	tab.Free(s)
	require.Zero(t, tab.account.Usage())
	require.NoError(t, tab.Add(0, private(t, two)))
	tab.Close()
	require.Zero(t, tab.account.Usage())
	p.Free(c, Done, Used{})
	p.Close()
	require.Zero(t, p.account.Usage())
}
