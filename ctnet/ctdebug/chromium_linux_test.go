package ctdebug

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/leakcheck"
)

// A browser is a page in a headless Chromium, which it drives over the DevTools protocol: on two
// pipes, messages that end with NUL.
type browser struct {
	t       testing.TB
	out     *os.File
	session string

	mu      sync.Mutex
	number  int
	answers map[int]chan answer
	events  []happening // all so far
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

type happening struct {
	Method string
	Params json.RawMessage
}

// findChromium returns the path of a Chromium, or skips the test.
func findChromium(t testing.TB) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no Chromium here: the page is not tested in a browser")
	return ""
}

// startBrowser starts a Chromium with an empty page. It ends with the test.
func startBrowser(t testing.TB) *browser {
	path := findChromium(t)
	toRead, out, err := os.Pipe()
	require.NoError(t, err)
	in, toWrite, err := os.Pipe()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "chromium")
	require.NoError(t, err)
	cmd := exec.Command(path, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--font-render-hinting=none",
		"--user-data-dir="+dir, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.ExtraFiles = []*os.File{toRead, toWrite} // descriptors 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	toRead.Close()
	toWrite.Close()
	b := &browser{t: t, out: out, answers: make(map[int]chan answer)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.read(bufio.NewReaderSize(in, 1<<20))
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		out.Close()
		<-done
		in.Close()
		for end := time.Now().Add(leakcheck.Patience); os.RemoveAll(dir) != nil && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // its other processes end
		}
	})

	var targets struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	b.call("Target.getTargets", nil, &targets)
	for _, target := range targets.TargetInfos {
		if target.Type == "page" {
			var attached struct{ SessionID string }
			b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
			b.session = attached.SessionID
		}
	}
	require.NotEmpty(t, b.session, "Chromium has no page")
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read takes messages until Chromium's end.
func (b *browser) read(in *bufio.Reader) {
	for {
		line, err := in.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, c := range b.answers {
				close(c)
			}
			b.answers = nil
			return
		}
		var m struct {
			ID int
			answer
			happening
		}
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if c := b.answers[m.ID]; c != nil {
			delete(b.answers, m.ID)
			c <- m.answer
		} else if m.Method != "Network.eventSourceMessageReceived" && m.Method != "Network.dataReceived" {
			b.events = append(b.events, m.happening)
		}
		b.mu.Unlock()
	}
}

// try calls a method of the protocol.
func (b *browser) try(method string, params, result any) error {
	c := make(chan answer, 1)
	b.mu.Lock()
	if b.answers == nil {
		b.mu.Unlock()
		return errors.New("Chromium has ended")
	}
	b.number++
	b.answers[b.number] = c
	m := map[string]any{"id": b.number, "method": method}
	b.mu.Unlock()
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := b.out.Write(append(data, 0)); err != nil {
		return err
	}
	select {
	case a, ok := <-c:
		switch {
		case !ok:
			return errors.New("Chromium has ended")
		case a.Error != nil:
			return fmt.Errorf("%s: %s", method, a.Error.Message)
		case result != nil:
			return json.Unmarshal(a.Result, result)
		}
		return nil
	case <-time.After(6 * leakcheck.Patience):
		return fmt.Errorf("%s: Chromium does not answer", method)
	}
}

func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	require.NoError(b.t, b.try(method, params, result))
}

// eval returns the value of a JavaScript expression, after its promise.
func eval[T any](b *browser, expression string) (value T) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if e := r.ExceptionDetails; e != nil {
		require.Fail(b.t, e.Text+" "+e.Exception.Description, expression)
	}
	if r.Result.Value != nil {
		require.NoError(b.t, json.Unmarshal(r.Result.Value, &value), expression)
	}
	return value
}

// await waits until a JavaScript expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	for end := time.Now().Add(3 * leakcheck.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if eval[bool](b, "Boolean("+expression+")") {
			return
		}
	}
	require.Fail(b.t, "it did not become true", expression)
}

// size sets the page's size in CSS pixels.
func (b *browser) size(width, height int, mobile bool) {
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}, nil)
}

// colours sets what prefers-color-scheme is.
func (b *browser) colours(scheme string) {
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// picture returns what the page shows, as a PNG.
func (b *browser) picture() []byte {
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	data, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(b.t, err)
	return data
}

// happened returns the events of a method so far.
func (b *browser) happened(method string) (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Method == method {
			all = append(all, string(e.Params))
		}
	}
	return all
}
