package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

var errTheirs = errors.New("not of the connection")

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errTheirs }
func (failing) Write([]byte) (int, error) { return 0, errTheirs }

// zeros is a reader of zeros.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// describe returns an error without what is different each time: what it is and what is in it.
func describe(err error, addresses *strings.Replacer) string {
	var chain []string
	for e := err; e != nil; e = errors.Unwrap(e) {
		s := fmt.Sprintf("%T", e)
		if op, ok := e.(*net.OpError); ok {
			s = fmt.Sprintf("%s %s %s %v %v", s, op.Op, op.Net, op.Source, op.Addr)
		}
		chain = append(chain, s)
	}
	return addresses.Replace(fmt.Sprintf("%v: %s", err, strings.Join(chain, ", ")))
}

// errorsOf returns the errors that the calls of a connection have, by the call's name.
func errorsOf(t *testing.T, ln net.Listener, c, s net.Conn) map[string]string {
	addresses := strings.NewReplacer(c.LocalAddr().String(), "CLIENT", c.RemoteAddr().String(), "SERVER")
	if c.LocalAddr().Network() == "unix" {
		addresses = strings.NewReplacer(ln.Addr().String(), "SERVER")
	}
	found := make(map[string]string)
	note := func(name string, err error) {
		require.Error(t, err, name)
		found[name] = describe(err, addresses)
	}
	readFrom := func(r io.Reader) error {
		_, err := io.Copy(c, r)
		return err
	}
	writeTo := func(w io.Writer) error {
		_, err := io.Copy(w, c)
		return err
	}
	note("reader's", readFrom(failing{}))
	_, err := s.Write([]byte("x"))
	require.NoError(t, err)
	note("writer's", writeTo(failing{}))

	for _, end := range []struct {
		name string
		net.Conn
	}{{"client", c}, {"server", s}} {
		require.NoError(t, end.SetDeadline(time.Unix(1, 0)))
		_, err := end.Read(make([]byte, 1))
		note(end.name+" reads too late", err)
		_, err = end.Write(make([]byte, 1))
		note(end.name+" writes too late", err)
	}
	note("copies to it too late", readFrom(zeros{}))
	note("copies from it too late", writeTo(io.Discard))
	require.NoError(t, c.Close())
	note("copies to it after Close", readFrom(zeros{}))
	note("copies from it after Close", writeTo(io.Discard))
	note("Close", c.Close())
	note("SetDeadline", c.SetDeadline(time.Time{}))
	require.NoError(t, s.Close())
	require.NoError(t, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(1, 0)))
	_, err = ln.Accept()
	note("Accept too late", err)
	require.NoError(t, ln.Close())
	_, err = ln.Accept()
	note("Accept after Close", err)
	return found
}

// TestErrorsLikeNet compares the errors of calls with package net's: their types, all that is in
// them, and their texts. "tcp4" is in them if the program has said so.
func TestErrorsLikeNet(t *testing.T) {
	for _, networks := range []struct{ listen, dial, address string }{
		{"tcp", "tcp", "127.0.0.1:0"},
		{"tcp", "tcp4", "127.0.0.1:0"},
		{"tcp4", "tcp", "127.0.0.1:0"},
		{"tcp4", "tcp4", "127.0.0.1:0"},
		{"tcp6", "tcp6", "[::1]:0"},
		{"unix", "unix", "/s"},
	} {
		if networks.listen == "tcp6" && !nettest.SupportsIPv6() {
			continue
		}
		t.Run(networks.listen+" "+networks.dial, func(t *testing.T) {
			address := func() string {
				if networks.listen == "unix" {
					return t.TempDir() + networks.address
				}
				return networks.address
			}
			ln, err := net.Listen(networks.listen, address())
			require.NoError(t, err)
			defer ln.Close()
			c, err := net.Dial(networks.dial, ln.Addr().String())
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			want := errorsOf(t, ln, c, s)
			inBoth(t, func(t *testing.T, server, client *ctnet.App) {
				lc := ctnet.ListenConfig{App: server}
				ln, err := lc.Listen(t.Context(), networks.listen, address())
				require.NoError(t, err)
				defer ln.Close()
				d := ctnet.Dialer{App: client, Path: ctnet.CutThrough}
				c, err := d.Dial(networks.dial, ln.Addr().String())
				require.NoError(t, err)
				s, err := ln.Accept()
				require.NoError(t, err)
				require.Equal(t, want, errorsOf(t, ln, c, s))
			})
		})
	}
}
