package ctnet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/rendezvous"
)

// TestFallbackTable adds one kind of connection again and again, also after the time in which the
// cause is not found out anew. Only the first is the first.
func TestFallbackTable(t *testing.T) {
	t.Setenv("CTNET_DIR", "")
	var table fallbackTable
	key := fallbackKey{"dial", "tcp", "127.0.0.1:80", ReasonAbsent}
	for i := range 5 {
		found, first := table.add(key, rendezvous.ErrNobody, nil)
		require.Equal(t, rendezvous.ErrNobody, found)
		require.Equal(t, i == 0, first)
		require.EqualValues(t, i+1, table.list()[0].Count)
		if i%2 == 0 {
			table.entries[key].asked = time.Now().Add(-2 * askTime)
		}
	}
	require.Len(t, table.list(), 1)
	require.Equal(t, map[Reason]uint64{ReasonAbsent: 5}, table.sums("dial"))
	require.Empty(t, table.sums("listen"))

	// What is found out later leaves the earlier counts as they are.
	table.entries[key].asked = time.Now().Add(-2 * askTime)
	table.add(key, errNotHere, nil)
	require.Equal(t, ReasonNotHere, table.list()[0].Reason)
	require.EqualValues(t, 6, table.list()[0].Count)
	require.Equal(t, map[Reason]uint64{ReasonAbsent: 5, ReasonNotHere: 1}, table.sums("dial"))
	table.add(key, rendezvous.ErrNobody, nil)
	require.Equal(t, map[Reason]uint64{ReasonAbsent: 5, ReasonNotHere: 2}, table.sums("dial"))
}
