package conformance

import (
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// arrows are the packages of this module that each package may import, as docs/design.md draws
// them. Go itself forbids only cycles.
var arrows = map[string][]string{
	"ctnet":               {"internal/hostnet", "internal/pair", "internal/pcapng", "internal/rendezvous", "internal/ring", "internal/segpool", "internal/standin", "internal/stream", "internal/syserr", "internal/tap", "internal/wait"},
	"ctnet/ctdebug":       {"ctnet", "internal/hostnet", "internal/rendezvous"},
	"ctnet/ctexpvar":      {"ctnet", "internal/metrics"},
	"internal/asuser":     nil,
	"internal/foreign":    nil,
	"internal/hostnet":    nil,
	"internal/leakcheck":  nil,
	"internal/metrics":    {"ctnet"},
	"internal/pair":       {"internal/foreign", "internal/rendezvous", "internal/sched", "internal/segpool", "internal/stream", "internal/syserr", "internal/tap"},
	"internal/packets":    nil,
	"internal/pattern":    nil,
	"internal/pcapng":     nil,
	"internal/rawpacket":  nil,
	"internal/rendezvous": {"internal/foreign", "internal/hostnet", "internal/syserr"},
	"internal/ring":       nil,
	"internal/sched":      nil,
	"internal/segpool":    {"internal/ring"},
	"internal/standin":    nil,
	"internal/stream":     {"internal/ring", "internal/sched", "internal/standin", "internal/syserr", "internal/tap", "internal/wait"},
	"internal/syserr":     nil,
	"internal/tap":        nil,
	"internal/wait":       nil,
}

// TestPackages makes sure that there are no other arrows, on any system, and that ctnet
// loads and stores no shared memory: it does not import unsafe.
func TestPackages(t *testing.T) {
	const module = "cutthrough.example/"
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	dirs, err := os.ReadDir(filepath.Join(root, "internal"))
	require.NoError(t, err)
	for _, d := range dirs {
		require.Contains(t, arrows, "internal/"+d.Name(), "it belongs into the table")
	}
	for name, allowed := range arrows {
		for _, system := range []string{"linux", "darwin", "windows"} {
			c := build.Default
			c.GOOS = system
			c.CgoEnabled = false
			p, err := c.ImportDir(filepath.Join(root, name), 0)
			if _, none := err.(*build.NoGoError); none && system != "linux" {
				continue // it is for Linux only
			}
			require.NoError(t, err)
			for _, i := range p.Imports {
				if to, ok := strings.CutPrefix(i, module); ok && !slices.Contains(allowed, to) {
					t.Errorf("%s imports %s on %s", name, to, system)
				}
				if i == "expvar" && name != "ctnet/ctexpvar" {
					t.Errorf("%s imports expvar on %s, which serves /debug/vars", name, system)
				}
				if i == "unsafe" && (name == "ctnet" || name == "ctnet/ctdebug" || name == "internal/stream" || name == "internal/rendezvous") {
					t.Errorf("%s imports unsafe on %s", name, system)
				}
			}
		}
	}
}
