package ctnet_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"cutthrough.example/ctnet"
)

// A test with a server, a client and fake time: the hour passes at once, because every
// goroutine of the bubble waits.
func Example_synctest() {
	var t *testing.T // the parameter of a test function
	testSlowServer(t)
}

func testSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, err := ctnet.Listen("ct", "svc/slow")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			fmt.Fprint(w, "done")
		})}
		go server.Serve(ln)
		defer server.Close()

		transport := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return ctnet.DialContext(ctx, "ct", "svc/slow")
			},
		}
		defer transport.CloseIdleConnections()
		start := time.Now()

		client := &http.Client{Transport: transport, Timeout: 2 * time.Hour}
		resp, err := client.Get("http://slow/")
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		resp.Body.Close()
		if line != "done" || err != io.EOF || time.Since(start) != time.Hour {
			t.Errorf("got %q, %v after %v", line, err, time.Since(start))
		}

		client.Timeout = time.Minute
		if _, err := client.Get("http://slow/"); err == nil || time.Since(start) != time.Hour+time.Minute {
			t.Errorf("no timeout after a minute: %v after %v", err, time.Since(start))
		}
		time.Sleep(time.Hour) // the handler ends meanwhile
	})
}
