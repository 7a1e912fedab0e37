package ctnet

import (
	"context"
	"errors"
	"net/http/httptrace"
)

// A tracer that a context brings, see net/http/httptrace, is to see a Dial through
// shared memory as a connect that succeeded.

// traceConnect tells the context's tracer of a connect that succeeded. It comes late:
// had there been no way through shared memory, the kernel's connect would be the one
// to tell of.
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

// withTrace returns a context for the kernel's Dial, which its tracer sees succeed if
// that Dial is ended with errTookCut.
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

// A tracedContext is a context with another tracer. To add one would not do: it would be
// called besides the other.
type tracedContext struct {
	context.Context
	trace context.Context
}

func (c tracedContext) Value(key any) any {
	if v := c.trace.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}
