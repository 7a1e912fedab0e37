package segpool

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"cutthrough.example/internal/ring"
	"github.com/stretchr/testify/require"
)

// FuzzTable takes eleven bytes for each operation: what is done, to which slot, and a value
// for the client's or the server's word. A client writes what it likes; the server's table
// must stay one of at most one connection for each use that it was asked for.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 1, 0, 2, 0, 0, 0, 9, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	ask, free := []byte{4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	f.Add(slices.Concat([]byte{0, 0, 0, Connect, 0, 0, 0, 1, 0, 0, 0}, ask, free, ask)) // once for a use
	f.Fuzz(func(t *testing.T, ops []byte) {
		g, err := NewGeometry(ring.MaxSize, ring.MaxSize) // few slots
		require.NoError(t, err)
		a := NewAccount(Limits{Conns: 100, Segments: 4, Bytes: 4 * int64(g.Size())})
		tab := NewTable(g, a)
		type key struct {
			k, i int
		}
		segs := make(map[int]*Segment)
		add := func(k int) {
			if a.Usage().Segments == 4 {
				return // dropped ones count as long as they are used
			}
			m, err := CreatePrivate(g.Size())
			require.NoError(t, err)
			_, there := segs[k]
			err = tab.Add(k, m)
			require.Equal(t, k < 0 || k >= g.Segments() || there, err != nil)
			if err == nil {
				segs[k] = tab.segs[k].Load().Segment
			}
		}
		add(0)
		held := make(map[uint32]Slot) // by number
		var dropped []Slot            // in segments that were dropped meanwhile
		seen := make(map[key]uint32)
		for ; len(ops) >= 11; ops = ops[11:] {
			k, i := int(ops[1])%3, int(ops[2])%g.Slots
			id := uint32(k*g.Slots + i)
			v := binary.LittleEndian.Uint64(ops[3:])
			switch ops[0] % 7 {
			case 0: // what the client says
				if s := segs[k]; s != nil {
					s.slot(k, i).header.client.state.Store(v)
				}
			case 1: // the same, with a code that means something
				if s := segs[k]; s != nil {
					s.slot(k, i).header.client.state.Store(v&^0xff | v&7)
				}
			case 2: // what the server says, stored by the client
				if s := segs[k]; s != nil {
					s.slot(k, i).header.server.state.Store(v)
				}
			case 3: // any number
				if _, in := held[uint32(v)]; !in && int(uint32(v))/g.Slots > 2 {
					_, ok := tab.Request(uint32(v))
					require.False(t, ok, "slot %d", uint32(v))
				}
			case 4:
				if _, in := held[id]; in {
					break // the pair does not ask then
				}
				var st State
				if s := segs[k]; s != nil {
					slot := s.slot(k, i)
					st = slot.ClientState()
				}
				s, ok := tab.Request(id)
				asks := segs[k] != nil && (st.Code() == Connect || st.Code() == ConnectNtf) && st.Use() != seen[key{k, i}]
				require.Equal(t, asks, ok)
				if ok {
					require.Equal(t, id, s.ID)
					require.Equal(t, st.Use(), s.Use)
					require.Len(t, s.ToServer.Data, g.ToServer)
					require.Len(t, s.ToClient.Data, g.ToClient)
					held[id] = s
				}
				if code := st.Code(); ok || segs[k] != nil && (code == Done || code == GivenUp) {
					seen[key{k, i}] = st.Use()
				}
			case 5:
				if s, in := held[id]; in {
					delete(held, id)
					s.ToServer.Data[g.ToServer-1]++ // it is there, dropped or not
					if v&1 == 0 {
						tab.Free(s)
					} else {
						tab.Refuse(s, uint32(v>>8), func() { s.ClientState() })
					}
				}
			case 6:
				if _, there := segs[k]; there {
					tab.Drop(k)
					delete(segs, k)
					for i := range g.Slots {
						delete(seen, key{k, i})
						if s, in := held[uint32(k*g.Slots+i)]; in {
							dropped = append(dropped, s)
							delete(held, s.ID)
						}
					}
					break
				}
				add(k)
			}
		}
		tab.Close()
		for _, s := range append(slices.Collect(maps.Values(held)), dropped...) {
			s.ToClient.Data[0]++
			tab.Free(s)
		}
		require.Zero(t, a.Usage())
	})
}
