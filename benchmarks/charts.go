//go:build linux

package main

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A chart has a line for each transport.
type chart struct {
	name   string
	title  string
	x, y   string // what the axes show
	xTicks []plot.Tick
	logX   bool
	rising bool // the lines, so that there is room in the upper left
	points func(v view, transport string) plotter.XYs
}

var charts = []chart{
	{
		name:   "throughput",
		title:  "One stream: throughput against the size of writes",
		x:      "bytes a write",
		y:      "GB/s",
		logX:   true,
		xTicks: sizeTicks(),
		rising: true,
		points: func(v view, transport string) (xys plotter.XYs) {
			for name, size := range sizeOf {
				xys = append(xys, plotter.XY{X: float64(size), Y: v.median(name, transport, "gbs")})
			}
			return xys
		},
	},
	{
		name:   "latency",
		title:  "64 B round trip: distribution of latency",
		x:      "percentile",
		y:      "us",
		xTicks: percentileTicks(),
		rising: true,
		points: latencies,
	},
	{
		name:   "cost",
		title:  "64 B round trips: CPU of both processes per operation",
		x:      "connections, all active",
		y:      "CPU us",
		logX:   true,
		xTicks: countTicks(1, 8, 64, 1000),
		points: func(v view, transport string) (xys plotter.XYs) {
			for name, n := range map[string]int{"rtt": 1, "conns-8": 8, "conns-64": 64, "conns-1000": 1000} {
				xys = append(xys, plotter.XY{X: float64(n), Y: v.median(name, transport, "cpu")})
			}
			return xys
		},
	},
	{
		name:   "scale",
		title:  "64 B round trips on 1 % of the connections: CPU of both processes per operation",
		x:      "connections",
		y:      "CPU us",
		logX:   true,
		xTicks: countTicks(scaleOf...),
		points: func(v view, transport string) (xys plotter.XYs) {
			for _, n := range scaleOf {
				xys = append(xys, plotter.XY{X: float64(n), Y: v.median(fmt.Sprint("scale-", n), transport, "cpu")})
			}
			return xys
		},
	},
}

// latencies is the median of the rounds at each percentile.
func latencies(v view, transport string) (xys plotter.XYs) {
	var curves [][]float64
	for i := range v.r.Records {
		rec := &v.r.Records[i]
		if rec.Workload == "rtt" && rec.Transport == transport && v.has(rec) && len(rec.Curve) == len(curvePercentiles) {
			curves = append(curves, rec.Curve)
		}
	}
	for i, p := range curvePercentiles {
		var all []float64
		for _, c := range curves {
			all = append(all, c[i])
		}
		// Beyond this there are too few operations in a round.
		if p <= 99.99 {
			xys = append(xys, plotter.XY{X: nines(p), Y: median(all)})
		}
	}
	return xys
}

// nines maps percentiles to a scale on which 90, 99 and 99.9 are equally far from
// each other.
func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

func percentileTicks() (ticks []plot.Tick) {
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		ticks = append(ticks, plot.Tick{Value: nines(p), Label: fmt.Sprint(p)})
	}
	return ticks
}

func sizeTicks() (ticks []plot.Tick) {
	for n := 64; n <= 4<<20; n *= 4 {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: bytesText(n)})
	}
	return ticks
}

func countTicks(counts ...int) (ticks []plot.Tick) {
	for _, n := range counts {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: fmt.Sprint(n)})
	}
	return ticks
}

// A style tells a transport's line from others, the same in all charts.
type style struct {
	color  color.RGBA
	dashes []vg.Length
}

var styles = map[string]style{
	tcp:    {color: color.RGBA{0x80, 0x80, 0x80, 0xff}},
	unixes: {color: color.RGBA{0xc8, 0x70, 0x10, 0xff}},
	ct:     {color: color.RGBA{0x10, 0x50, 0xc0, 0xff}},
	ctTCP:  {color: color.RGBA{0x50, 0xa0, 0xf0, 0xff}, dashes: []vg.Length{6, 3}},
	shm:    {color: color.RGBA{0x20, 0x90, 0x40, 0xff}},
	cRing:  {color: color.RGBA{0, 0, 0, 0xff}, dashes: []vg.Length{2, 2}},
}

// draw makes the charts, of each placement its own.
func (r *report) draw(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, v := range r.views() {
		for _, c := range charts {
			p, err := c.plot(v)
			if err != nil {
				return err
			}
			if p == nil {
				continue
			}
			name := c.name + "-" + strings.ReplaceAll(strings.ToLower(string(v.p)), " ", "-") + ".svg"
			if err := writeSVG(p, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// plot returns nil if there is nothing to show.
func (c chart) plot(v view) (*plot.Plot, error) {
	p := plot.New()
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, s := range []*font.Font{
		&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		size := s.Size
		*s = sans
		s.Size = size
	}
	p.Title.Text = fmt.Sprintf("%s\n%s, CPUs: %s (%.2f us)", c.title, v.r.Machine.CPU, v.p, v.trip())
	p.X.Label.Text, p.Y.Label.Text = c.x, c.y
	p.X.Tick.Marker = plot.ConstantTicks(c.xTicks)
	if c.logX {
		p.X.Scale = plot.LogScale{}
	}
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = decades{}
	p.Legend.Top = true
	p.Legend.Left = c.rising
	p.Legend.XOffs, p.Legend.YOffs = -8, -4
	if c.rising {
		p.Legend.XOffs = 8
	}
	p.Add(plotter.NewGrid())
	lines := 0
	for _, name := range append(slices.Clone(between), cRing) {
		xys := slices.DeleteFunc(c.points(v, name), func(xy plotter.XY) bool {
			return math.IsNaN(xy.Y) || xy.Y <= 0
		})
		if len(xys) < 2 {
			continue
		}
		slices.SortFunc(xys, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
		line, points, err := plotter.NewLinePoints(xys)
		if err != nil {
			return nil, err
		}
		line.Color, line.Dashes, line.Width = styles[name].color, styles[name].dashes, 1.5
		points.Color, points.Shape, points.Radius = line.Color, draw.CircleGlyph{}, 2
		p.Add(line, points)
		p.Legend.Add(name, line, points)
		lines++
	}
	if lines == 0 {
		return nil, nil
	}
	// Whole decades, so that there are labels, and room for the legend.
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(p.Y.Min)))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(p.Y.Max*2)))
	return p, nil
}

// decades are ticks at each power of ten and, unlabelled, between them.
type decades struct{}

func (decades) Ticks(lo, hi float64) (ticks []plot.Tick) {
	for d := math.Pow(10, math.Round(math.Log10(lo))); d <= hi*1.001; d *= 10 {
		ticks = append(ticks, plot.Tick{Value: d, Label: fmt.Sprintf("%.6g", d)})
		for i := 2.0; i < 10 && d*i < hi; i++ {
			ticks = append(ticks, plot.Tick{Value: d * i})
		}
	}
	return ticks
}

func writeSVG(p *plot.Plot, path string) error {
	c := vgsvg.New(7*vg.Inch, 4.5*vg.Inch)
	p.Draw(draw.New(c))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
