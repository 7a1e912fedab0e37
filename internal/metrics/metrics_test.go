package metrics

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/ctnet"
)

// example is a Snapshot that has something of everything.
func example() ctnet.Snapshot {
	return ctnet.Snapshot{
		Conns: 2, Segments: 3, Bytes: 40, Memory: 500,
		Limits:  ctnet.Limits{Conns: 4, Segments: 12, Bytes: 400, Memory: 1000},
		Refused: 1, Reset: 2, Cancelled: 3,
		Violations: ctnet.Violations{Fifo: 4, Message: 5, Doorbell: 6},
		Totals: ctnet.Totals{
			Dialed: 7, Accepted: 8,
			Recv:            ctnet.FlowTotals{Bytes: 10, Ops: 11, Transfers: 12, Wakes: 13, Polls: 14, Stalls: 15, Stalled: 1500 * time.Millisecond},
			Send:            ctnet.FlowTotals{Bytes: 20, Ops: 21, Transfers: 22, Wakes: 23, Polls: 24, Stalls: 25, Stalled: 2500 * time.Millisecond},
			DialFallbacks:   map[ctnet.Reason]uint64{ctnet.ReasonSilent: 30},
			ListenFallbacks: map[ctnet.Reason]uint64{ctnet.ReasonUnusable: 31},
		},
		Listeners: []ctnet.ListenerInfo{{Backlog: 10, Waiting: 5}, {Backlog: 100, Waiting: 1}},
		Connections: []ctnet.ConnInfo{
			{State: ctnet.StateEstablished, RecvQueue: 1, SendQueue: 2, Recv: ctnet.FlowInfo{Asleep: true, Sleep: time.Hour}},
			{State: ctnet.StateEstablished, RecvQueue: 10, SendQueue: 20, Recv: ctnet.FlowInfo{Asleep: true}, Send: ctnet.FlowInfo{Asleep: true, Sleep: time.Minute}},
			{State: ctnet.StateCloseWait, Send: ctnet.FlowInfo{Asleep: true, Sleep: time.Second}},
		},
		Pairs:   []ctnet.PairInfo{{Role: ctnet.RoleDialed, Resident: 1000}, {Role: ctnet.RoleDialed, Resident: 2000}, {Role: ctnet.RoleInside, Resident: 1}},
		Omitted: 9,
	}
}

// values returns all values, by name and labels.
func values(t *testing.T, s ctnet.Snapshot) map[string]float64 {
	all := make(map[string]float64)
	Of(s, func(m *Metric, value float64, labels []string) {
		require.Len(t, labels, len(m.Labels), m.Name)
		name := m.Name
		for _, label := range labels {
			name += " " + label
		}
		require.NotContains(t, all, name)
		all[name] = value
	})
	return all
}

func TestOf(t *testing.T) {
	all := values(t, example())
	series := len(all)
	for name, value := range map[string]float64{
		"ctnet_io_bytes_total receive":            10,
		"ctnet_io_bytes_total transmit":           20,
		"ctnet_operations_total receive":          11,
		"ctnet_operations_total transmit":         21,
		"ctnet_transfers_total receive":           12,
		"ctnet_transfers_total transmit":          22,
		"ctnet_wakeups_total receive":             13,
		"ctnet_wakeups_total transmit":            23,
		"ctnet_polls_total receive":               14,
		"ctnet_polls_total transmit":              24,
		"ctnet_stalls_total receive":              15,
		"ctnet_stalls_total transmit":             25,
		"ctnet_stalled_seconds_total receive":     1.5,
		"ctnet_stalled_seconds_total transmit":    2.5,
		"ctnet_connections_opened_total dialed":   7,
		"ctnet_connections_opened_total accepted": 8,
		"ctnet_connections_refused_total":         1,
		"ctnet_connections_reset_total":           2,
		"ctnet_dials_cancelled_total":             3,
		"ctnet_fallbacks_total dial silent":       30,
		"ctnet_fallbacks_total listen unusable":   31,
		"ctnet_violations_total fifo":             4,
		"ctnet_violations_total message":          5,
		"ctnet_violations_total doorbell":         6,
		"ctnet_connections established":           2,
		"ctnet_connections close_wait":            1,
		"ctnet_connections_omitted":               9,
		"ctnet_waiting_connections receive":       2,
		"ctnet_waiting_connections transmit":      2,
		"ctnet_longest_write_stall_seconds":       60,
		"ctnet_queued_bytes receive":              11,
		"ctnet_queued_bytes transmit":             22,
		"ctnet_listeners":                         2,
		"ctnet_backlog_connections":               6,
		"ctnet_backlog_usage_ratio":               0.5,
		"ctnet_pairs dialed":                      2,
		"ctnet_pairs inside":                      1,
		"ctnet_limit_usage_ratio connections":     0.5,
		"ctnet_limit_usage_ratio segments":        0.25,
		"ctnet_limit_usage_ratio address_space":   0.1,
		"ctnet_limit_usage_ratio memory":          0.5,
		"ctnet_address_space_bytes":               40,
		"ctnet_memory_bytes":                      500,
		"ctnet_resident_bytes":                    3001,
	} {
		require.Contains(t, all, name)
		require.Equal(t, value, all[name], name)
		delete(all, name)
	}
	for name, value := range all {
		require.Zero(t, value, name)
	}

	// An application in which nothing has happened has the same series.
	require.Len(t, values(t, ctnet.Snapshot{Limits: example().Limits}), series)

	unknown := example()
	unknown.Pairs[1].Resident = -1
	all = values(t, unknown)
	require.NotContains(t, all, "ctnet_resident_bytes")
	require.Len(t, all, series-1)
}

// TestValuesComplete makes sure that labels have all reasons and states that there are.
func TestValuesComplete(t *testing.T) {
	api, err := os.ReadFile("../../ctnet/api.txt")
	require.NoError(t, err)
	var all []ctnet.Reason
	for _, m := range regexp.MustCompile(`Reason\w+ +Reason *= *"([a-z-]+)"`).FindAllSubmatch(api, -1) {
		all = append(all, ctnet.Reason(m[1]))
	}
	require.ElementsMatch(t, all, reasons)
	found := regexp.MustCompile(`State\w+ *= *"([A-Z-]+)"`).FindAllSubmatch(api, -1)
	for _, m := range found {
		require.Contains(t, states, string(m[1]))
	}
	require.Len(t, found, len(states))
}
