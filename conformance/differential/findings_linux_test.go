package differential

import "strings"

// findings are rules that must go: for defects that are not mended yet.
var findings = []rule{
	{
		name: "F1: SetDeadline's error has the local address as Addr",
		about: func(o observed) bool {
			return strings.HasSuffix(o.step.verb, "deadline") && o.end.closed && o.step.who.kind != 'l'
		},
		allows: func(o observed) bool {
			o.cut.err.source, o.cut.err.addr = "", "local"
			return o.same()
		},
	},
	{
		name: "F2: ReadFrom fails before it has looked at its source",
		about: func(o observed) bool {
			return o.step.verb == "copyin" && (is(o.kernel, "") || is(o.kernel, "source")) && o.cut.err.op == "write" && o.kernel.n == o.cut.n
		},
		allows: func(o observed) bool { return true },
	},
	{
		name: "F3: a Dial that times out is not context.DeadlineExceeded",
		about: func(o observed) bool {
			return o.step.verb == "dial" && is(o.kernel, "context deadline")
		},
		allows: func(o observed) bool {
			return is(o.cut, "timeout") || o.same() || o.proto == "ct" && strings.HasPrefix(o.step.arg, "kernel")
		},
	},
	{
		name: "F9: closed and past its deadline",
		about: func(o observed) bool {
			return is(o.kernel, "closed") && is(o.cut, "timeout") && o.end.closed
		},
		allows: func(o observed) bool { return true },
	},
	{
		name: "F7: ReadFrom does not look at the peer after its source",
		about: func(o observed) bool {
			return o.kernel.err.op == "write" && o.cut.err.op == "write" && o.step.verb == "copyin" && o.step.arg == "open"
		},
		allows: func(o observed) bool { return true },
	},
	{
		name: "F10: a peer that has closed while its WriteTo is in w.Write",
		about: func(o observed) bool {
			return isWrite(o.step) && o.peer.closed && len(o.peer.reads) > 0 && is(o.cut, "ECONNRESET")
		},
		allows: func(o observed) bool { return true },
	},
}
