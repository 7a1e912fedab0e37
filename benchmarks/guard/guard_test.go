//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A machine makes samples: figures of 100 units, with noise.
type machine struct {
	*rand.Rand
	noise  float64
	slower map[row]float64 // by which factor the new version has less
	took   []side
}

func newMachine(seed uint64) *machine {
	return &machine{Rand: rand.New(rand.NewPCG(seed, 1)), noise: 0.05, slower: make(map[row]float64)}
}

func (m *machine) take(_ context.Context, s side, r row) (sample, error) {
	m.took = append(m.took, s)
	x := 100 * (1 + m.noise*m.NormFloat64())
	if f, ok := m.slower[r]; ok && s == newer {
		x *= f
	}
	return sample{Placement: "one L3", Metrics: map[string]float64{"ops": x}}, nil
}

func rowsNamed(n int) (all []row) {
	for i := range n {
		all = append(all, row{fmt.Sprint("row-", i), "ct"})
	}
	return all
}

// judge lets a guard compare some rows on a machine.
func judge(t *testing.T, m *machine, bound float64, rows []row) *guard {
	t.Helper()
	g := &guard{rounds: 8, bound: bound, take: m.take, log: func(string, ...any) {}}
	if err := g.run(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestFalseAlarms: where nothing has changed, at most one run in twenty may say that something has,
// even with the strictest bound.
func TestFalseAlarms(t *testing.T) {
	for _, test := range []struct {
		name   string
		bound  float64
		slower float64
	}{
		{"equal, bound 0", 0, 1},
		{"equal, bound 3 %", 0.03, 1},
		{"as much worse as the bound allows", 0.03, 0.97},
	} {
		t.Run(test.name, func(t *testing.T) {
			const runs = 1000
			rows := rowsNamed(20)
			alarms, suspects := 0, 0
			for seed := range uint64(runs) {
				m := newMachine(seed)
				for _, r := range rows {
					m.slower[r] = test.slower
				}
				g := judge(t, m, test.bound, rows)
				if g.worse() {
					alarms++
				}
				for _, l := range g.lines {
					if l.suspicious {
						suspects++
					}
				}
			}
			t.Logf("%d alarms in %d runs of %d rows; %d rows looked worse at first", alarms, runs, len(rows), suspects)
			if alarms > runs*alpha {
				t.Errorf("%d false alarms in %d runs", alarms, runs)
			}
			if suspects == 0 {
				t.Error("nothing ever looked worse, so this shows nothing")
			}
		})
	}
}

// TestFound: of a row that is worse by 10 %, in noise of 5 %, and of no other.
func TestFound(t *testing.T) {
	const runs = 200
	rows := rowsNamed(20)
	missed, wrong := 0, 0
	for seed := range uint64(runs) {
		m := newMachine(seed)
		m.slower[rows[7]] = 0.9
		for _, l := range judge(t, m, 0.03, rows).lines {
			switch {
			case l.row == rows[7] && !l.worse:
				missed++
			case l.row != rows[7] && l.worse:
				wrong++
			}
		}
	}
	t.Logf("in %d runs missed %d times, %d times another row", runs, missed, wrong)
	if missed > runs/20 {
		t.Errorf("missed %d times in %d runs", missed, runs)
	}
	if wrong > runs/20 {
		t.Errorf("%d times another row in %d runs", wrong, runs)
	}
}

// TestBetterIsNoAlarm, however much.
func TestBetterIsNoAlarm(t *testing.T) {
	m, rows := newMachine(1), rowsNamed(3)
	m.slower[rows[1]] = 1.5
	g := judge(t, m, 0.03, rows)
	if g.worse() {
		t.Error("a row that is faster is an alarm")
	}
	if l := g.lines[1]; l.change() == "~" {
		t.Errorf("the difference is not significant: p is %v", l.p)
	}
}

// TestBound: a difference that is certain, and smaller than the bound.
func TestBound(t *testing.T) {
	m, rows := newMachine(1), rowsNamed(1)
	m.noise = 0.001
	m.slower[rows[0]] = 0.98
	if g := judge(t, m, 0.03, rows); g.worse() {
		t.Error("2 % are worse than 3 %")
	}
	if g := judge(t, m, 0.01, rows); !g.worse() {
		t.Error("2 % are no worse than 1 %")
	}
}

// TestTurns: old, new, new, old, and the samples that chose a row do not count.
func TestTurns(t *testing.T) {
	m, rows := newMachine(1), rowsNamed(2)
	m.noise = 0
	judge(t, m, 0.03, rows)
	if len(m.took) != 2*2*8 {
		t.Fatalf("%d samples of two rows that are the same", len(m.took))
	}
	for i, s := range m.took {
		if want := []side{older, newer, newer, older}[i%4]; s != want {
			t.Fatalf("sample %d is of the %s version: %v", i, s, m.took)
		}
	}

	m = newMachine(1)
	n := 0
	first := func(ctx context.Context, s side, r row) (sample, error) {
		// Worse in the first samples, and not any more.
		n++
		one, err := m.take(ctx, s, r)
		if n <= 2*8 && s == newer {
			one.Metrics["ops"] /= 2
		}
		return one, err
	}
	g := &guard{rounds: 8, bound: 0.03, take: first, log: t.Logf}
	if err := g.run(t.Context(), rowsNamed(1)); err != nil {
		t.Fatal(err)
	}
	if n != 2*8*(1+again) {
		t.Errorf("%d samples, want %d", n, 2*8*(1+again))
	}
	if l := g.lines[0]; g.worse() || !l.suspicious || l.n != again*8 {
		t.Errorf("the first samples count: %+v", l)
	}
}

// TestPlacement: only samples with the CPUs at the same places are compared.
func TestPlacement(t *testing.T) {
	m := newMachine(1)
	n := 0
	g := &guard{rounds: 8, bound: 0.03, log: t.Logf, take: func(ctx context.Context, s side, r row) (sample, error) {
		one, err := m.take(ctx, s, r)
		// The old version has most of its samples near, the new one far.
		if n++; n%3 == int(s) {
			one.Placement = "different L3s"
			one.Metrics["ops"] /= 3
		}
		if n%5 == 0 {
			one.Dropped = true
			one.Metrics["ops"] /= 30
		}
		return one, err
	}}
	if err := g.run(t.Context(), rowsNamed(1)); err != nil {
		t.Fatal(err)
	}
	if l := g.lines[0]; g.worse() || l.n < 8 || l.old.Center < 90 || l.new.Center < 90 {
		t.Errorf("samples of different placements are compared: %+v", l)
	}

	for name, spoil := range map[string]func(*sample, side){
		"never at the same places": func(one *sample, s side) { one.Placement = s.String() },
		"always moved":             func(one *sample, s side) { one.Dropped = s == newer },
	} {
		n = 0
		g = &guard{rounds: 8, log: t.Logf, take: func(ctx context.Context, s side, r row) (sample, error) {
			n++
			one, err := m.take(ctx, s, r)
			spoil(&one, s)
			return one, err
		}}
		if err := g.run(t.Context(), rowsNamed(1)); err != nil {
			t.Fatal(err)
		}
		if n != 2*2*8 || len(g.lines) != 0 || len(g.broken) != 1 || g.worse() {
			t.Errorf("%s: %d samples, lines %v, broken %v", name, n, g.lines, g.broken)
		}
	}
}

// TestBroken: a row that fails with the new version only is worse.
func TestBroken(t *testing.T) {
	failed := errors.New("the echo is not the message")
	for _, test := range []struct {
		errs  [2]error
		worse bool
		says  string
	}{
		{[2]error{nil, failed}, true, "WORSE, the new version says: the echo"},
		{[2]error{failed, nil}, false, "the old version says: the echo"},
		{[2]error{failed, failed}, false, "both versions say: the echo"},
	} {
		g := &guard{rounds: 8, log: t.Logf, take: func(_ context.Context, s side, _ row) (sample, error) {
			return sample{}, test.errs[s]
		}}
		if err := g.run(t.Context(), rowsNamed(1)); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := g.print(&out); err != nil {
			t.Fatal(err)
		}
		if g.worse() != test.worse || !strings.Contains(out.String(), test.says) {
			t.Errorf("%v: worse is %v\n%s", test.errs, g.worse(), &out)
		}
	}
}

func TestHolm(t *testing.T) {
	for _, test := range []struct {
		p    []float64
		want []bool
	}{
		{nil, []bool{}},
		{[]float64{0.04}, []bool{true}},
		{[]float64{0.04, 0.04}, []bool{false, false}},
		{[]float64{0.04, 0.02}, []bool{true, true}},
		{[]float64{0.03, 0.01, 0.03}, []bool{false, true, false}},
		{[]float64{0.2, 0.001, 0.02}, []bool{false, true, true}},
	} {
		if got := holm(test.p); !slices.Equal(got, test.want) {
			t.Errorf("of %v rejected %v, want %v", test.p, got, test.want)
		}
	}
}

func TestWorseBy(t *testing.T) {
	times := func(x float64) (all []float64) {
		for i := range 8 {
			all = append(all, x+float64(i)/1000)
		}
		return all
	}
	for _, test := range []struct {
		old, new float64
		higher   bool
		bound    float64
		worse    bool
	}{
		{100, 104, false, 0.03, true},
		{100, 102, false, 0.03, false},
		{100, 96, true, 0.03, true},
		{100, 98, true, 0.03, false},
		{100, 50, false, 0.03, false},
		{100, 150, true, 0.03, false},
	} {
		if p := worseBy(times(test.old), times(test.new), test.higher, test.bound); (p < 0.01) != test.worse {
			t.Errorf("%+v: p is %v", test, p)
		}
	}
	// Counts are the same in all samples.
	four, six := []float64{4, 4, 4, 4}, []float64{6, 6, 6, 6}
	if p := worseBy(four, four, false, 0); p < 1 {
		t.Errorf("equal counts: p is %v", p)
	}
	if p := worseBy(four, six, false, 0.03); p > 0.05 {
		t.Errorf("two goroutines more: p is %v", p)
	}
}

func TestCompared(t *testing.T) {
	busy := sample{Metrics: map[string]float64{"busy": 1, "cpu": 1, "p999": 1}}
	idle := sample{Metrics: map[string]float64{"busy": 1}}
	if compared("busy", busy) || !compared("busy", idle) || compared("p999", busy) || !compared("cpu", busy) {
		t.Error("the figures are not the right ones")
	}
}
