package differential

import "fmt"

// A rule says where ctnet may do something else than the kernel, or must do more.
type rule struct {
	name   string
	reason string
	// about reports whether the rule is about a call.
	about func(o observed) bool
	// allows reports whether ctnet's result is right. If no rule is about a call, it is
	// if it is the kernel's.
	allows func(o observed) bool
}

// observed has the state when a call returned, and its results on the kernel's network and on
// ctnet's.
type observed struct {
	completion
	tcp         bool
	proto       string // of ctnet's network
	raced       bool   // two steps were done at the same time
	kernel, cut result
}

// What is not compared, because there is nothing to compare it with (see model):
//   - On unix a CloseRead makes the peer's Writes fail, and on tcp a CloseRead and a
//     CloseWrite have the kernel answer what comes with a reset. ctnet's CloseRead is local on
//     all networks. And on tcp Read returns what comes after it has returned io.EOF for a
//     CloseRead: ctnet's says io.EOF for good.
//   - On unix a Write that is blocked stays so when its own end calls CloseWrite. ctnet's
//     returns EPIPE, as with TCP.
//   - While a source or a sink of ReadFrom or WriteTo waits, so do other writers or readers
//     on ctnet, unless their deadline has passed.
//   - On tcp a Write succeeds on the kernel's network, and is ECONNRESET on ctnet's, if the
//     peer has closed while its WriteTo waits for its writer.

// rules lists what ctnet may do in another way than the kernel, and what it must do better. The
// first rule that applies to a call counts.
var rules = []rule{
	{
		name: "a reset drops nothing",
		reason: `With TCP a reset overtakes what is on the way, and that is lost. With ctnet
			what Write said was written can be read first.`,
		about:  func(o observed) bool { return o.step.verb == "drain" && o.end.dropped },
		allows: func(o observed) bool { return o.cut.err.class == "" },
	},
	{
		name: "a reset stays",
		reason: `A kernel's socket says ECONNRESET once, be it to a Read or a Write, and
			io.EOF or EPIPE from then on; TCP says nothing if the peer had closed its writing
			side before. So whether a program learns that bytes were lost is a matter of luck.
			ctnet promises that Read says ECONNRESET, each time, and never io.EOF: also if
			this end has written to a TCP connection that the peer had closed in order.`,
		about: func(o observed) bool {
			return isRead(o.step) && (o.end.reset || o.end.lost) && atEnd(o.step, o.kernel)
		},
		allows: func(o observed) bool {
			return o.cut.err.class == "ECONNRESET" && o.cut.err.op == "read" && o.sameCount()
		},
	},
	{
		name: "a Write after a reset says so",
		reason: `As above: ECONNRESET once, then EPIPE; on unix always EPIPE. ctnet says
			ECONNRESET each time, unless this end has closed its own writing side. On tcp a
			Write at the same time as the peer's close may have been the one that TCP lets
			through, and then the next one says EPIPE.`,
		about: func(o observed) bool {
			return isWrite(o.step) && o.end.reset && (is(o.kernel, "EPIPE") || is(o.kernel, "ECONNRESET"))
		},
		allows: func(o observed) bool {
			want := "ECONNRESET"
			if o.end.writeClosed {
				want = "EPIPE"
			}
			return (is(o.cut, want) || o.tcp && o.raced && is(o.cut, "EPIPE")) && o.cut.err.op == "write" && o.sameCount()
		},
	},
	{
		name: "the first Write after the peer's close",
		reason: `TCP takes as much of it as fits before the peer's answer comes. ctnet takes
			it all, or says EPIPE as for every later one.`,
		about: func(o observed) bool { return o.partial && o.tcp && o.peer.closed && !o.end.reset && o.end.lost },
		allows: func(o observed) bool {
			return o.cut.err.class == "" && o.cut.n == int64(o.step.bytes()) || is(o.cut, "EPIPE") && isPartial(o.completion, o.cut)
		},
	},
	{
		name: "the second Write after the peer's close",
		reason: `With TCP it is EPIPE, or ECONNRESET if the end of the stream had not come
			before the peer's answer to the first. With ctnet it is always EPIPE.`,
		about: func(o observed) bool {
			return isWrite(o.step) && o.end.lost && !o.end.reset && (is(o.kernel, "EPIPE") || is(o.kernel, "ECONNRESET"))
		},
		allows: func(o observed) bool { return is(o.cut, "EPIPE") && o.cut.err.op == "write" && o.sameCount() },
	},
	{
		name: "a Write while the closed peer's WriteTo has bytes that its writer did not take yet",
		reason: `Whether the peer has read all is known when that writer returns. Until then ctnet
			says ECONNRESET, not EPIPE.`,
		about: func(o observed) bool {
			return isWrite(o.step) && len(o.peer.reads) > 0 && o.peer.reads[0].opened && is(o.kernel, "EPIPE")
		},
		allows: func(o observed) bool { return (is(o.cut, "EPIPE") || is(o.cut, "ECONNRESET")) && o.sameCount() },
	},
	{
		name: "closing a half of what is over",
		reason: `Once both sides have closed, or one was reset, TCP forgets the connection, and
			CloseRead and CloseWrite fail with ENOTCONN. ctnet's end knows of the connection
			until Close.`,
		about:  func(o observed) bool { return is(o.kernel, "ENOTCONN") },
		allows: func(o observed) bool { return o.cut == result{} },
	},
	{
		name: "the deadline passes for a Read of nothing that waits for another Read",
		reason: `Package net's waits for its turn whatever the deadline, and then succeeds. With
			ctnet to wait for one's turn ends with the deadline.`,
		about: func(o observed) bool {
			return o.step.verb == "read" && o.step.bytes() == 0 && o.end.readPast && is(o.kernel, "")
		},
		allows: func(o observed) bool { return o.cut.n == 0 && (is(o.cut, "timeout") || is(o.cut, "")) },
	},
	{
		name: "the deadline passes for a Dial",
		reason: `Package net's error is context.DeadlineExceeded, and not os.ErrDeadlineExceeded as
			those of all other calls. ctnet's is both.`,
		about: func(o observed) bool { return o.step.verb == "dial" && is(o.kernel, "context deadline") },
		allows: func(o observed) bool {
			o.kernel.err.class = "timeout+context deadline"
			return o.same()
		},
	},
	{
		name:   "SetDeadline of a closed listener",
		reason: `Package net returns net.ErrClosed without a *net.OpError around it.`,
		about: func(o observed) bool {
			return o.step.who.kind == 'l' && o.step.verb == "deadline" && is(o.kernel, "closed")
		},
		allows: func(o observed) bool { return is(o.cut, "closed") && o.cut.err.op == "set" },
	},
	{
		name:   "names have no file",
		reason: `Where nobody listens there is no file on unix; on ct nobody listens.`,
		about:  func(o observed) bool { return o.proto == "ct" && is(o.kernel, "not exist") },
		allows: func(o observed) bool { return is(o.cut, "ECONNREFUSED") && o.cut.err.op == "dial" },
	},
}

