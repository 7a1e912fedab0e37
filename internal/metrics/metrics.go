// Package metrics has the metrics of an application: their names, units and meanings, and their
// values in a [ctnet.Snapshot]. Packages ctexpvar, ctprom and ctotel publish them.
//
// All metrics are sums over the application, and the values of labels are from fixed sets. Neither
// connections nor addresses are labels: there may be any number of them, and they come and
// go. `ctss` has these. A series is there from the beginning, also while it is 0: a counter that
// appeared with its first event would hide that event from rates.
package metrics

import (
	"time"

	"cutthrough.example/ctnet"
)

// A Kind says what can be done with the values.
type Kind int

const (
	Counter Kind = iota // never goes back while the application exists
	Sum                 // goes up and down; of several applications the sum makes sense
	Level               // goes up and down; the sum makes no sense
)

// A Metric describes one metric.
type Metric struct {
	Name string // for Prometheus
	OTel string // for OpenTelemetry
	Unit string // by UCUM
	Kind Kind
	Help string

	Labels []Label

	values func(*reading, emitter)
}

// A Label is the name of a label, or attribute.
type Label struct{ Name, OTel string }

// An emitter is told a value with those of the labels.
type emitter func(value float64, labels ...string)

var (
	direction = []Label{{"direction", "network.io.direction"}}
	state     = []Label{{"state", "network.connection.state"}}
	fallback  = []Label{{"op", "ctnet.op"}, {"reason", "ctnet.reason"}}
	side      = []Label{{"side", "ctnet.side"}}
	role      = []Label{{"role", "ctnet.role"}}
	kind      = []Label{{"kind", "ctnet.kind"}}
	resource  = []Label{{"resource", "ctnet.resource"}}
)

