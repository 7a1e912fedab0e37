package ctnet

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
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

// TestAlertReasons makes sure that the alert rules for Prometheus leave out exactly the reasons that are
// no faults.
func TestAlertReasons(t *testing.T) {
	rules, err := os.ReadFile("../ctprom/alerts.yaml")
	if os.IsNotExist(err) {
		t.Skip("a nested module is not part of a download of this one")
	}
	require.NoError(t, err)
	api, err := os.ReadFile("api.txt")
	require.NoError(t, err)
	none := make(map[string]bool)
	for _, m := range regexp.MustCompile(`Reason\w+ +Reason *= *"([a-z-]+)"`).FindAllStringSubmatch(string(api), -1) {
		if !Reason(m[1]).isFault() {
			none[m[1]] = true
		}
	}
	found := regexp.MustCompile(`reason!~"([^"]*)"`).FindAllStringSubmatch(string(rules), -1)
	require.Len(t, found, 2)
	for _, m := range found {
		require.ElementsMatch(t, slices.Collect(maps.Keys(none)), strings.Split(m[1], "|"))
	}
}
