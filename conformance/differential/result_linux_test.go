package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// A result is what a call has returned.
type result struct {
	n    int64
	left int64 // bytes that a call which reads all was written and has not read
	err  failure
	bad  string // what no call may do: wrong bytes, a connection of the wrong kind
}

// A failure is what programs look at in an error.
type failure struct {
	class        string // what errors.Is says that it is; "" is no error
	op           string // of the *net.OpError; "" if it is none
	net          string // "own" is the connection's
	source, addr string // which of the connection's addresses they are
	timeout      bool
	temporary    bool
}

func (r result) String() string {
	s := fmt.Sprint(r.n)
	if f := r.err; f.class != "" {
		s += " " + f.class
		if f.op != "" {
			s += fmt.Sprintf(" (%s %s %s>%s)", f.op, f.net, f.source, f.addr)
		}
		if f.timeout || f.temporary {
			s += fmt.Sprintf(" timeout=%v temporary=%v", f.timeout, f.temporary)
		}
	}
	if r.left != 0 {
		s += fmt.Sprintf(", %d bytes left", r.left)
	}
	if r.bad != "" {
		s += ", " + r.bad
	}
	return s
}

var (
	errSource = errors.New("the source's own error")
	errSink   = errors.New("the sink's own error")
)

// classes are what errors are compared by.
var classes = []struct {
	name string
	err  error
}{
	{"EOF", io.EOF},
	{"unexpected EOF", io.ErrUnexpectedEOF},
	{"closed", net.ErrClosed},
	{"timeout", os.ErrDeadlineExceeded},
	{"canceled", context.Canceled},
	{"context deadline", context.DeadlineExceeded},
	{"source", errSource},
	{"sink", errSink},
	{"not exist", fs.ErrNotExist},
	{"EPIPE", syscall.EPIPE},
	{"ECONNRESET", syscall.ECONNRESET},
	{"ECONNREFUSED", syscall.ECONNREFUSED},
	{"ENOTCONN", syscall.ENOTCONN},
	{"EINVAL", syscall.EINVAL},
}

// describe describes an error of a call on something with these addresses.
func describe(err error, local, remote net.Addr) (f failure) {
	if err == nil {
		return f
	}
	var is []string
	for _, c := range classes {
		if errors.Is(err, c.err) {
			is = append(is, c.name)
		}
	}
	if f.class = strings.Join(is, "+"); f.class == "" {
		f.class = err.Error()
	}
	e, ok := err.(*net.OpError)
	// *net.TCPConn puts one around whatever stopped a copy. *net.UnixConn does not.
	if ok && (e.Op == "readfrom" || e.Op == "writeto") {
		e, ok = e.Err.(*net.OpError)
	}
	if !ok {
		return f
	}
	which := func(a net.Addr) string {
		switch {
		case a == nil:
			return ""
		case local != nil && a.String() == local.String():
			return "local"
		case remote != nil && a.String() == remote.String():
			return "remote"
		}
		return a.String()
	}
	f.op, f.net, f.source, f.addr = e.Op, e.Net, which(e.Source), which(e.Addr)
	for _, a := range []net.Addr{local, remote} {
		if a != nil && a.Network() == e.Net {
			f.net = "own"
		}
	}
	f.timeout, f.temporary = e.Timeout(), e.Temporary()
	return f
}
