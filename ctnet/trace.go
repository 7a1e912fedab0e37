package ctnet

import (
	"context"
	"errors"
	"net/http/httptrace"
)

// A context can carry a tracer, see net/http/httptrace, which package net's Dial tells about
// each connect. A Dial through shared memory tells it about one connect, which succeeded.

// traceConnect tells the context's tracer about a connect that succeeded. It tells about the
// start of the connect only now: before, it was not known that the kernel's connect would not
// follow, which tells the tracer itself.
func traceConnect(ctx context.Context, network, address string) {
	t := httptrace.ContextClientTrace(ctx)
	if t == nil {
		return
	}
	if t.ConnectStart != nil {
		t.ConnectStart(network, address)
	}
	if t.ConnectDone != nil {
		t.ConnectDone(network, address, nil)
	}
}

// withTrace returns a context for a Dial of package net's. If that Dial ends with errTookCut,
// the tracer is told that the connect succeeded.
func withTrace(ctx context.Context) context.Context {
	t := httptrace.ContextClientTrace(ctx)
	if t == nil || t.ConnectDone == nil {
		return ctx
	}
	own := *t
	own.ConnectDone = func(network, address string, err error) {
		if errors.Is(err, errTookCut) {
			err = nil
		}
		t.ConnectDone(network, address, err)
	}
	return tracedContext{ctx, httptrace.WithClientTrace(context.Background(), &own)}
}

// A tracedContext is a context with another tracer in place of its own. With
// httptrace.WithClientTrace alone both tracers would be called.
type tracedContext struct {
	context.Context
	trace context.Context // has the other tracer, and no other value
}

func (c tracedContext) Value(key any) any {
	if v := c.trace.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}
