package conformance

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cutthrough.example/conformance/internal/harness"
	"github.com/stretchr/testify/require"
)

// TestGettingStarted does what docs/getting-started.md tells a user to do: it writes the document's
// programs, runs its commands, and compares what is printed with what the document shows.
func TestGettingStarted(t *testing.T) {
	u := newUser(t)
	doc := u.read("docs/getting-started.md")

	scripts := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(doc, -1)
	require.Len(t, scripts, 2)
	u.sh(scripts[0][1])
	u.dir = filepath.Join(u.dir, "hello")
	programs := regexp.MustCompile("(?s)`(\\w+/main\\.go)`:\n\n```go\n(.*?)```").FindAllStringSubmatch(doc, -1)
	require.Len(t, programs, 2)
	for _, p := range programs {
		u.write(p[1], p[2])
	}
	u.sh(scripts[1][1])

	commands := []string{"bin/server", "bin/client", "bin/ctss -np", "CTNET_KERNEL_ONLY=1 bin/server"}
	for _, c := range commands {
		require.Contains(t, doc, c)
	}
	_, stopServer := u.start(commands[0])
	u.awaitServer()
	lines, stopClient := u.start(commands[1])
	require.True(t, lines.Scan())
	require.Equal(t, "hello", lines.Text())
	want := shown(t, doc, commands[2])
	var got []string
	harness.Eventually(t, func() bool { // until the connection of awaitServer is closed
		got = normal(u.sh(commands[2]))
		return len(got) == len(want)
	})
	require.Equal(t, want, got)
	url := "http://localhost:" + u.port + "/"
	plain := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := plain.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, shown(t, doc, "curl "+url), normal(string(page)))
	stopClient()
	stopServer()

	u.start(commands[3])
	u.awaitServer()
	lines, _ = u.start(commands[1])
	require.True(t, lines.Scan())
	// The line begins with the date, and ends with a name that depends on the port.
	const reason = "absent: connection refused: no ctnet listener is there; looked for "
	require.Contains(t, doc, "\n    "+reason)
	require.Contains(t, lines.Text(), " "+reason)
	require.True(t, lines.Scan())
	require.Equal(t, "hello", lines.Text())
}

// TestReadme makes two programs of the README's first code, with what it leaves out, and runs them.
func TestReadme(t *testing.T) {
	u := newUser(t)
	m := regexp.MustCompile("(?s)```go\n(// Server.*?)\n\n(// Client.*?)```").FindStringSubmatch(u.read("README.md"))
	require.NotNil(t, m)
	u.write("go.mod", "module example.com/readme\n")
	u.write("server/main.go", `package main
import ("fmt"; "log"; "net/http"; "cutthrough.example/ctnet")
func main() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, len(new(ctnet.App).Snapshot().Connections), " through shared memory")
	})
`+m[1]+"\n}\n")
	u.write("client/main.go", `package main
import ("io"; "log"; "net/http"; "os"; "cutthrough.example/ctnet")
func main() {
`+m[2]+`
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(os.Stdout, resp.Body)
}
`)
	u.sh(`go mod edit -replace cutthrough.example="$CTNET"; go mod tidy; go build -o bin/ ./...`)
	u.start("bin/server")
	u.awaitServer()
	require.Equal(t, "1 through shared memory", u.sh("bin/client"))
}

// A user reads documents and does what they say in a directory of its own. Port 8080, which may be
// taken, is another one for it.
type user struct {
	t    *testing.T
	root string // the checkout
	dir  string
	env  []string
	port string
}

func newUser(t *testing.T) *user {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer ln.Close()
	u := &user{t, root, root, append(os.Environ(),
		"CTNET="+root, "CTNET_DIR="+t.TempDir(), "COLUMNS=80",
		// What programs need is in the module cache, as the tests need it too.
		"GOPROXY=off", "GONOSUMDB=*", "GOWORK=off",
	), fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)}
	list := exec.Command("go", "list", "-deps", "./ctnet", "./cmd/ctss")
	list.Dir, list.Env = u.dir, u.env
	if out, err := list.CombinedOutput(); err != nil {
		t.Skipf("this user can't build programs: %v\n%s", err, out)
	}
	u.dir = t.TempDir()
	return u
}

// read returns a document.
func (u *user) read(name string) string {
	b, err := os.ReadFile(filepath.Join(u.root, filepath.FromSlash(name)))
	require.NoError(u.t, err)
	return strings.ReplaceAll(string(b), "8080", u.port)
}

// write writes a file.
func (u *user) write(name, text string) {
	path := filepath.Join(u.dir, filepath.FromSlash(name))
	require.NoError(u.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(u.t, os.WriteFile(path, []byte(text), 0o644))
}

// sh runs commands and returns what they print.
func (u *user) sh(commands string) string {
	cmd := exec.Command("sh", "-euc", commands)
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.CombinedOutput()
	require.NoError(u.t, err, "%s\n%s", commands, out)
	return string(out)
}

// start runs a program until stop is called or the test ends.
func (u *user) start(command string) (lines *bufio.Scanner, stop func()) {
	cmd := exec.Command("sh", "-c", strings.Replace(command, "bin/", "exec bin/", 1))
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.StdoutPipe()
	require.NoError(u.t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(u.t, cmd.Start())
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	u.t.Cleanup(stop)
	return bufio.NewScanner(out), stop
}

// awaitServer waits until somebody listens.
func (u *user) awaitServer() {
	harness.Eventually(u.t, func() bool {
		c, err := net.Dial("tcp", "localhost:"+u.port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// shown returns what a document says that a command prints.
func shown(t testing.TB, doc, command string) []string {
	_, rest, ok := strings.Cut(doc, "    $ "+command+"\n")
	require.True(t, ok, "the document does not show %q", command)
	text, _, _ := strings.Cut(rest, "\n\n")
	return normal(text)
}

// normal returns the lines of an output in an order of their own, without what differs from run to
// run: numbers, and the width of columns.
func normal(output string) []string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i, l := range lines {
		lines[i] = regexp.MustCompile(`\d+`).ReplaceAllString(strings.Join(strings.Fields(l), " "), "N")
	}
	slices.Sort(lines)
	return lines
}