// atEnd reports whether a call that reads has come to the end of the stream.
func atEnd(s step, r result) bool {
	switch {
	case is(r, "EOF"), is(r, "unexpected EOF"), is(r, "ECONNRESET"):
		return true
	}
	return s.verb == "copyout" && r.err.class == ""
}

func is(r result, class string) bool { return r.err.class == class }

// sameCount reports whether both have read or written as much. If that depends on the
// sizes of buffers, ctnet must have read all that was written.
func (o observed) sameCount() bool {
	switch {
	case o.unknown:
		return o.cut.left == 0
	case o.broken && o.cut.err.class != "":
		return o.cut.n >= 0 && o.cut.n < int64(o.step.bytes())
	case o.partial:
		return isPartial(o.completion, o.kernel) && isPartial(o.completion, o.cut)
	}
	return o.kernel.n == o.cut.n
}

// isPartial reports whether a call has written some of its bytes, and not all.
func isPartial(c completion, r result) bool { return r.n > 0 && r.n < int64(c.step.bytes()) }

// same reports whether both have returned the same.
func (o observed) same() bool { return o.kernel.err == o.cut.err && o.sameCount() }

// allowed reports whether what is observed is right, and by which rule it is not.
func (o observed) allowed(used map[string]int) (name string, ok bool) {
	if o.cut.bad != "" {
		return "", false
	}
	for _, r := range rules {
		if r.about(o) {
			used[r.name]++
			return fmt.Sprintf("(rule: %s)", r.name), r.allows(o)
		}
	}
	return "", o.same()
}
