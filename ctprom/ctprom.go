// Package ctprom tells Prometheus what ctnet does in this process.
//
//	prometheus.MustRegister(ctprom.NewCollector(nil))
//
// docs/metrics.md has all metrics. The number of series is fixed: neither connections nor addresses
// are labels. Beside this package are a dashboard for Grafana, grafana.json, and alert rules,
// alerts.yaml.
package ctprom

import (
	"github.com/prometheus/client_golang/prometheus"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/metrics"
)

type collector struct {
	app   *ctnet.App
	descs map[*metrics.Metric]*prometheus.Desc
}

// NewCollector returns a Collector for an application; a nil App is the process's own. A program that
// registers several applications tells them apart with [prometheus.WrapRegistererWith].
func NewCollector(app *ctnet.App) prometheus.Collector {
	c := &collector{app, make(map[*metrics.Metric]*prometheus.Desc)}
	for _, m := range metrics.All {
		var labels []string
		for _, l := range m.Labels {
			labels = append(labels, l.Name)
		}
		c.descs[m] = prometheus.NewDesc(m.Name, m.Help, labels, nil)
	}
	return c
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	metrics.Of(c.app.Snapshot(), func(m *metrics.Metric, value float64, labels []string) {
		kind := prometheus.GaugeValue
		if m.Kind == metrics.Counter {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(c.descs[m], kind, value, labels...)
	})
}
