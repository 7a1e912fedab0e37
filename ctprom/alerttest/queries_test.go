// Package alerttest tests the dashboard and the alert rules of ctprom with Prometheus' own parser and
// engine. It is a module of its own, so that users of ctprom do not inherit what that needs.
package alerttest

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"cutthrough.example/ctprom"
)

var promQL = parser.NewParser(parser.Options{})

// rules returns the alert rules, which Prometheus' parser accepts.
func rules(t *testing.T) []rulefmt.Rule {
	groups, errs := rulefmt.ParseFile("../alerts.yaml", false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	return groups.Groups[0].Rules
}

// A query is a query of the dashboard, or a rule's.
type query struct{ from, expr string }

// dashboard returns the queries of the dashboard, with values in place of Grafana's variables.
func dashboard(t *testing.T) (all []query) {
	b, err := os.ReadFile("../grafana.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title, Description, Type string
			Targets                  []struct{ Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &board))
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", "ctnet", "$instance", "host")
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		require.NotEmpty(t, p.Targets, p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			require.NotContains(t, expr, "$")
			all = append(all, query{p.Title, expr})
		}
	}
	require.NotEmpty(t, all)
	return all
}

// documented returns the queries in docs/metrics.md.
func documented(t *testing.T) (all []query) {
	b, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(b), "| question | PromQL |\n|---|---|\n")
	require.True(t, ok)
	for row := range strings.Lines(table) {
		if row == "\n" {
			break
		}
		all = append(all, query{"docs/metrics.md", strings.Split(row, "`")[1]})
	}
	require.NotEmpty(t, all)
	return all
}

// series returns the values of each label that the Collector has, by the metric's name.
func series(t *testing.T) map[string]map[string][]string {
	registry := prometheus.NewRegistry()
	registry.MustRegister(ctprom.NewCollector(newApp(t, 0)))
	families, err := registry.Gather()
	require.NoError(t, err)
	all := make(map[string]map[string][]string)
	for _, f := range families {
		values := map[string][]string{"job": {"ctnet"}, "instance": {"host"}} // which Prometheus adds
		for _, m := range f.Metric {
			for _, l := range m.Label {
				values[l.GetName()] = append(values[l.GetName()], l.GetValue())
			}
		}
		all[f.GetName()] = values
	}
	return all
}

// TestQueries makes sure that all queries can be parsed, and that there are the metrics, labels and
// values that they name.
func TestQueries(t *testing.T) {
	all := append(dashboard(t), documented(t)...)
	for _, r := range rules(t) {
		all = append(all, query{r.Alert, r.Expr})
	}
	known, used := series(t), make(map[string]bool)
	for _, q := range all {
		expr, err := promQL.ParseExpr(q.expr)
		require.NoError(t, err, q)
		var names []string
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			s, ok := n.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			names = append(names, s.Name)
			require.Contains(t, known, s.Name, q)
			used[s.Name] = true
			for _, m := range s.LabelMatchers {
				if m.Name == model.MetricNameLabel {
					continue
				}
				values := known[s.Name][m.Name]
				require.NotEmpty(t, values, "%s: %s has no label %s", q, s.Name, m.Name)
				require.True(t, slices.ContainsFunc(values, m.Matches), "%s: no series matches %s", q, m)
				for _, alternative := range m.SetMatches() {
					require.Contains(t, values, alternative, q)
				}
			}
			return nil
		})
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if a, ok := n.(*parser.AggregateExpr); ok {
				for _, label := range a.Grouping {
					require.True(t, slices.ContainsFunc(names, func(name string) bool { return known[name][label] != nil }), "%s: no label %s", q, label)
				}
			}
			return nil
		})
	}
	// All but these are worth a look at some time.
	for name := range known {
		if !used[name] {
			require.Contains(t, []string{"ctnet_connections_omitted"}, name, "the dashboard leaves it out")
		}
	}
}

// TestRules makes sure that each alert says what to do, and that the document has that section.
func TestRules(t *testing.T) {
	b, err := os.ReadFile("../../docs/troubleshooting.md")
	require.NoError(t, err)
	anchors := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			anchors[strings.ReplaceAll(strings.ToLower(strings.TrimSpace(title)), " ", "-")] = true
		}
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	for _, r := range rules(t) {
		require.Contains(t, string(doc), "| `"+r.Alert+"` |")
		require.Subset(t, slices.Collect(maps.Keys(r.Annotations)), []string{"summary", "description", "runbook_url"}, r.Alert)
		require.Contains(t, r.Annotations["description"], "`ctss ", r.Alert)
		anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], "docs/troubleshooting.md#")
		require.True(t, ok, r.Alert)
		require.Contains(t, anchors, anchor, r.Alert)
	}
}
