package ctnet

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
)

// A context can carry a tracer, see net/http/httptrace. Package net's Dial reports each connect
// to it. A Dial through shared memory reports one connect, which succeeded.

// traceConnect reports a connect that succeeded to the context's tracer. It reports the start
// of the connect only now: if the kernel's connect had followed, package net would have
// reported that.
func traceConnect(ctx context.Context, network string, to net.Addr) {
	t := httptrace.ContextClientTrace(ctx)
	if t == nil {
		return
	}
	address := to.String() // as package net writes it, and not the program
	if t.ConnectStart != nil {
		t.ConnectStart(network, address)
	}
	if t.ConnectDone != nil {
		t.ConnectDone(network, address, nil)
	}
}

// withTrace returns a context for a Dial of package net's. If that Dial ends with errCutThrough,
// the tracer is told that the connect succeeded.
func withTrace(ctx context.Context) context.Context {
	t := httptrace.ContextClientTrace(ctx)
	if t == nil || t.ConnectDone == nil {
		return ctx
	}
	own := *t
	own.ConnectDone = func(network, address string, err error) {
		if errors.Is(err, errCutThrough) {
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
