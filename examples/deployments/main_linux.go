package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 && isTool(os.Args[1]) {
		if err := tool(os.Args[1:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	before := flag.String("before", "", "measure this commit too")
	rounds := flag.Int("rounds", 3, "how often each place is run; the figures are medians")
	seconds := flag.Float64("seconds", 0.5, "for how long the client makes requests")
	flag.Parse()
	if err := run(*before, *rounds, *seconds, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// run runs places, and prints a table.
func run(before string, rounds int, seconds float64, files []string) error {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return err
	}
	root := filepath.Dir(strings.TrimSpace(string(module)))
	here := filepath.Join(root, "examples/deployments")
	if len(files) == 0 {
		if files, err = filepath.Glob(filepath.Join(here, "places/[0-9]*.sh")); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("/var/tmp", "ctnet-deployments-") // not /tmp, which places hide
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(dir, here); err != nil {
		return err
	}
	ways := []way{{name: "now", peer: filepath.Join(dir, "peer")}, {name: "kernel", peer: filepath.Join(dir, "peer"), env: "CTNET_KERNEL_ONLY=1"}}
	if before != "" {
		peer, err := buildBefore(dir, root, before)
		if err != nil {
			return err
		}
		ways = append(ways, way{name: "before", peer: peer})
	}
	fmt.Println("| place | before | now | why | requests/s before | now | kernel's socket |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, file := range files {
		p, err := readPlace(file)
		if err != nil {
			return err
		}
		results := make(map[string]result)
		rates := make(map[string][]float64)
		for range rounds {
			for _, w := range ways {
				r, err := p.run(filepath.Join(dir, "tool"), w, seconds)
				if err != nil {
					return err
				}
				results[w.name] = r
				rates[w.name] = append(rates[w.name], r.rate)
			}
		}
		rate := func(way string) string {
			all := rates[way]
			if slices.Sort(all); len(all) == 0 || all[len(all)/2] == 0 || way == "kernel" && results[way].way != way {
				return "-" // on network ct there is no other way
			}
			return fmt.Sprintf("%.0f", all[len(all)/2])
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", p.name, results["before"].way, results["now"].way, results["now"].why,
			rate("before"), rate("now"), rate("kernel"))
	}
	return nil
}

// build builds the peer and the tool into dir. They run without any library, so also in a root
// directory of their own.
func build(dir, here string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := goBuild(here, filepath.Join(dir, "tool"), "."); err != nil {
		return err
	}
	return goBuild(here, filepath.Join(dir, "peer"), "./peer")
}

func goBuild(in, out, what string) error {
	cmd := exec.Command("go", "build", "-o", out, what)
	cmd.Dir = in
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// buildBefore builds the peer with the ctnet of an earlier commit, which does not say why.
func buildBefore(dir, root, commit string) (peer string, err error) {
	tree := filepath.Join(dir, "before")
	at := filepath.Join(tree, "examples/deployments/peer")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", err
	}
	archive := exec.Command("sh", "-c", `git archive "$1" | tar -x -C "$2"`, "sh", commit, tree)
	archive.Dir = root
	archive.Stderr = os.Stderr
	if err := archive.Run(); err != nil {
		return "", err
	}
	source, err := os.ReadFile(filepath.Join(root, "examples/deployments/peer/main.go"))
	if err != nil {
		return "", err
	}
	const silent = "package main\n\nimport \"cutthrough.example/ctnet\"\n\nfunc tellWhy(*ctnet.Dialer, *string) {}\n"
	for name, text := range map[string]string{"main.go": string(source), "why.go": silent} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	peer = filepath.Join(dir, "peer-before")
	return peer, goBuild(tree, peer, "./examples/deployments/peer")
}

// patience is how long a place may take, besides the client's requests.
const patience = 20 * time.Second
