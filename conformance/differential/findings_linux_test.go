package differential

// findings are rules that must go: for defects that are not mended yet.
var findings = []rule{
	{
		name: "D12: CloseWrite, then the deadline, in ReadFrom",
		about: func(o observed) bool {
			return o.step.verb == "copyin" && o.step.arg == "open" && is(o.kernel, "timeout") && is(o.cut, "EPIPE")
		},
		allows: func(o observed) bool { return o.end.writeClosed },
	},
	{
		name: "D10: a peer that has closed while its WriteTo is in w.Write",
		about: func(o observed) bool {
			return isWrite(o.step) && o.peer.closed && len(o.peer.reads) > 0 && is(o.cut, "ECONNRESET")
		},
		allows: func(o observed) bool { return true },
	},
}
