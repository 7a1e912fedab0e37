//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// A guard compares rows, in samples that it is given.
type guard struct {
	rounds int
	bound  float64
	take   func(context.Context, side, row) (sample, error)
	log    func(format string, args ...any)

	lines  []*line
	broken []broken
	others []float64
}

// A line of the table is one figure of a row.
type line struct {
	row    row
	metric string
	comparison
	suspicious bool
	worse      bool
}

// broken is a row that could not be measured.
type broken struct {
	row  row
	errs [2]error
}

// A series has the samples of both versions in one row, by the placement of the CPUs: what they
// share changes, and decides more than any code does.
type series map[string]*[2][]sample

// run takes the samples of all rows, then again those that look worse, and decides.
func (g *guard) run(ctx context.Context, rows []row) error {
	var suspects []row
	for i, r := range rows {
		g.log("[%d/%d] %s", i+1, len(rows), r)
		s, err := g.series(ctx, r, g.rounds)
		if err != nil {
			return err
		}
		lines := g.compare(r, s)
		g.lines = append(g.lines, lines...)
		if slices.ContainsFunc(lines, func(l *line) bool { return l.suspicious }) {
			suspects = append(suspects, r)
		}
	}
	return g.confirm(ctx, suspects)
}

// confirm measures again what looks worse. The first samples chose these figures, so they are not used
// any more: new ones owe nothing to that choice.
func (g *guard) confirm(ctx context.Context, suspects []row) error {
	var tested []*line
	var ps []float64
	for i, r := range suspects {
		g.log("[%d/%d] %s again", i+1, len(suspects), r)
		s, err := g.series(ctx, r, again*g.rounds)
		if err != nil {
			return err
		}
		for _, l := range g.lines {
			if l.row == r && l.suspicious && s != nil {
				old, new := s.values(l.metric)
				l.comparison = compare(old, new, l.higher)
				tested = append(tested, l)
				ps = append(ps, worseBy(old, new, l.higher, g.bound))
			}
		}
	}
	for i, rejected := range holm(ps) {
		tested[i].worse = rejected
	}
	return nil
}

// series takes samples of a row until there are so many of both versions with the CPUs at the same
// places, and at most twice as many. When it stops does not depend on the figures. A row that fails is
// noted, and has no series.
func (g *guard) series(ctx context.Context, r row, rounds int) (series, error) {
	s := make(series)
	for round := 0; round < 2*rounds && s.least() < rounds; round++ {
		var errs [2]error
		// Old, new, new, old: what gets slower or faster by and by meets both equally.
		for _, which := range []side{side(round % 2), side(1 - round%2)} {
			one, err := g.take(ctx, which, r)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if errs[which] = err; err != nil {
				continue
			}
			g.others = append(g.others, one.Others)
			if !one.Dropped {
				s.add(which, one)
			}
		}
		if errs[older] != nil || errs[newer] != nil {
			g.broken = append(g.broken, broken{r, errs})
			return nil, nil
		}
	}
	if s.least() < minRounds {
		err := errors.New("the CPUs moved too often")
		g.broken = append(g.broken, broken{r, [2]error{err, err}})
		return nil, nil
	}
	return s, nil
}

func (s series) add(which side, one sample) {
	if s[one.Placement] == nil {
		s[one.Placement] = new([2][]sample)
	}
	s[one.Placement][which] = append(s[one.Placement][which], one)
}

// common returns the samples with the placement of which both versions have most.
func (s series) common() (most [2][]sample) {
	for _, p := range slices.Sorted(maps.Keys(s)) {
		if both := *s[p]; min(len(both[older]), len(both[newer])) > min(len(most[older]), len(most[newer])) {
			most = both
		}
	}
	return most
}

func (s series) least() int {
	both := s.common()
	return min(len(both[older]), len(both[newer]))
}

// values are those of one metric.
func (s series) values(metric string) (old, new []float64) {
	both := s.common()
	var all [2][]float64
	for which := range both {
		for _, one := range both[which] {
			if x, ok := one.Metrics[metric]; ok {
				all[which] = append(all[which], x)
			}
		}
	}
	return all[older], all[newer]
}

// compare makes the table's lines of a row.
func (g *guard) compare(r row, s series) (lines []*line) {
	if s == nil {
		return nil
	}
	both := s.common()
	for _, metric := range slices.Sorted(maps.Keys(both[newer][0].Metrics)) {
		old, new := s.values(metric)
		if !compared(metric, both[newer][0]) || len(old) == 0 {
			continue
		}
		c := compare(old, new, figures[metric])
		lines = append(lines, &line{r, metric, c, c.suspicious(g.bound), false})
	}
	return lines
}

// worse reports whether the new version is: in a figure, or as it can't do what the old one can.
func (g *guard) worse() bool {
	return slices.ContainsFunc(g.lines, func(l *line) bool { return l.worse }) ||
		slices.ContainsFunc(g.broken, broken.worse)
}

func (b broken) worse() bool { return b.errs[older] == nil && b.errs[newer] != nil }

// print writes the table. As in benchstat's, a ~ stands for a difference that may be chance.
func (g *guard) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "row\tfigure\told\t\tnew\t\tnew/old\tp\tn\t\t\n")
	for _, l := range g.lines {
		fmt.Fprintf(w, "%s\t%s\t%.4g\t± %s\t%.4g\t± %s\t%s\t%.3f\t%d\t%s\t\n", l.row, l.metric,
			l.old.Center, l.old.PctRangeString(), l.new.Center, l.new.PctRangeString(),
			l.change(), l.p, l.n, l.verdict())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range g.broken {
		fmt.Fprintf(out, "%s: not measured: %s\n", b.row, b)
	}
	if len(g.others) > 0 && medianOf(g.others) > 0.03 {
		fmt.Fprintf(out, "The machine was not idle: other programs had %.0f %% of the CPUs (median).\n",
			100*medianOf(g.others))
	}
	return nil
}

func (b broken) String() string {
	old, new := b.errs[older], b.errs[newer]
	switch {
	case new == nil:
		return fmt.Sprintf("the old version says: %v", old)
	case old == nil:
		return fmt.Sprintf("WORSE, the new version says: %v", new)
	case old.Error() == new.Error():
		return fmt.Sprintf("both versions say: %v", old)
	}
	return fmt.Sprintf("the old version says: %v; the new one: %v", old, new)
}

// conclude says in a sentence what the exit status says.
func (g *guard) conclude(out io.Writer) error {
	n := 0
	for _, l := range g.lines {
		if l.worse {
			n++
		}
	}
	_, err := fmt.Fprintf(out, "%d of %d figures are worse by more than %g %%.\n", n, len(g.lines), 100*g.bound)
	return err
}

func (l *line) change() string {
	if l.p >= alpha {
		return "~"
	}
	return fmt.Sprintf("%.3f", l.ratio())
}

func (l *line) verdict() string {
	switch {
	case l.worse:
		return "WORSE"
	case l.suspicious:
		return "measured again"
	}
	return ""
}
