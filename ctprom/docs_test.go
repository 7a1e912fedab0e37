package ctprom_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"cutthrough.example/ctprom"
	"cutthrough.example/internal/metrics"
)

// TestDocs compares the tables in docs/metrics.md with what the Collector has.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	registry.MustRegister(ctprom.NewCollector(newApp(t)))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, len(metrics.All))
	values := make(map[string][]string)
	var rows, labels []string
	for _, m := range metrics.All {
		i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == m.Name })
		require.GreaterOrEqual(t, i, 0, m.Name)
		f := families[i]
		var names []string
		for _, pair := range f.Metric[0].Label {
			names = append(names, "`"+pair.GetName()+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | `%s` | %s | `%s` | %s | %s |\n",
			f.GetName(), m.OTel, strings.ToLower(f.GetType().String()), m.Unit, strings.Join(names, ", "), f.GetHelp()))
		for _, series := range f.Metric {
			for _, pair := range series.Label {
				if !slices.Contains(values[pair.GetName()], pair.GetValue()) {
					values[pair.GetName()] = append(values[pair.GetName()], pair.GetValue())
				}
			}
		}
		for _, l := range m.Labels {
			what := strings.Join(values[l.Name], ", ")
			if l.Name == "reason" {
				what = "see [README](../README.md#why-is-it-not-used)"
			}
			if row := fmt.Sprintf("| `%s` | `%s` | %s |\n", l.Name, l.OTel, what); !slices.Contains(labels, row) {
				labels = append(labels, row)
			}
		}
	}
	for _, table := range [][]string{rows, labels} {
		text := strings.Join(table, "")
		require.True(t, strings.Contains(string(doc), "|\n"+text+"\n"), "docs/metrics.md does not have this table:\n\n%s", text)
	}
}
