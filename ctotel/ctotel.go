// Package ctotel tells OpenTelemetry what ctnet does in this process.
//
//	ctotel.Observe(nil, otel.Meter("cutthrough.example/ctotel"))
//
// docs/metrics.md has all instruments. The number of series is fixed: neither connections nor
// addresses are attributes.
package ctotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/metrics"
)

// Observe makes asynchronous instruments for an application, and observes them at each collection until
// the Registration is unregistered. A nil App is the process's own. A program that observes several
// applications tells them apart by the meters, with [metric.WithInstrumentationAttributes].
func Observe(app *ctnet.App, meter metric.Meter) (metric.Registration, error) {
	instruments := make(map[*metrics.Metric]metric.Float64Observable)
	var all []metric.Observable
	var failed []error
	for _, m := range metrics.All {
		i, err := instrument(meter, m)
		instruments[m] = i
		all = append(all, i)
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		metrics.Of(app.Snapshot(), func(m *metrics.Metric, value float64, labels []string) {
			attributes := make([]attribute.KeyValue, len(labels))
			for i, label := range labels {
				attributes[i] = attribute.String(m.Labels[i].OTel, label)
			}
			o.ObserveFloat64(instruments[m], value, metric.WithAttributes(attributes...))
		})
		return nil
	}, all...)
}

func instrument(meter metric.Meter, m *metrics.Metric) (metric.Float64Observable, error) {
	switch unit, help := metric.WithUnit(m.Unit), metric.WithDescription(m.Help); m.Kind {
	case metrics.Counter:
		return meter.Float64ObservableCounter(m.OTel, unit, help)
	case metrics.Sum:
		return meter.Float64ObservableUpDownCounter(m.OTel, unit, help)
	default:
		return meter.Float64ObservableGauge(m.OTel, unit, help)
	}
}