// All are all metrics.
var All = []*Metric{
	{"ctnet_io_bytes_total", "ctnet.io", "By", Counter, "Bytes that ends of connections have read and written.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Bytes) })},
	{"ctnet_operations_total", "ctnet.operations", "{operation}", Counter, "Calls of Read, Write and the like that have moved bytes.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Ops) })},
	{"ctnet_transfers_total", "ctnet.transfers", "{transfer}", Counter, "Times that bytes were put into a fifo or taken out, one or more for each operation.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Transfers) })},
	{"ctnet_wakeups_total", "ctnet.wakeups", "{wakeup}", Counter, "Transfers after which the peer had to be woken.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Wakes) })},
	{"ctnet_polls_total", "ctnet.polls", "{poll}", Counter, "Waits that ended while the goroutine still looked, before it slept.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Polls) })},
	{"ctnet_stalls_total", "ctnet.stalls", "{stall}", Counter, "Sleeps of goroutines: in a Read for data, in a Write for space.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return float64(f.Stalls) })},
	{"ctnet_stalled_seconds_total", "ctnet.stall.time", "s", Counter, "How long these sleeps took, with those under way. Its rate is how many goroutines sleep.", direction,
		flows(func(f *ctnet.FlowTotals) float64 { return f.Stalled.Seconds() })},
	{"ctnet_connections_opened_total", "ctnet.connection.opened", "{connection}", Counter, "Connections through shared memory that Dial and Accept have returned.", side,
		func(r *reading, emit emitter) {
			emit(float64(r.Totals.Dialed), "dialed")
			emit(float64(r.Totals.Accepted), "accepted")
		}},
	{"ctnet_connections_refused_total", "ctnet.connection.refused", "{connection}", Counter, "Connections that listeners have refused.", nil,
		one(func(r *reading) float64 { return float64(r.Refused) })},
	{"ctnet_connections_reset_total", "ctnet.connection.reset", "{connection}", Counter, "Ends of connections that were reset, whichever side has caused it.", nil,
		one(func(r *reading) float64 { return float64(r.Reset) })},
	{"ctnet_dials_cancelled_total", "ctnet.dial.cancelled", "{dial}", Counter, "Dials that gave up unanswered: the application's own, and those that its listeners had seen.", nil,
		one(func(r *reading) float64 { return float64(r.Cancelled) })},
	{"ctnet_fallbacks_total", "ctnet.fallbacks", "{fallback}", Counter, "Dials and listeners that took the kernel's socket, by reason.", fallback,
		func(r *reading, emit emitter) {
			for _, reason := range reasons {
				emit(float64(r.Totals.DialFallbacks[reason]), "dial", string(reason))
				emit(float64(r.Totals.ListenFallbacks[reason]), "listen", string(reason))
			}
		}},
	{"ctnet_violations_total", "ctnet.violations", "{violation}", Counter, "Pairs that were cut off because the other application broke the protocol, by where.", kind,
		func(r *reading, emit emitter) {
			emit(float64(r.Violations.Fifo), "fifo")
			emit(float64(r.Violations.Message), "message")
			emit(float64(r.Violations.Doorbell), "doorbell")
		}},

	{"ctnet_connections", "ctnet.connection.count", "{connection}", Sum, "Ends of connections; both ends, of connections inside the application.", state,
		func(r *reading, emit emitter) {
			for name, label := range states {
				emit(float64(r.states[name]), label)
			}
		}},
	{"ctnet_connections_omitted", "ctnet.connection.omitted", "{connection}", Sum, "Ends that the other gauges leave out, as there are more than 100,000.", nil,
		one(func(r *reading) float64 { return float64(r.Omitted) })},
	{"ctnet_waiting_connections", "ctnet.connection.waiting", "{connection}", Sum, "Ends at which a goroutine sleeps: in a Read for data, in a Write for space.", direction,
		func(r *reading, emit emitter) {
			emit(float64(r.asleep.recv), "receive")
			emit(float64(r.asleep.send), "transmit")
		}},
	{"ctnet_longest_write_stall_seconds", "ctnet.stall.longest", "s", Level, "For how long a Write has slept by now for space, of that which has slept the longest.", nil,
		one(func(r *reading) float64 { return r.longest.Seconds() })},
	{"ctnet_queued_bytes", "ctnet.queue.usage", "By", Sum, "Bytes in fifos that wait to be read, here and by peers.", direction,
		func(r *reading, emit emitter) {
			emit(float64(r.queued.recv), "receive")
			emit(float64(r.queued.send), "transmit")
		}},
	{"ctnet_listeners", "ctnet.listener.count", "{listener}", Sum, "Listeners with a cut-through.", nil,
		one(func(r *reading) float64 { return float64(len(r.Listeners)) })},
	{"ctnet_backlog_connections", "ctnet.backlog.usage", "{connection}", Sum, "Connections that wait for Accept, of all listeners.", nil,
		one(func(r *reading) float64 { return float64(r.waiting) })},
	{"ctnet_backlog_usage_ratio", "ctnet.backlog.utilization", "1", Level, "Part of its backlog that is in use, of the listener that has the fullest.", nil,
		one(func(r *reading) float64 { return r.fullest })},
	{"ctnet_pairs", "ctnet.pair.count", "{pair}", Sum, "Pairs with other applications, by who has dialed, and pools of connections inside.", role,
		func(r *reading, emit emitter) {
			for _, name := range []string{ctnet.RoleDialed, ctnet.RoleListened, ctnet.RoleInside} {
				emit(float64(r.roles[name]), name)
			}
		}},
	{"ctnet_limit_usage_ratio", "ctnet.limit.utilization", "1", Level, "Part of a limit of AppConfig that is in use.", resource,
		func(r *reading, emit emitter) {
			emit(part(r.Conns, r.Limits.Conns), "connections")
			emit(part(r.Segments, r.Limits.Segments), "segments")
			emit(part(r.Bytes, r.Limits.Bytes), "address_space")
			emit(part(r.Memory, r.Limits.Memory), "memory")
		}},
	{"ctnet_address_space_bytes", "ctnet.address_space.usage", "By", Sum, "Address space of segments.", nil,
		one(func(r *reading) float64 { return float64(r.Bytes) })},
	{"ctnet_memory_bytes", "ctnet.memory.usage", "By", Sum, "Memory that fifos may come to take as large as they are now.", nil,
		one(func(r *reading) float64 { return float64(r.Memory) })},
	{"ctnet_resident_bytes", "ctnet.memory.resident", "By", Sum, "Memory that segments take. Both applications of a pair have it. Missing if there was no time to count it.", nil,
		func(r *reading, emit emitter) {
			if r.resident >= 0 {
				emit(float64(r.resident))
			}
		}},
}

// reasons are the values of label reason.
var reasons = []ctnet.Reason{
	ctnet.ReasonAbsent, ctnet.ReasonNotHere, ctnet.ReasonOtherNamespace, ctnet.ReasonNotTrusted, ctnet.ReasonForbidden,
	ctnet.ReasonOtherVersion, ctnet.ReasonBrokeProtocol, ctnet.ReasonLimitReached, ctnet.ReasonOutOfResources,
	ctnet.ReasonSilent, ctnet.ReasonClosing, ctnet.ReasonHandedOn, ctnet.ReasonUnusable, ctnet.ReasonHasLocalAddr,
	ctnet.ReasonSwitchedOff, ctnet.ReasonInBubble, ctnet.ReasonFailed,
}

// states are the values of label state.
var states = map[string]string{
	ctnet.StateHalfOpen:    "half_open",
	ctnet.StateEstablished: "established",
	ctnet.StateFinWait:     "fin_wait",
	ctnet.StateCloseWait:   "close_wait",
	ctnet.StateClosing:     "closing",
	ctnet.StateReset:       "reset",
	ctnet.StateClosed:      "closed",
}

func flows(value func(*ctnet.FlowTotals) float64) func(*reading, emitter) {
	return func(r *reading, emit emitter) {
		emit(value(&r.Totals.Recv), "receive")
		emit(value(&r.Totals.Send), "transmit")
	}
}

func one(value func(*reading) float64) func(*reading, emitter) {
	return func(r *reading, emit emitter) { emit(value(r)) }
}

func part(used, limit int64) float64 { return float64(used) / float64(limit) }

// A reading is a Snapshot with what is summed up over its lists.
type reading struct {
	*ctnet.Snapshot
	states, roles  map[string]int
	asleep, queued struct{ recv, send int }
	longest        time.Duration
	waiting        int
	fullest        float64
	resident       int64 // or -1
}

// Of calls emit with each value of each metric, and with the values of its labels.
func Of(s ctnet.Snapshot, emit func(m *Metric, value float64, labels []string)) {
	r := reading{Snapshot: &s, states: make(map[string]int), roles: make(map[string]int)}
	for i := range s.Connections {
		c := &s.Connections[i]
		r.states[c.State]++
		r.queued.recv += c.RecvQueue
		r.queued.send += c.SendQueue
		if c.Recv.Asleep {
			r.asleep.recv++
		}
		if c.Send.Asleep {
			r.asleep.send++
			r.longest = max(r.longest, c.Send.Sleep)
		}
	}
	for _, l := range s.Listeners {
		r.waiting += l.Waiting
		r.fullest = max(r.fullest, part(int64(l.Waiting), int64(l.Backlog)))
	}
	for _, p := range s.Pairs {
		r.roles[p.Role]++
		if p.Resident < 0 || r.resident < 0 {
			r.resident = -1
		} else {
			r.resident += p.Resident
		}
	}
	for _, m := range All {
		m.values(&r, func(value float64, labels ...string) { emit(m, value, labels) })
	}
}
