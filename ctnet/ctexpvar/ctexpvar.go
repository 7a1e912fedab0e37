// Package ctexpvar publishes what ctnet does in this process as a variable of package expvar.
//
//	import _ "cutthrough.example/ctnet/ctexpvar"
//
// publishes the process's own application as "ctnet", which package expvar serves on
// [http.DefaultServeMux] under /debug/vars. A program with an application of its own uses [Var]:
//
//	expvar.Publish("backend", ctexpvar.Var(app))
//
// The variable is an object that has the metrics of docs/metrics.md by name. A metric with labels
// is an object again, by the labels' values, such as ctnet_fallbacks_total.dial.silent. There are
// only sums in it, and neither addresses nor users.
package ctexpvar

import (
	"expvar"

	"cutthrough.example/ctnet"
	"cutthrough.example/internal/metrics"
)

func init() { expvar.Publish("ctnet", Var(nil)) }

// Var returns the variable of an application; a nil App is the process's own.
func Var(app *ctnet.App) expvar.Var {
	return expvar.Func(func() any {
		all := make(map[string]any)
		metrics.Of(app.Snapshot(), func(m *metrics.Metric, value float64, labels []string) {
			at, name := all, m.Name
			for _, label := range labels {
				inner, ok := at[name].(map[string]any)
				if !ok {
					inner = make(map[string]any)
					at[name] = inner
				}
				at, name = inner, label
			}
			at[name] = value
		})
		return all
	})
}
